"""gRPC on `polku.http2` (PROTOCOL-HTTP2.md of gRPC), as servers and clients share it: messages, status, and calls."""
