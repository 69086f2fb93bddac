"""Everything that can be learned of the CUDA kernels in one call on a machine with a GPU."""
