"""Sources of text: files that grow and are rotated, and the standard input."""
