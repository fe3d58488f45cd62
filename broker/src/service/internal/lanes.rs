//! Three lanes into one port: what the cluster lives on, bytes of replicas, and calls of clients that
//! another broker passes on.
//!
//! A connection is served by the threads that took it, and which threads those should be cannot be
//! seen from HTTP/2 before it is too late. With TLS the peer says it in its handshake ([`crate::tls`]).
//! Without, a connection that is not for the control threads begins with a byte that HTTP/2 never
//! begins with ([`BULK`], [`CALLS`]); it is taken off. Either way the socket goes to the threads of
//! replication, or to those that serve clients; all others stay with the control threads.

use std::{io, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, future::ready};
use tokio::{
    io::AsyncReadExt,
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};

use super::{CONNECTIONS_MAX, Placed};
use crate::{
    peer::connect::{BULK, CALLS},
    telemetry::{Bound, Bounds, Usage},
    tls::{BULK_PROTOCOL, CALLS_PROTOCOL},
};

/// Time for the first byte of a connection.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections of one lane that wait for the partitions to be open; past it they are closed, and made
/// again.
pub const WAITING_MAX: usize = 64;

/// Where connections of one kind go.
struct Lane {
    first: u8,
    protocol: &'static [u8],
    waiting: mpsc::Sender<Placed>,
    full: Bound,
}

/// Where connections go that are not for the control threads.
pub(super) struct Lanes([Lane; 2]);

/// Gives on what is for the control threads, and hands over the rest. Whoever says nothing holds up
/// nobody.
pub(super) fn sort(
    accepted: impl Stream<Item = io::Result<Placed>>,
    lanes: Lanes,
) -> impl Stream<Item = io::Result<Placed>> {
    let lanes = Arc::new(lanes);
    accepted
        .map(move |placed| {
            let lanes = Arc::clone(&lanes);
            async move {
                let placed = placed.ok()?;
                timeout(FIRST_BYTE_TIMEOUT, lanes.hand_over(placed)).await.ok()?.ok()?.map(Ok)
            }
        })
        .buffer_unordered(CONNECTIONS_MAX)
        .filter_map(ready)
}

// === impl Lanes ===

impl Lanes {
    /// Whoever takes from `bulk` and `calls` serves them; how many wait is shown in `bounds`.
    pub(super) fn new(
        bulk: mpsc::Sender<Placed>,
        calls: mpsc::Sender<Placed>,
        bounds: &Bounds,
    ) -> Self {
        let lane = |bound, first, protocol, waiting: mpsc::Sender<Placed>| {
            let (line, limit) = (waiting.downgrade(), waiting.max_capacity());
            let full = bounds.watch(bound, move || {
                let used = line.upgrade().map_or(0, |line| limit - line.capacity());
                Usage { used: used as u64, limit: limit as u64 }
            });
            Lane { first, protocol, waiting, full }
        };
        Self([
            lane("network.internal.bulk.waiting", BULK, BULK_PROTOCOL, bulk),
            lane("network.internal.calls.waiting", CALLS, CALLS_PROTOCOL, calls),
        ])
    }

    /// `None`: it went another way.
    async fn hand_over(&self, mut placed: Placed) -> io::Result<Option<Placed>> {
        let asked = placed.get_ref().asked_for();
        let lane = match asked {
            Some(asked) => self.0.iter().find(|lane| lane.protocol == asked),
            None => {
                let mut first = [0];
                // One that was closed at once fails where it is served.
                let read = placed.get_ref().peek(&mut first).await?;
                let lane = self.0.iter().find(|lane| read == 1 && lane.first == first[0]);
                if lane.is_some() {
                    placed.read_exact(&mut first).await?;
                }
                lane
            }
        };
        let Some(lane) = lane else { return Ok(Some(placed)) };
        // Too many wait: closed. So it is where nobody serves them any more.
        if let Err(TrySendError::Full(_)) = lane.waiting.try_send(placed) {
            lane.full.hit();
        }
        Ok(None)
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
        let (calls, _calls) = mpsc::channel(1);
        let lanes = Lanes::new(waiting, calls, &bounds);
        let full = lanes.0[0].full.clone();
        let mut control = pin!(sort(accepted, lanes));
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
    async fn bulk_and_calls_go_their_own_ways_and_whoever_says_nothing_holds_up_nobody() {
        let Port { listener, made: _made, bounds } =
            Port::told(&[b"", b"Bulk", b"PRI * HTTP/2.0", b"Call"]).await;
        let accepted = accept(listener, Places::new("connections", 9, &bounds), plain);
        let (bulk, mut replicas) = mpsc::channel(1);
        let (calls, mut clients) = mpsc::channel(1);
        let mut control = pin!(sort(accepted, Lanes::new(bulk, calls, &bounds)));

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
        let mut call = tokio::select! {
            call = clients.recv() => call.unwrap(),
            _ = control.next() => panic!("nobody else has said anything"),
        };
        call.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"all");
    }
}
