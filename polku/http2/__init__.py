"""HTTP/2 (RFC 9113) as an asyncio protocol: frames, header blocks (RFC 7541), flow control and limits.

Nothing here knows gRPC. `connection` is the server's end of a connection; what arrives in one read is handled as one
batch, and everything that it causes leaves in one write.
"""
