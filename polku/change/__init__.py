"""What differs between two plans, part by part, and what of it cannot be changed while a pipeline runs: no I/O."""
