"""The claim check: a large payload stays in an object store, once, and travels as a reference."""
