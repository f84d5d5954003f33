"""New middleware next to the one in use: in its shadow, or with a share of its events."""
