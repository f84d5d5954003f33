"""Old faults, each brought back into today's code by a switch, to see that the simulation finds them."""
