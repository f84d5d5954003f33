"""The HTTP door: `POST /v1/events` and `GET /health`, with the behaviour of the gRPC door."""
