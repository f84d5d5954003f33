"""The conformance kit: a plugin called as the router would call it, and what of the contract holds."""
