//! Lines between the brokers of a cluster, of which those to one of them can be made slow, without root.
//!
//! Every broker tells the others to dial a door instead of its own port, and behind the door its bytes are
//! carried on. A connection's dialler is known by the socket that its process holds, where Linux lists
//! them; so what the others say to one broker is slowed, and nothing else: not what it says, not what
//! goes between the others. The limit is of each connection by itself: heartbeats do not wait for records.
//!
//! Carried by threads of their own, so that the load does not keep them.

use std::{fmt, fs, io, net::Ipv4Addr, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::{Builder, Runtime},
    sync::watch,
    task::spawn_blocking,
    time::sleep,
};

use crate::error::{BenchError, Result};

/// Where Linux lists TCP's sockets.
const SOCKETS: &str = "/proc/net/tcp";
/// Threads that carry.
const THREADS: usize = 2;
/// Carried at once.
const CHUNK: usize = 128 * 1024;
/// The same over a slow line: far less than it carries in a second.
const CHUNK_SLOW: usize = 16 * 1024;

/// See the module. Closed when dropped.
pub struct Lines {
    ports: Vec<u16>,
    slow: watch::Sender<Option<Slow>>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

/// Whose lines are slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slow {
    process: u32,
    bytes_per_s: u64,
}

/// The two ports that a dialler's socket lies between.
#[derive(Clone, Copy, Debug)]
struct Ends {
    from: u16,
    to: u16,
}

// === impl Lines ===

impl Lines {
    /// Doors in front of these ports of this machine.
    ///
    /// # Errors
    /// It does not say whose a socket is, or has no port left.
    pub fn to(ports: &[u16]) -> Result<Self> {
        if !Path::new(SOCKETS).exists() {
            let why =
                format!("a slow line needs {SOCKETS}, to see who dials; it is of Linux alone");
            return Err(BenchError::Failed(why));
        }
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
        let runtime = runtime.map_err(BenchError::io("starting threads for lines"))?;
        let slow = watch::Sender::default();
        let mut doors = Vec::with_capacity(ports.len());
        for port in ports.iter().copied() {
            let door = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let door = door.and_then(|door| door.set_nonblocking(true).map(|()| door));
            let door = door.map_err(BenchError::io("opening a port for a line"))?;
            let told = door.local_addr().map_err(BenchError::io("asking for a port"))?.port();
            let _inside = runtime.enter();
            let door = TcpListener::from_std(door).map_err(BenchError::io("opening a line"))?;
            runtime.spawn(accept(door, told, port, slow.subscribe()));
            doors.push(told);
        }
        Ok(Self { ports: doors, slow, runtime: Some(runtime) })
    }

    /// The ports to dial instead, in the same order.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Of what others say to this process no more than so much arrives in a second, on each connection
    /// that it dialled.
    pub fn slow(&self, process: u32, bytes_per_s: u64) {
        self.slow.send_replace(Some(Slow { process, bytes_per_s }));
    }

    /// No line is slow any more.
    pub fn heal(&self) {
        self.slow.send_replace(None);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("ports", &self.ports).finish_non_exhaustive()
    }
}

async fn accept(door: TcpListener, told: u16, port: u16, slow: watch::Receiver<Option<Slow>>) {
    // It fails where there is no handle left, and with it the benchmark.
    while let Ok((dialler, from)) = door.accept().await {
        tokio::spawn(carry(dialler, Ends { from: from.port(), to: told }, port, slow.clone()));
    }
}

/// Until either end closes. A broker that does not listen is one that closes at once.
async fn carry(
    dialler: TcpStream,
    ends: Ends,
    port: u16,
    slow: watch::Receiver<Option<Slow>>,
) -> io::Result<()> {
    let dialled = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    for stream in [&dialler, &dialled] {
        stream.set_nodelay(true)?;
    }
    let (from_dialler, to_dialler) = dialler.into_split();
    let (from_dialled, to_dialled) = dialled.into_split();
    tokio::select! {
        ended = pump(from_dialler, to_dialled, None) => ended,
        ended = pump(from_dialled, to_dialler, Some((ends, slow))) => ended,
    }
}

