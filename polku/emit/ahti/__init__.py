"""The emitter for AHTI, the knowledge graph."""
