"""Background subtraction of full-HD video."""
