"""The AHTI wire contract."""
