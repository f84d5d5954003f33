//! Generate the code of the plugin protocol; no protoc is needed. PROTO names the folder with the .proto files.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=PROTO");
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let proto = std::env::var("PROTO").map_or_else(|_| here.join("../../../proto"), PathBuf::from);
    let files = protox::compile(["polku/v1/plugin.proto"], [proto])?;
    tonic_build::configure().build_client(false).compile_fds(files)?;
    Ok(())
}
