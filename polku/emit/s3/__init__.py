"""The emitter for object stores."""
