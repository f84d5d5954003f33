"""The generated classes of `polku.v1`: the gateway's and the plugins' services."""
