"""Redis Streams in both directions."""
