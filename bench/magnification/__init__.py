"""Eulerian magnification of a whole video."""
