"""Mean colours of patches, from which the pulse is estimated."""
