//! Connections to brokers, and the only place of this crate that sees generated gRPC types. What
//! comes out are domain types and [`Error`]s.
//!
//! A broker gets at most two connections: one for data, one for control, so that a full window of
//! records never delays metadata. They are made on first use, and made again on the next use after
//! they broke: nothing here retries or waits by itself, so backing off is the caller's part and
//! there is no storm of reconnects to fear.

mod admin;
mod cluster;
mod convert;
mod fetch;
mod metadata;
mod outbox;
mod partitions;
mod produce;
mod status;

use std::{collections::HashMap, fmt, future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use riverrun_proto::limits;
use tonic::transport::{Channel, Endpoint};

pub(crate) use self::{
    admin::{NewTopic, RecordsDeletion},
    fetch::{
        FetchEvent, FetchFrom, FetchLink, FetchOutcome, FetchSetup, FetchUpdate, FetchedPartition,
    },
    metadata::{OffsetAt, OffsetQuestion},
    partitions::{PartitionQuestion, Reassigned},
    produce::{Ack, Append, Appended, ProduceEvent, ProduceLimits, ProduceLink},
};
use crate::{
    address::Address,
    config::ClientConfig,
    error::{Error, Result},
};

/// HTTP/2 pings: sent this often when nothing else is, so that a dead peer is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// A ping unanswered for this long is a dead connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Channels kept at a time: two for each of 256 brokers. Past it the unused ones are let go.
const CHANNELS_MAX: usize = 512;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Use {
    Data,
    Control,
}

/// Turns an endpoint into a channel. TCP in the product; tests bring a network in memory.
pub(crate) trait Dial: Send + Sync + 'static {
    /// Connects lazily.
    fn dial(&self, endpoint: &Endpoint) -> Channel;
}

/// Dials over TCP.
pub(crate) struct Tcp;

impl Dial for Tcp {
    fn dial(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_lazy()
    }
}

/// The connections of one client.
pub(crate) struct Connections {
    client_id: String,
    connect_timeout: Duration,
    request_timeout: Duration,
    dial: Box<dyn Dial>,
    channels: Mutex<HashMap<(Address, Use), Channel>>,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(config: &ClientConfig, dial: Box<dyn Dial>) -> Arc<Self> {
        Arc::new(Self {
            client_id: config.client_id.clone(),
            connect_timeout: config.connect_timeout,
            request_timeout: config.request_timeout,
            dial,
            channels: Mutex::new(HashMap::new()),
        })
    }

    /// The channel to a broker; no I/O happens here.
    fn channel(&self, address: &Address, for_use: Use) -> Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(address.clone(), for_use)) {
            return Ok(channel.clone());
        }
        if channels.len() >= CHANNELS_MAX {
            // Streams that are open hold their channel themselves.
            channels.clear();
        }
        let channel = self.dial.dial(&self.endpoint(address)?);
        channels.insert((address.clone(), for_use), channel.clone());
        Ok(channel)
    }

    fn endpoint(&self, address: &Address) -> Result<Endpoint> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .and_then(|endpoint| {
                endpoint.user_agent(concat!("riverrun-client/", env!("CARGO_PKG_VERSION")))
            })
            .map_err(|error| Error::invalid(format!("{address}: {error}")))?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .max_frame_size(limits::http2::MAX_FRAME_BYTES)
            .initial_stream_window_size(limits::http2::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::http2::CONNECTION_WINDOW_BYTES))
    }

    /// Awaits a call, for `request_timeout` at most.
    async fn bounded<T>(
        &self,
        address: &Address,
        what: &str,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.request_timeout, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => {
                Err(status::to_error(&status).context(format_args!("{what} at {address}")))
            }
            Err(_) => Err(Error::new(
                crate::ErrorKind::Timeout,
                format!("{what} at {address}: no answer within {:?}", self.request_timeout),
            )
            .retriable(true)
            .definite(false)),
        }
    }

    /// A request that carries its deadline, so that the broker can give up as well.
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.request_timeout);
        if let Ok(id) = self.client_id.parse() {
            request.metadata_mut().insert("x-riverrun-client-id", id);
        }
        request
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_shared_and_bounded() {
        let connections = Connections::new(&ClientConfig::default(), Box::new(Tcp));
        let at = |port: u16| Address::new("localhost", port).unwrap();
        for port in 1..=2_000 {
            connections.channel(&at(port), Use::Data).unwrap();
            connections.channel(&at(port), Use::Data).unwrap();
            connections.channel(&at(port), Use::Control).unwrap();
            assert!(connections.channels.lock().len() <= CHANNELS_MAX);
        }
    }
}
