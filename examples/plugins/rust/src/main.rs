//! An ingestor plugin: each line `LEVEL MESSAGE` becomes an event.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::signal::unix::{signal, SignalKind};
use tonic::{transport::Server, Request, Response, Status};

pub mod polku {
    pub mod v1 {
        tonic::include_proto!("polku.v1");
    }
    pub mod event {
        pub mod v1 {
            tonic::include_proto!("polku.event.v1");
        }
    }
}

use polku::event::v1::{Event, Severity};
use polku::v1::ingestor_plugin_server::{IngestorPlugin, IngestorPluginServer};
use polku::v1::{IngestError, IngestRequest, IngestResponse, PluginHealthResponse, PluginInfo, PluginType};

struct MyPlugin;

#[tonic::async_trait]
impl IngestorPlugin for MyPlugin {
    async fn info(&self, _: Request<()>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            name: "my-rust-plugin".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            r#type: PluginType::Ingestor.into(),
            sources: vec!["my-custom-source".into()],
            ..Default::default()
        }))
    }

    async fn health(&self, _: Request<()>) -> Result<Response<PluginHealthResponse>, Status> {
        Ok(Response::new(PluginHealthResponse { healthy: true, ..Default::default() }))
    }

    async fn ingest(&self, request: Request<IngestRequest>) -> Result<Response<IngestResponse>, Status> {
        Ok(Response::new(parse(&request.into_inner())))
    }
}

fn parse(request: &IngestRequest) -> IngestResponse {
    let mut response = IngestResponse::default();
    let mut hasher = DefaultHasher::new();
    (&request.source, &request.data).hash(&mut hasher);
    let digest = hasher.finish();
    let mut offset = 0;
    for line in request.data.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        let (level, message) = text.split_once(' ').unwrap_or((text, ""));
        match severity(level) {
            // The same bytes give the same id, so that a payload that is sent again is known by it.
            Some(severity) => response.events.push(Event {
                id: format!("{digest:016x}-{offset}"),
                event_type: "log.line".into(),
                severity: severity.into(),
                payload: message.as_bytes().to_vec(),
                ..Default::default()
            }),
            None if level.is_empty() => {}
            None => response.errors.push(IngestError {
                message: format!(
                    "{:?} is no level; begin each line with debug, info, warning, error or critical",
                    level.chars().take(20).collect::<String>()
                ),
                offset,
                ..Default::default()
            }),
        }
        offset += line.len() as i64;
    }
    response
}

fn severity(level: &str) -> Option<Severity> {
    match level.to_ascii_lowercase().as_str() {
        "debug" => Some(Severity::Debug),
        "info" => Some(Severity::Info),
        "warning" => Some(Severity::Warning),
        "error" => Some(Severity::Error),
        "critical" => Some(Severity::Critical),
        _ => None,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("POLKU_PLUGIN_ADDRESS").unwrap_or_else(|_| "127.0.0.1:9001".into());
    let service = IngestorPluginServer::new(MyPlugin)
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(usize::MAX);
    let mut stop = signal(SignalKind::terminate())?;
    eprintln!("my-rust-plugin: listening on {address}");
    Server::builder()
        .add_service(service)
        .serve_with_shutdown(address.parse()?, async move {
            stop.recv().await;
        })
        .await?;
    Ok(())
}
