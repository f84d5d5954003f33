"""The generated classes of `polku.event.v1`."""
