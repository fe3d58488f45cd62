//! TLS handshakes of connections that come in: so many under way at once, each within its time.
//!
//! Each runs as a task of its own, so that neither one that is slow nor the mathematics of another
//! hold up those behind it. A connection keeps its place among the port's connections from the
//! moment it is accepted. Whoever is refused is told why: by a TLS alert, and where he speaks HTTP/2
//! without TLS, in that.

use std::{io, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, future::ready};
use rustls::{AlertDescription, Error as TlsFailure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::{
    connections::{Connection, Places},
    socket::{Socket, Tcp},
};
use crate::{
    telemetry::{Bounds, Handshake},
    tls::Security,
};

/// What a TLS connection begins with: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Time for whoever was refused to take note of it.
const LINGER: Duration = Duration::from_secs(1);

/// What is read and thrown away meanwhile.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// To whoever speaks HTTP/2 where TLS is spoken; clients show it.
const PLAINTEXT: &[u8] = b"this port speaks TLS only: connect with TLS and the CA of this cluster";

/// `INADEQUATE_SECURITY` of HTTP/2.
const INADEQUATE_SECURITY: u8 = 0xc;

/// What handshakes of a port share.
struct Shared {
    security: Security,
    turns: Places,
}

/// Secures connections as `security` says: `None` is not at all. `max` are accepted at most; how many
/// handshakes are under way is shown in `bounds` as `bound`.
pub(super) fn secure<A: Stream<Item = io::Result<Connection<Tcp>>>>(
    accepted: A,
    security: Option<Security>,
    max: usize,
    (bound, bounds): (&'static str, &Bounds),
) -> impl Stream<Item = io::Result<Connection<Socket>>> + use<A> {
    let Some(security) = security else {
        let plain = accepted.map(|connection| Ok(connection?.map(Socket::Plain)));
        return plain.left_stream();
    };
    let turns = Places::new(bound, security.handshakes_max, bounds);
    let shared = Arc::new(Shared { security, turns });
    accepted
        .map(move |connection| {
            let shared = Arc::clone(&shared);
            let shaking = tokio::spawn(async move { shared.secured(connection.ok()?).await });
            AbortOnDropHandle::new(shaking)
        })
        .buffer_unordered(max)
        .filter_map(|shaken| ready(shaken.ok().flatten().map(Ok)))
        .right_stream()
}

// === impl Shared ===

impl Shared {
    async fn secured(&self, connection: Connection<Tcp>) -> Option<Connection<Socket>> {
        let _turn = self.turns.take().await;
        connection.upgrade(async |tcp| self.shake_in_time(tcp).await.ok_or(())).await.ok()
    }

    async fn shake_in_time(&self, tcp: Tcp) -> Option<Socket> {
        let Security { credentials, handshake_timeout, .. } = &self.security;
        let metrics = credentials.metrics();
        match timeout(*handshake_timeout, self.shake(tcp)).await {
            Ok(Ok(socket)) => {
                metrics.observe(Handshake::Done);
                Some(socket)
            }
            Ok(Err((how, mut tcp))) => {
                metrics.observe(how);
                if how == Handshake::Plaintext {
                    refuse_plaintext(&mut tcp).await;
                }
                linger(&mut tcp).await;
                None
            }
            Err(_) => {
                metrics.observe(Handshake::TimedOut);
                None
            }
        }
    }

    async fn shake(&self, tcp: Tcp) -> Result<Socket, (Handshake, Tcp)> {
        let mut first = [0];
        match tcp.get_ref().peek(&mut first).await {
            Ok(1) if first[0] == TLS_HANDSHAKE => {}
            Ok(1) => return Err((Handshake::Plaintext, tcp)),
            _ => return Err((Handshake::Failed, tcp)),
        }
        let from = tcp.get_ref().peer_addr().ok();
        let acceptor = TlsAcceptor::from(self.security.credentials.server());
        match acceptor.accept(tcp).into_fallible().await {
            Ok(tls) => Ok(Socket::Tls(Box::new(tls))),
            Err((error, tcp)) => {
                let how = how_it_failed(&error);
                let from = from.map(|address| address.to_string()).unwrap_or_default();
                match how {
                    Handshake::Refused => {
                        tracing::info!(from, %error, "a TLS handshake failed: the certificate");
                    }
                    _ => tracing::debug!(from, %error, "a TLS handshake failed"),
                }
                Err((how, tcp))
            }
        }
    }
}

/// A socket closed with bytes unread resets its peer, which then never reads the alert.
async fn linger(tcp: &mut Tcp) {
    let reading = async {
        tcp.shutdown().await?;
        let mut buffer = [0; 4096];
        let mut left = LINGER_BYTES_MAX;
        loop {
            match tcp.read(&mut buffer).await? {
                read if read == 0 || read >= left => return io::Result::Ok(()),
                read => left -= read,
            }
        }
    };
    // Whoever does not take it goes without.
    let _ = timeout(LINGER, reading).await;
}

/// Empty settings, and a GOAWAY that says why.
async fn refuse_plaintext(tcp: &mut Tcp) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const LENGTH: usize = 8 + PLAINTEXT.len();
    const { assert!(LENGTH <= 255, "one byte of the length is enough") };
    let mut said = SETTINGS.to_vec();
    said.extend([0, 0, LENGTH as u8, 7, 0, 0, 0, 0, 0]);
    said.extend([0, 0, 0, 0, 0, 0, 0, INADEQUATE_SECURITY]);
    said.extend(PLAINTEXT);
    // Whoever is gone need not know.
    let _ = timeout(LINGER, tcp.write_all(&said)).await;
}

fn how_it_failed(error: &io::Error) -> Handshake {
    let failure = error.get_ref().and_then(|error| error.downcast_ref::<TlsFailure>());
    match failure {
        Some(TlsFailure::NoCertificatesPresented | TlsFailure::InvalidCertificate(_)) => {
            Handshake::Refused
        }
        // It does not believe ours.
        Some(TlsFailure::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown,
        )) => Handshake::Refused,
        _ => Handshake::Failed,
    }
}

#[cfg(test)]
#[path = "handshake_test.rs"]
mod tests;
