"""The router's side of plugins: programs in any language that turn bytes into events, or hand events on, over gRPC."""
