//! The network between the nodes of a cluster, in user space and without root: each node's internal
//! port stands behind a door, and every other node dials the door.
//!
//! A connection is between two nodes: who dialled is looked up where the kernel lists its sockets, by
//! the process that has the other end. So each direction of each link is cut, delayed and healed by
//! itself. What is cut is lost from sight, not lost: as in a network, TCP brings it after all when the
//! link heals, unless whoever waits has given up. A door is closed while its node is down, so that it
//! refuses like a machine on which nobody listens.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use crate::{
    process::free_port,
    proxy::{self, Weather},
    wait,
};

/// Where Linux lists TCP's sockets.
const SOCKETS: &str = "/proc/net/tcp";

/// How often a dialler is looked for that has just been started.
const LOOKS: usize = 5;

/// Between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// All links between nodes 1, 2, … Doors close when dropped.
#[derive(Debug)]
pub struct Links {
    paths: Arc<Paths>,
    doors: Vec<Door>,
}

/// Where others dial a node.
#[derive(Debug)]
struct Door {
    port: u16,
    node: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

/// What lies between any two nodes.
#[derive(Debug)]
struct Paths {
    nodes: usize,
    /// By node; `None`: down.
    processes: Mutex<Vec<Option<u32>>>,
    /// By who dialled and who was dialled.
    weather: Vec<watch::Sender<Weather>>,
    /// Connections made before it changed are dropped.
    generation: Vec<watch::Sender<u64>>,
    /// Looking who dials reads much of `/proc`: one at a time, and not where bytes are carried, or a
    /// storm of dials would keep them from being.
    looking: Semaphore,
}

/// Who dials.
enum Dialler {
    Node(usize),
    /// Nobody that is known yet.
    Unknown,
    /// It has closed its end already.
    Gone,
}

// === impl Links ===

impl Links {
    /// Doors, closed, in front of nodes that listen at these addresses.
    ///
    /// # Errors
    /// This machine does not say whose a socket is.
    pub fn to(nodes: &[SocketAddr]) -> Result<Self, String> {
        if !Path::new(SOCKETS).exists() {
            return Err(format!("no {SOCKETS} here to see who dials"));
        }
        let pairs = nodes.len() * nodes.len();
        let paths = Paths {
            nodes: nodes.len(),
            processes: Mutex::new(vec![None; nodes.len()]),
            weather: (0..pairs).map(|_| watch::Sender::default()).collect(),
            generation: (0..pairs).map(|_| watch::Sender::default()).collect(),
            looking: Semaphore::new(1),
        };
        let door = |node: &SocketAddr| Door { port: free_port(), node: *node, accepting: None };
        Ok(Self { paths: Arc::new(paths), doors: nodes.iter().map(door).collect() })
    }

    /// The port at which others dial `node`.
    pub fn port(&self, node: usize) -> u16 {
        self.doors[node - 1].port
    }

