"""Emitters that stream to gRPC services, and the one for other gateways."""
