//! Two lanes into one port: what the cluster lives on, and bytes of replicas.
//!
//! A connection is served by the threads that took it, and which threads those should be cannot be
//! seen from HTTP/2 before it is too late. With TLS the peer says it in its handshake ([`crate::tls`]).
//! Without, a connection for bulk begins with a byte that HTTP/2 never begins with ([`BULK`]); it is
//! taken off. Either way the socket goes to the threads of replication; all others stay with the
//! control threads.

use std::{io, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, future::ready};
use tokio::{
    io::AsyncReadExt,
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};

use super::{CONNECTIONS_MAX, Placed};
use crate::{
    peer::connect::BULK,
    telemetry::{Bound, Bounds, Usage},
};

/// Time for the first byte of a connection.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections for bulk that wait for the partitions to be open; past it they are closed, and made
/// again.
pub const BULK_WAITING_MAX: usize = 64;

/// Where bulk goes.
pub(super) struct Bulk {
    waiting: mpsc::Sender<Placed>,
    full: Bound,
}

/// Gives on what is not bulk, and hands bulk over. Whoever says nothing holds up nobody.
pub(super) fn sort(
    accepted: impl Stream<Item = io::Result<Placed>>,
    bulk: Bulk,
) -> impl Stream<Item = io::Result<Placed>> {
    let bulk = Arc::new(bulk);
    accepted
        .map(move |placed| {
            let bulk = Arc::clone(&bulk);
            async move {
                let placed = placed.ok()?;
                timeout(FIRST_BYTE_TIMEOUT, lane(placed, &bulk)).await.ok()?.ok()?.map(Ok)
            }
        })
        .buffer_unordered(CONNECTIONS_MAX)
        .filter_map(ready)
}

/// `None`: it was bulk.
async fn lane(mut placed: Placed, bulk: &Bulk) -> io::Result<Option<Placed>> {
    match placed.get_ref().asked_for_bulk() {
        Some(true) => {}
        Some(false) => return Ok(Some(placed)),
        None => {
            let mut first = [0];
            // One that was closed at once fails where it is served.
            if placed.get_ref().peek(&mut first).await? == 0 || first[0] != BULK {
                return Ok(Some(placed));
            }
            placed.read_exact(&mut first).await?;
        }
    }
    // Too many wait: closed. So it is where nobody replicates any more.
    if let Err(TrySendError::Full(_)) = bulk.waiting.try_send(placed) {
        bulk.full.hit();
    }
    Ok(None)
}

// === impl Bulk ===

impl Bulk {
    /// Whoever takes from `waiting` serves it; how many wait is shown in `bounds`.
    pub(super) fn new(waiting: mpsc::Sender<Placed>, bounds: &Bounds) -> Self {
        let (line, limit) = (waiting.downgrade(), waiting.max_capacity());
        let full = bounds.watch("network.internal.bulk.waiting", move || {
            let used = line.upgrade().map_or(0, |line| limit - line.capacity());
            Usage { used: used as u64, limit: limit as u64 }
        });
        Self { waiting, full }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        service::{
            connections::{Places, accept},
            responsive::Responsive,
            socket::Socket,
        },
        telemetry::{Bounds, ConnectionMetrics, Registry},
    };

    fn plain(stream: TcpStream) -> Socket {
        let metrics = ConnectionMetrics::register_internal(&Registry::new());
        Socket::Plain(Responsive::new(stream, FIRST_BYTE_TIMEOUT, metrics))
    }

    struct Port {
        listener: TcpListener,
        /// Connections to it, which have said something.
        made: Vec<TcpStream>,
        bounds: Bounds,
    }

    impl Port {
        async fn told(said: &[&[u8]]) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut made = Vec::new();
            for said in said {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(said).await.unwrap();
                made.push(stream);
            }
            Self { listener, made, bounds: Bounds::register(&Registry::new()) }
        }
    }

    #[tokio::test]
    async fn past_the_bound_bulk_is_closed() {
        let Port { listener, mut made, bounds } = Port::told(&[b"B", b"B"]).await;
        let accepted = accept(listener, Places::new("connections", 9, &bounds), plain);
        let (waiting, _replicas) = mpsc::channel(1);
        let bulk = Bulk::new(waiting, &bounds);
        let full = bulk.full.clone();
        let mut control = pin!(sort(accepted, bulk));
        let (mut second, mut first) = (made.pop().unwrap(), made.pop().unwrap());
        let (mut one, mut other) = ([0], [0]);
        let read = tokio::select! {
            read = first.read(&mut one) => read,
            read = second.read(&mut other) => read,
            _ = control.next() => panic!("all of it is bulk"),
        };
        assert_eq!(read.unwrap(), 0, "closed");
        assert_eq!(full.hits(), 1);
    }

    #[tokio::test]
    async fn bulk_goes_its_own_way_and_whoever_says_nothing_holds_up_nobody() {
        let Port { listener, made: _made, bounds } =
            Port::told(&[b"", b"Bulk", b"PRI * HTTP/2.0"]).await;
        let accepted = accept(listener, Places::new("connections", 9, &bounds), plain);
        let (bulk, mut replicas) = mpsc::channel(1);
        let mut control = pin!(sort(accepted, Bulk::new(bulk, &bounds)));

        let mut read = [0; 3];
        control.next().await.unwrap().unwrap().read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"PRI", "nothing of it is taken off");
        // Asked on, it takes in whatever came.
        let mut replica = tokio::select! {
            replica = replicas.recv() => replica.unwrap(),
            _ = control.next() => panic!("nobody else has said anything"),
        };
        replica.get_mut().rehome().unwrap();
        replica.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ulk", "its first byte only says what it is");
    }
}
