//! A network in user space between a client and a broker: it delays, is slow, loses one direction, is
//! cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use crate::clock;

/// Bytes moved at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Chunks of a slow line in a second: it trickles, and does not come in gushes.
const CHUNKS_PER_SECOND: u64 = 20;

/// Chunks on a line with a delay.
const CHUNKS_MAX: usize = 256;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// How long a byte is on its way, each way.
    pub delay: Duration,
    /// Nothing arrives at the broker.
    pub to_broker_stalls: bool,
    /// Nothing arrives at the client.
    pub to_client_stalls: bool,
    /// No more of each connection arrives at the broker in a second; `None`: as much as comes.
    pub to_broker_bytes_per_s: Option<u64>,
    /// No more of each connection arrives at the client in a second.
    pub to_client_bytes_per_s: Option<u64>,
}

/// Listens where the client connects and goes on to the broker. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Connections made before the generation changed are dropped.
    generation: watch::Sender<u64>,
    /// Each connection has a clone of the sender: the receiver ends when the last one is gone.
    alive: Alive,
    to_client_bytes: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

type Alive = Arc<Mutex<(mpsc::Sender<()>, mpsc::Receiver<()>)>>;

#[derive(Debug, Clone, Copy)]
enum Direction {
    ToBroker,
    ToClient,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy in front of `broker`, in fine weather.
    pub async fn start(broker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are ports");
        let address = listener.local_addr().expect("it is bound");
        let weather = watch::Sender::new(Weather::default());
        let generation = watch::Sender::new(0);
        let to_client_bytes = Arc::new(AtomicU64::new(0));
        let alive: Alive = Arc::new(Mutex::new(mpsc::channel(1)));
        let accepting = tokio::spawn({
            let (weather, generation) = (weather.clone(), generation.clone());
            let alive = Arc::clone(&alive);
            let passed = Arc::clone(&to_client_bytes);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let weather = weather.subscribe();
                    let line = connect(client, broker, weather, Arc::clone(&passed));
                    let (mut cut, alive) = {
                        let alive = alive.lock().expect("nobody panics while holding it");
                        (generation.subscribe(), alive.0.clone())
                    };
                    tokio::spawn(async move {
                        let _alive = alive;
                        tokio::select! {
                            biased;
                            _ = cut.changed() => {}
                            () = line => {}
                        }
                    });
                }
            }
        });
        Self { address, weather, generation, alive, to_client_bytes, accepting }
    }

    /// Where clients connect.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes the weather, for all connections.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Drops all connections. What was on its way is lost once this returns; new ones are taken.
    pub async fn cut(&self) {
        let mut gone = {
            let mut alive = self.alive.lock().expect("nobody panics while holding it");
            self.generation.send_modify(|generation| *generation += 1);
            std::mem::replace(&mut *alive, mpsc::channel(1)).1
        };
        while gone.recv().await.is_some() {}
    }

    /// Bytes that reached the client so far.
    pub fn to_client_bytes(&self) -> u64 {
        self.to_client_bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.generation.send_modify(|generation| *generation += 1);
    }
}

// === impl Weather ===

impl Weather {
    fn stalls(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToBroker => self.to_broker_stalls,
            Direction::ToClient => self.to_client_stalls,
        }
    }

    /// The most that is moved at once, and how long that keeps the line busy.
    fn chunk(&self, direction: Direction) -> (usize, Option<Duration>) {
        let rate = match direction {
            Direction::ToBroker => self.to_broker_bytes_per_s,
            Direction::ToClient => self.to_client_bytes_per_s,
        };
        let Some(rate) = rate else { return (CHUNK_BYTES, None) };
        let bytes = usize::try_from(rate / CHUNKS_PER_SECOND).unwrap_or(CHUNK_BYTES);
        let bytes = bytes.clamp(1, CHUNK_BYTES);
        (bytes, Some(Duration::from_secs(1).mul_f64(bytes as f64 / rate.max(1) as f64)))
    }
}

