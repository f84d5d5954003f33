"""The generated classes of `ahti.v1`."""
