"""Gaussian and Laplacian pyramids of a full-HD frame."""
