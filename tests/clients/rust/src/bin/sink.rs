//! A gateway that takes everything, with tonic as its server; see ../../../test_sinks.py.
//!
//! Argument: the address. It prints "ready ADDRESS", then the id of each event as it comes. SIGTERM asks the clients to
//! leave (GOAWAY) and ends it when they have.

use std::convert::Infallible;
use std::io::Write;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use polku_client::Raw;
use tokio::net::TcpListener;
use tokio::signal::unix::{signal, SignalKind};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::StreamExt;
use tonic::body::BoxBody;
use tonic::codec::Streaming;
use tonic::codegen::{http, BoxFuture, BoxStream, Service};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

#[derive(Clone)]
struct Gateway;

impl NamedService for Gateway {
    const NAME: &'static str = "polku.v1.Gateway";
}

impl Service<http::Request<BoxBody>> for Gateway {
    type Response = http::Response<BoxBody>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<BoxBody>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(Raw).streaming(StreamEvents, request).await) })
    }
}

struct StreamEvents;

impl StreamingService<Bytes> for StreamEvents {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;
    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let answers = request.into_inner().map(|message| message.map(acknowledge));
        Box::pin(async move { Ok(Response::new(Box::pin(answers) as BoxStream<Bytes>)) })
    }
}

/// Prints the ids of a message's events and returns its Ack.
fn acknowledge(message: Bytes) -> Bytes {
    let mut ack = BytesMut::new();
    let mut ids = Vec::new();
    for payload in fields(&message, 4) {
        for event in fields(payload, 1) {
            for id in fields(event, 1) {
                ack.put_slice(&[10, id.len() as u8]); // they are shorter than 128 bytes
                ack.put_slice(id);
                ids.extend_from_slice(id);
                ids.push(b'\n');
            }
        }
    }
    let mut out = std::io::stdout().lock();
    out.write_all(&ids).and_then(|()| out.flush()).expect("nobody reads");
    ack.freeze()
}

/// Returns the contents of one field of bytes of a message.
fn fields(mut message: &[u8], number: u64) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let size = match tag & 7 {
            0 => {
                varint(&mut message);
                continue;
            }
            1 => 8,
            5 => 4,
            _ => varint(&mut message) as usize,
        };
        let (content, rest) = message.split_at(size);
        if tag >> 3 == number {
            found.push(content);
        }
        message = rest;
    }
    found
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let next = message[0];
        *message = &message[1..];
        value |= u64::from(next & 127) << shift;
        if next < 128 {
            break;
        }
    }
    value
}

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).expect("an address");
    let listener = TcpListener::bind(address).await.expect("a free address");
    println!("ready {}", listener.local_addr().expect("an address"));
    let mut terminated = signal(SignalKind::terminate()).expect("signals");
    Server::builder()
        .add_service(Gateway)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
            terminated.recv().await;
        })
        .await
        .expect("a server");
}
