//! What the machine allows this process: asked for, and complained about, before anything runs.

use crate::{
    config::Config,
    io::{limits, real::RealDisk},
};

/// Raises what may be raised, and says what is too low.
pub(super) fn prepare(config: &Config) {
    if let Err(error) = limits::raise_open_files() {
        tracing::warn!(%error, "the number of open files could not be raised");
    }
    let network = &config.network;
    let connections = u64::from(network.max_connections) + u64::from(network.http_max_connections);
    for low in limits::Limits::read().too_low(config.topic.segment_bytes.get(), connections) {
        tracing::warn!(limit = low.what, have = low.have, want = low.want, "{}", low.advice);
    }
}

/// Says how segments in the data directory are read and written.
pub(super) fn report_mapping(disk: &RealDisk, config: &Config) {
    let dir = &config.broker.data_dir;
    match disk.mapping(dir) {
        Ok(mapping) => tracing::info!(dir = %dir.display(), ?mapping, "data directory"),
        Err(error) => tracing::warn!(dir = %dir.display(), %error, "its file system is not known"),
    }
}
