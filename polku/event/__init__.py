"""The event's wire contract."""