/// Carries one connection until an end closes it.
pub(crate) async fn connect(
    client: TcpStream,
    broker: SocketAddr,
    weather: watch::Receiver<Weather>,
    to_client_bytes: Arc<AtomicU64>,
) {
    let Ok(broker) = TcpStream::connect(broker).await else { return };
    for stream in [&client, &broker] {
        // One that is gone already fails its first read.
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let uncounted = Arc::new(AtomicU64::new(0));
    tokio::select! {
        () = carry(Direction::ToBroker, from_client, to_broker, weather.clone(), uncounted) => {}
        () = carry(Direction::ToClient, from_broker, to_client, weather, to_client_bytes) => {}
    }
}

/// Carries one direction. The delay is a delay and not a limit on the rate: chunks are on the line
/// one behind the other. A rate is one: what is over waits in TCP's windows.
async fn carry(
    direction: Direction,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    passed: Arc<AtomicU64>,
) {
    let (line, mut arriving) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let mut until_read = weather.clone();
    let read = async move {
        loop {
            // A network that stalls takes nothing, either: TCP's own windows fill.
            if until_read.wait_for(|w| !w.stalls(direction)).await.is_err() {
                return;
            }
            let (bytes, busy) = until_read.borrow().chunk(direction);
            let mut chunk = vec![0; bytes];
            let n = match from.read(&mut chunk).await {
                Ok(n) if n > 0 => n,
                _ => return,
            };
            chunk.truncate(n);
            if let Some(busy) = busy {
                sleep(busy.mul_f64(n as f64 / bytes as f64)).await;
            }
            let due = clock::now() + until_read.borrow().delay;
            if line.send((due, chunk.into())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = arriving.recv().await {
            sleep_until(due).await;
            if weather.wait_for(|w| !w.stalls(direction)).await.is_err()
                || to.write_all(&chunk).await.is_err()
            {
                return;
            }
            passed.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncRead, time::timeout};

    use super::*;
    use crate::wait::soon;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<u8> {
        soon("a byte", stream.read_u8()).await.ok()
    }

    #[tokio::test]
    async fn bytes_pass_stall_and_go_on() {
        let proxy = Proxy::start(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        assert_eq!(next(&mut stream).await, Some(b'a'));

        for stalled in [
            Weather { to_broker_stalls: true, ..Weather::default() },
            Weather { to_client_stalls: true, ..Weather::default() },
        ] {
            proxy.set(stalled);
            stream.write_all(b"b").await.unwrap();
            // That nothing comes can only be seen by waiting a little for it.
            let early = timeout(Duration::from_millis(50), stream.read_u8()).await;
            assert!(early.is_err(), "{early:?}");
            proxy.set(Weather::default());
            assert_eq!(next(&mut stream).await, Some(b'b'));
        }
    }

    #[tokio::test]
    async fn a_delay_delays_and_keeps_the_order() {
        let proxy = Proxy::start(echo().await).await;
        let delay = Duration::from_millis(20);
        proxy.set(Weather { delay, ..Weather::default() });
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let start = clock::now();
        for byte in 0..100 {
            stream.write_all(&[byte]).await.unwrap();
        }
        for byte in 0..100 {
            assert_eq!(next(&mut stream).await, Some(byte));
        }
        assert!(start.elapsed() >= delay * 2, "there and back");
        assert_eq!(proxy.to_client_bytes(), 100);
    }

    #[tokio::test]
    async fn a_slow_line_takes_its_time_in_one_direction() {
        let proxy = Proxy::start(echo().await).await;
        let rate = Some(20_000);
        proxy.set(Weather { to_client_bytes_per_s: rate, ..Weather::default() });
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let start = clock::now();
        stream.write_all(&[7; 4_000]).await.unwrap();
        let mut back = vec![0; 4_000];
        soon("all of it", stream.read_exact(&mut back)).await.unwrap();
        assert!(back.iter().all(|byte| *byte == 7));
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_takes_new_ones() {
        let proxy = Proxy::start(echo().await).await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        old.write_all(b"a").await.unwrap();
        assert_eq!(next(&mut old).await, Some(b'a'));
        proxy.cut().await;
        assert_eq!(next(&mut old).await, None);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        new.write_all(b"b").await.unwrap();
        assert_eq!(next(&mut new).await, Some(b'b'));
    }
}
