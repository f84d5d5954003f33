"""What sources share: the bound on what is in flight."""
