"""Tests of gRPC's messages, status and client."""
