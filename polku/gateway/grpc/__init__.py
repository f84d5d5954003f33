"""The gateway's gRPC services on our own HTTP/2 server.

`protocol` is gRPC over HTTP/2 without any service: `heads` and `messages` read it, `calls` is what services see of it.
`send_event`, `stream_events` and `standard` are services, and `server` opens the port.
"""
