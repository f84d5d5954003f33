"""What travels: batches of events, their receipts, and reading both without decoding."""
