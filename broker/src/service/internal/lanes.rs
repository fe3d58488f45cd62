//! Two lanes into one port: what the cluster lives on, and bytes of replicas.
//!
//! A connection is served by the threads that took it, and which threads those should be cannot be
//! seen from HTTP/2 before it is too late. So a connection for bulk begins with a byte that HTTP/2
//! never begins with ([`BULK`]); it is taken off, and the socket goes to the threads of replication.
//! All others begin with HTTP/2 at once and stay with the control threads.

use std::{io, time::Duration};

use futures::{Stream, StreamExt, future::ready};
use tokio::{io::AsyncReadExt, sync::mpsc, time::timeout};

use super::{CONNECTIONS_MAX, Placed};
use crate::peer::connect::BULK;

/// Time for the first byte of a connection.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections for bulk that wait for the partitions to be open; past it they are closed, and made
/// again.
pub const BULK_WAITING_MAX: usize = 64;

/// Gives on what is not bulk, and hands bulk over. Whoever says nothing holds up nobody.
pub(super) fn sort(
    accepted: impl Stream<Item = io::Result<Placed>>,
    bulk: mpsc::Sender<Placed>,
) -> impl Stream<Item = io::Result<Placed>> {
    accepted
        .map(move |placed| {
            let bulk = bulk.clone();
            async move {
                let placed = placed.ok()?;
                timeout(FIRST_BYTE_TIMEOUT, lane(placed, &bulk)).await.ok()?.ok()?.map(Ok)
            }
        })
        .buffer_unordered(CONNECTIONS_MAX)
        .filter_map(ready)
}

/// `None`: it was bulk.
async fn lane(mut placed: Placed, bulk: &mpsc::Sender<Placed>) -> io::Result<Option<Placed>> {
    let mut first = [0];
    // One that was closed at once fails where it is served.
    if placed.peek(&mut first).await? == 0 || first[0] != BULK {
        return Ok(Some(placed));
    }
    placed.read_exact(&mut first).await?;
    // Nobody replicates here, or too many wait: closed.
    let _ = bulk.try_send(placed);
    Ok(None)
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
        service::connections::{Places, accept},
        telemetry::{Bounds, Registry},
    };

    #[tokio::test]
    async fn bulk_goes_its_own_way_and_whoever_says_nothing_holds_up_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Bounds::register(&Registry::new());
        let accepted = accept(listener, Places::new("connections", 9, &bounds), |stream| stream);
        let (bulk, mut replicas) = mpsc::channel(1);
        let mut control = pin!(sort(accepted, bulk));

        let mut made = Vec::new();
        for said in [&b""[..], b"Bulk", b"PRI * HTTP/2.0"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            made.push(stream);
        }
        let mut read = [0; 3];
        control.next().await.unwrap().unwrap().read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"PRI", "nothing of it is taken off");
        // Asked on, it takes in whatever came.
        let mut replica = tokio::select! {
            replica = replicas.recv() => replica.unwrap().rehome().unwrap(),
            _ = control.next() => panic!("nobody else has said anything"),
        };
        replica.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ulk", "its first byte only says what it is");
    }
}