    /// Where others dial `node`.
    pub fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.port(node))
    }

    /// The node was started, as this process.
    pub async fn open(&mut self, node: usize, process: u32) {
        self.paths.lock()[node - 1] = Some(process);
        let door = &mut self.doors[node - 1];
        let mut listener = None;
        // The port is ours, but the kernel may still be about to close what stood there.
        wait::until("the door opens", async || {
            listener = TcpListener::bind(("127.0.0.1", door.port)).await.ok();
            listener.is_some()
        })
        .await;
        let listener = listener.expect("it was waited for");
        let (paths, at) = (Arc::clone(&self.paths), door.node);
        let replaced = door.accepting.replace(tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                tokio::spawn(Arc::clone(&paths).carry(stream, from, node, at));
            }
        }));
        assert!(replaced.is_none(), "node {node} was down");
    }

    /// The node is down.
    pub fn close(&mut self, node: usize) {
        self.paths.lock()[node - 1] = None;
        if let Some(accepting) = self.doors[node - 1].accepting.take() {
            accepting.abort();
        }
    }

    /// Nothing that `from` says reaches `to` any more.
    pub fn cut(&self, from: usize, to: usize) {
        self.set(from, to, true);
    }

    /// It does again.
    pub fn heal(&self, from: usize, to: usize) {
        self.set(from, to, false);
    }

    /// Nobody hears `node`, and it hears nobody.
    pub fn isolate(&self, node: usize) {
        for other in self.others(node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Everybody hears `node` again, and it hears everybody.
    pub fn rejoin(&self, node: usize) {
        for other in self.others(node) {
            self.heal(node, other);
            self.heal(other, node);
        }
    }

    /// What `a` and `b` say to one another is on its way for so long, each way.
    pub fn delay(&self, a: usize, b: usize, delay: Duration) {
        for (dialler, dialled) in [(a, b), (b, a)] {
            self.paths.weather(dialler, dialled).send_modify(|weather| weather.delay = delay);
        }
    }

    /// Of what `from` says no more than this reaches `to` in a second, on each of their connections:
    /// the one that carries records is slow, heartbeats are not held up by it.
    pub fn slow(&self, from: usize, to: usize, bytes_per_s: u64) {
        let rate = Some(bytes_per_s);
        self.paths.weather(from, to).send_modify(|weather| weather.to_broker_bytes_per_s = rate);
        self.paths.weather(to, from).send_modify(|weather| weather.to_client_bytes_per_s = rate);
    }

    /// Drops all connections between `a` and `b`, with what is on its way; new ones are taken.
    pub fn reset(&self, a: usize, b: usize) {
        for (dialler, dialled) in [(a, b), (b, a)] {
            self.paths.generation[self.paths.at(dialler, dialled)].send_modify(|n| *n += 1);
        }
    }

    /// Nothing is cut, delayed or slow any more.
    pub fn heal_all(&self) {
        for weather in &self.paths.weather {
            weather.send_replace(Weather::default());
        }
    }

    fn set(&self, from: usize, to: usize, is_cut: bool) {
        self.paths.weather(from, to).send_modify(|weather| weather.to_broker_stalls = is_cut);
        self.paths.weather(to, from).send_modify(|weather| weather.to_client_stalls = is_cut);
    }

    fn others(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (1..=self.doors.len()).filter(move |other| *other != node)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for node in 1..=self.doors.len() {
            self.close(node);
            for other in self.others(node) {
                self.reset(node, other);
            }
        }
    }
}

// === impl Paths ===

impl Paths {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Option<u32>>> {
        self.processes.lock().expect("nobody panics while holding it")
    }

    fn at(&self, dialler: usize, dialled: usize) -> usize {
        (dialler - 1) * self.nodes + dialled - 1
    }

    fn weather(&self, dialler: usize, dialled: usize) -> &watch::Sender<Weather> {
        &self.weather[self.at(dialler, dialled)]
    }

    /// Carries a connection to `node`, which listens `at`, until an end closes it or it is reset.
    async fn carry(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        node: usize,
        at: SocketAddr,
    ) {
        let door = stream.local_addr().map_or(0, |door| door.port());
        // A process that is gone again, or a stranger: neither is a node of ours.
        let Some(dialler) = self.dialler(from.port(), door).await else { return };
        let path = self.at(dialler, node);
        let mut reset = self.generation[path].subscribe();
        let mut weather = self.weather[path].subscribe();
        let carried = async {
            // Nobody hears of a connection that is asked for over a cut link.
            if weather.wait_for(|weather| !weather.to_broker_stalls).await.is_ok() {
                proxy::connect(stream, at, weather, Arc::new(AtomicU64::new(0))).await;
            }
        };
        tokio::select! {
            biased;
            _ = reset.changed() => {}
            () = carried => {}
        }
    }

    /// The node whose process has a socket from port `from` to `door`.
    async fn dialler(self: &Arc<Self>, from: u16, door: u16) -> Option<usize> {
        for _ in 0..LOOKS {
            let found = {
                let _one_at_a_time = self.looking.acquire().await.ok()?;
                let this = Arc::clone(self);
                spawn_blocking(move || this.look(from, door)).await.ok()?
            };
            match found {
                Dialler::Node(node) => return Some(node),
                Dialler::Gone => return None,
                Dialler::Unknown => sleep(LOOK_PAUSE).await,
            }
        }
        None
    }

    fn look(&self, from: u16, door: u16) -> Dialler {
        let Some(socket) = socket(from, door) else { return Dialler::Gone };
        let processes = self.lock().clone();
        let has = |process: &Option<u32>| process.is_some_and(|it| holds(it, &socket));
        processes.iter().position(has).map_or(Dialler::Unknown, |at| Dialler::Node(at + 1))
    }
}

/// What a process that has this socket sees it as.
fn socket(from: u16, to: u16) -> Option<String> {
    let listed = fs::read_to_string(SOCKETS).ok()?;
    let (from, to) = (format!(":{from:04X}"), format!(":{to:04X}"));
    listed.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()?.ends_with(&from) && fields.next()?.ends_with(&to);
        let inode = fields.nth(6)?;
        // Not before the kernel has given it to a process.
        (is_it && inode != "0").then(|| format!("socket:[{inode}]"))
    })
}

