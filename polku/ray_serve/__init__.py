"""Deployments of Ray Serve: as a destination, and in the middle of a pipeline."""
