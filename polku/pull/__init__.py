"""What sources share: the life of a consumer, and the bound on what is in flight."""
