"""Space-time convolution and pooling."""
