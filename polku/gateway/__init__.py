"""The front doors: bytes of clients in, true acknowledgements out."""
