//! Compiles the `.proto` files without protoc: protox parses, tonic-prost-build generates.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PROTOS: &[&str] = &[
    "riverrun/internal/v1/broker.proto",
    "riverrun/internal/v1/quorum.proto",
    "riverrun/internal/v1/replication.proto",
    "riverrun/v1/admin_service.proto",
    "riverrun/v1/cluster_service.proto",
    "riverrun/v1/consume_service.proto",
    "riverrun/v1/error.proto",
    "riverrun/v1/metadata_service.proto",
    "riverrun/v1/partition_service.proto",
    "riverrun/v1/produce_service.proto",
    "riverrun/v1/record.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=riverrun");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Clients are told of the public packages only.
    let mut public = descriptors.clone();
    public.file.retain(|file| !file.package().starts_with("riverrun.internal."));
    fs::write(out.join("descriptors.bin"), public.encode_to_vec())?;
    tonic_prost_build::configure()
        // Payloads are slices of the receive buffer, never copies.
        .bytes(".")
        .codec_path("crate::codec::SizedCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
