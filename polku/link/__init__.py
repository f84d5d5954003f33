"""How batches go from one part to the next: flow control, acknowledgement, and recovery, by one rule."""
