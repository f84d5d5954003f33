"""OTLP at the gateway's ports: `service` takes a request in, `grpc` and `http` speak with its clients."""