/// Carries one way to its end; slowly, for as long as that is said of the one who dialled.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    limit: Option<(Ends, watch::Receiver<Option<Slow>>)>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let Some((ends, mut slow)) = limit else {
        while carry_chunk(&mut from, &mut to, &mut chunk).await? > 0 {}
        return Ok(());
    };
    loop {
        let said = *slow.borrow_and_update();
        let rate = match said {
            Some(said) if is_of(said.process, ends).await => Some(said.bytes_per_s.max(1)),
            _ => None,
        };
        while !slow.has_changed().unwrap_or(false) {
            let room = if rate.is_some() { CHUNK_SLOW } else { CHUNK };
            let read = tokio::select! {
                read = from.read(&mut chunk[..room]) => read?,
                // Read nothing yet: nothing is lost.
                Ok(()) = slow.changed() => {
                    slow.mark_changed();
                    continue;
                }
            };
            if read == 0 {
                return Ok(());
            }
            to.write_all(&chunk[..read]).await?;
            if let Some(rate) = rate {
                sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
            }
        }
    }
}

async fn carry_chunk(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    chunk: &mut [u8],
) -> io::Result<usize> {
    let read = from.read(chunk).await?;
    to.write_all(&chunk[..read]).await?;
    Ok(read)
}

/// Whether the socket between these ports is this process's. Much of `/proc` is read for it.
async fn is_of(process: u32, ends: Ends) -> bool {
    let look = move || socket(ends).is_some_and(|socket| holds(process, &socket));
    spawn_blocking(look).await.unwrap_or(false)
}

/// What a process that has this socket sees it as.
fn socket(ends: Ends) -> Option<String> {
    let listed = fs::read_to_string(SOCKETS).ok()?;
    let (from, to) = (format!(":{:04X}", ends.from), format!(":{:04X}", ends.to));
    listed.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()?.ends_with(&from) && fields.next()?.ends_with(&to);
        let inode = fields.nth(6)?;
        (is_it && inode != "0").then(|| format!("socket:[{inode}]"))
    })
}

fn holds(process: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .any(|file| file.as_os_str() == socket)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Longest wait for anything.
    const HANG: Duration = Duration::from_secs(60);

    /// What is said over a line between this process and itself: bytes that have come when the other
    /// end has taken all it can.
    #[tokio::test]
    async fn a_line_carries_and_is_slow_for_the_one_who_is_named_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let lines = Lines::to(&[listener.local_addr().unwrap().port()]).unwrap();
        let me = std::process::id();
        let mut dialler = TcpStream::connect(("127.0.0.1", lines.ports()[0])).await.unwrap();
        let (mut broker, _) = timeout(HANG, listener.accept()).await.unwrap().unwrap();
        let sent = vec![7; 4 * CHUNK_SLOW];
        let mut came = vec![0; sent.len()];
        let mut arrives = async |within: Duration| {
            broker.write_all(&sent).await.unwrap();
            timeout(within, dialler.read_exact(&mut came)).await.is_ok()
        };
        assert!(arrives(HANG).await);
        // So slow that nothing but the first chunk comes while the test runs; to somebody else.
        lines.slow(1, 1);
        assert!(arrives(HANG).await);
        lines.slow(me, 1);
        // What was under way may still arrive; that nothing comes can only be seen by waiting a little.
        let held_up = async { while arrives(Duration::from_millis(200)).await {} };
        timeout(HANG, held_up).await.unwrap();
        // What it says is not slowed.
        dialler.write_all(b"here").await.unwrap();
        let mut said = [0; 4];
        timeout(HANG, broker.read_exact(&mut said)).await.unwrap().unwrap();
        assert_eq!(&said, b"here");
    }
}
