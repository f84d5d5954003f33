//! Makes gRPC calls with tonic as its standard input says; see ../../driver.py for the lines.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polku_client::Raw;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

type Answer = (Vec<Bytes>, Result<(), Status>);

fn client(channel: &Channel, packed: bool) -> Grpc<Channel> {
    let client = Grpc::new(channel.clone()).accept_compressed(CompressionEncoding::Gzip);
    if packed {
        client.send_compressed(CompressionEncoding::Gzip)
    } else {
        client
    }
}

fn request<T>(message: T, milliseconds: u64, size: usize) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_millis(milliseconds));
    if size > 0 {
        let large = "m".repeat(size).parse().unwrap();
        request.metadata_mut().insert("x-large", large);
        let binary = MetadataValue::from_bytes(b"\x00\xff");
        request.metadata_mut().insert_bin("x-large-bin", binary);
    }
    request
}

async fn unary(channel: &Channel, words: &[&str]) -> Answer {
    let mut client = client(channel, words[2] == "1");
    if let Err(error) = client.ready().await {
        return (vec![], Err(Status::from_error(error.into())));
    }
    let request = request(unhex(words[4]), words[1].parse().unwrap(), words[3].parse().unwrap());
    match client.unary(request, words[0].parse().unwrap(), Raw).await {
        Ok(answer) => (vec![answer.into_inner()], Ok(())),
        Err(status) => (vec![], Err(status)),
    }
}

async fn stream(channel: &Channel, words: &[&str]) -> Answer {
    let mut client = client(channel, words[2] == "1");
    if let Err(error) = client.ready().await {
        return (vec![], Err(Status::from_error(error.into())));
    }
    let messages: Vec<Bytes> = words[4].split(',').map(unhex).collect();
    let (milliseconds, size) = (words[1].parse().unwrap(), words[3].parse().unwrap());
    let request = request(tokio_stream::iter(messages), milliseconds, size);
    let mut answers = vec![];
    match client.streaming(request, words[0].parse().unwrap(), Raw).await {
        Err(status) => (answers, Err(status)),
        Ok(response) => {
            let mut body = response.into_inner();
            loop {
                match body.message().await {
                    Ok(Some(answer)) => answers.push(answer),
                    Ok(None) => return (answers, Ok(())),
                    Err(status) => return (answers, Err(status)),
                }
            }
        }
    }
}

/// A call that is dropped after its first answer: tonic has no status for that.
async fn cancel(channel: &Channel, words: &[&str]) -> Answer {
    let mut client = client(channel, false);
    client.ready().await.unwrap();
    let (sender, receiver) = mpsc::channel(1);
    sender.send(unhex(words[1])).await.unwrap();
    let request = Request::new(ReceiverStream::new(receiver));
    match client.streaming(request, words[0].parse().unwrap(), Raw).await {
        Err(status) => (vec![], Err(status)),
        Ok(response) => match response.into_inner().next().await {
            Some(Ok(_)) => (vec![], Err(Status::cancelled("dropped"))),
            other => (vec![], Err(Status::unknown(format!("{other:?}")))),
        },
    }
}

/// Unary calls, so many at a time; the codes.
async fn many(channel: &Channel, words: &[&str]) -> String {
    let messages: Arc<Vec<String>> = Arc::new(words[2].split(',').map(String::from).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = vec![];
    for _ in 0..words[1].parse().unwrap() {
        let (channel, path) = (channel.clone(), words[0].to_string());
        let (messages, next) = (messages.clone(), next.clone());
        workers.push(tokio::spawn(async move {
            let mut codes = vec![];
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(message) = messages.get(place) else {
                    return codes;
                };
                let (_, result) = unary(&channel, &[&path, "20000", "0", "0", message]).await;
                codes.push((place, code(&result)));
            }
        }));
    }
    let mut codes = vec![0; messages.len()];
    for worker in workers {
        for (place, code) in worker.await.unwrap() {
            codes[place] = code;
        }
    }
    codes.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

fn code(result: &Result<(), Status>) -> i32 {
    result.as_ref().err().map_or(0, |status| status.code() as i32)
}

fn unhex(text: &str) -> Bytes {
    hex::decode(&text[1..]).unwrap().into()
}

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap();
    let mut endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    if let Ok(milliseconds) = std::env::var("KEEPALIVE_MS") {
        endpoint = endpoint
            .http2_keep_alive_interval(Duration::from_millis(milliseconds.parse().unwrap()))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
    }
    let channel = endpoint.connect_lazy();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let words: Vec<&str> = line.split(' ').collect();
        let (answers, result) = match words[0] {
            "unary" => unary(&channel, &words[1..]).await,
            "stream" => stream(&channel, &words[1..]).await,
            "cancel" => cancel(&channel, &words[1..]).await,
            _ => {
                println!("{}", many(&channel, &words[1..]).await);
                continue;
            }
        };
        let texts: Vec<String> = answers.iter().map(|answer| format!("-{}", hex::encode(answer))).collect();
        let details = result.as_ref().err().map_or("", |status| status.message());
        println!("{} {} -{}", code(&result), texts.join(","), hex::encode(details));
    }
}