fn holds(process: u32, socket: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .any(|file| file.as_os_str() == socket)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;
    use crate::wait::soon;

    /// Two nodes that are both this process: what node 1 dials is found to be node 1's, since it is
    /// the first that has the socket.
    async fn pair() -> (Links, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listens = listener.local_addr().unwrap();
        let mut links = Links::to(&["127.0.0.1:1".parse().unwrap(), listens]).unwrap();
        for node in [1, 2] {
            links.open(node, std::process::id()).await;
        }
        let dialled = TcpStream::connect(links.address(2)).await.unwrap();
        let (accepted, _) = soon("a connection", listener.accept()).await.unwrap();
        (links, dialled, accepted)
    }

    async fn arrives(from: &mut TcpStream, to: &mut TcpStream) -> bool {
        from.write_all(b"x").await.unwrap();
        // That nothing comes can only be seen by waiting a little for it.
        timeout(Duration::from_millis(100), to.read_u8()).await.is_ok()
    }

    #[tokio::test]
    async fn each_direction_is_cut_and_healed_by_itself() {
        let (links, mut one, mut two) = pair().await;
        assert!(arrives(&mut one, &mut two).await && arrives(&mut two, &mut one).await);
        links.cut(1, 2);
        assert!(arrives(&mut two, &mut one).await, "the other way is open");
        assert!(!arrives(&mut one, &mut two).await);
        links.heal(1, 2);
        assert_eq!(soon("what was held up", two.read_u8()).await.unwrap(), b'x');
        links.cut(2, 1);
        assert!(arrives(&mut one, &mut two).await && !arrives(&mut two, &mut one).await);
        links.heal_all();
        assert_eq!(soon("what was held up", one.read_u8()).await.unwrap(), b'x');
        links.isolate(2);
        assert!(!arrives(&mut one, &mut two).await && !arrives(&mut two, &mut one).await);
        links.rejoin(2);
        assert_eq!(soon("what was held up", one.read_u8()).await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_reset_ends_connections_and_a_closed_door_refuses_them() {
        let (mut links, mut one, _two) = pair().await;
        links.reset(2, 1);
        assert!(soon("the end", one.read_u8()).await.is_err());
        let _again = TcpStream::connect(links.address(2)).await.expect("new ones are taken");
        links.close(2);
        wait::until("nobody listens", async || TcpStream::connect(links.address(2)).await.is_err())
            .await;
    }

    #[tokio::test]
    async fn a_stranger_is_not_let_in() {
        let (mut links, _one, _two) = pair().await;
        for node in [1, 2] {
            links.close(node);
        }
        // The first process of the machine has no socket of ours.
        links.open(2, 1).await;
        let mut stranger = TcpStream::connect(links.address(2)).await.unwrap();
        assert!(soon("the end", stranger.read_u8()).await.is_err());
    }
}
