"""How many lanes and replicas a pipeline needs: the rules, what is seen of it, and the decision.

Nothing here knows Ray or a clock: who runs a pipeline looks at its statistics, asks, and does it.
"""

from polku.scaling.rules import Range, Scaling

__all__ = ["Range", "Scaling"]
