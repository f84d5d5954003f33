"""A deterministic simulation of pipelines: see `simulate`, and `World` for what it is made of."""

from polku.testing.simulation.simulate import Simulation, simulate
from polku.testing.simulation.world import World

__all__ = ["Simulation", "World", "simulate"]
