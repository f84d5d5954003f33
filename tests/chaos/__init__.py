"""A pipeline under random faults, watched by the oracle: `python -m tests.chaos --seconds 600`."""
