//! TCP connections of one trunk. Each has its own task and its own byte budget: a peer that
//! does not read, or never finishes a message, costs its connection and nothing else.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sipx_sip::{Limits, Message, StreamParser};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes that may wait for one peer before its connection is closed. [BRIDGE-SIP-08]
const BACKLOG: usize = 256 * 1024;
/// A connection attempt, a write, and a message once begun take at most this long.
const CONNECT: Duration = Duration::from_secs(4);
const WRITE: Duration = Duration::from_secs(10);
const MESSAGE: Duration = Duration::from_secs(10);
/// Connections at once, in all and from one address.
const CONNECTIONS: usize = 256;
const PER_SOURCE: usize = 32;

/// What connections report to the driver.
pub enum TcpEvent {
    /// A peer connected.
    Accepted(TcpStream, SocketAddr),
    /// A message arrived.
    Message(u64, SocketAddr, Box<Message>),
    /// A connection is over, or was never made.
    Closed(u64, SocketAddr),
}

/// Accepts until cancelled; errors (descriptors run out) make it pause, never end.
pub async fn accept_loop(listener: TcpListener, events: mpsc::Sender<TcpEvent>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if events.send(TcpEvent::Accepted(stream, peer)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a SIP connection failed; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Connection {
    peer: SocketAddr,
    writer: mpsc::UnboundedSender<Bytes>,
    queued: Arc<AtomicUsize>,
    stop: CancellationToken,
}

/// The open connections, owned by the driver.
pub struct Connections {
    open: HashMap<u64, Connection>,
    next: u64,
    local: IpAddr,
    events: mpsc::Sender<TcpEvent>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Connections {
    /// Connections that leave from `local` and report to `events`.
    pub fn new(
        local: IpAddr,
        events: mpsc::Sender<TcpEvent>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self { open: HashMap::new(), next: 1, local, events, tracker, stop }
    }

    /// Takes in an accepted connection, if there is room for its source.
    pub fn accepted(&mut self, stream: TcpStream, peer: SocketAddr) {
        let same = self.open.values().filter(|open| open.peer.ip() == peer.ip()).count();
        if self.open.len() >= CONNECTIONS || same >= PER_SOURCE {
            tracing::debug!(%peer, "too many SIP connections: refused");
            return;
        }
        self.start(peer, async move { Ok(stream) });
    }

    /// Sends on connection `id`, or else on whichever reaches `peer`, opening one if need be.
    pub fn send(&mut self, id: Option<u64>, peer: SocketAddr, bytes: Bytes) {
        let known = id
            .filter(|id| self.open.contains_key(id))
            .or_else(|| self.open.iter().find(|(_, open)| open.peer == peer).map(|(id, _)| *id));
        let id = known.unwrap_or_else(|| {
            let local = self.local;
            self.start(peer, connect(local, peer))
        });
        let Some(connection) = self.open.get(&id) else { return };
        let queued = connection.queued.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if queued > BACKLOG || connection.writer.send(bytes).is_err() {
            tracing::warn!(%peer, queued, "a SIP peer does not read: its connection is closed");
            connection.stop.cancel();
            self.open.remove(&id);
        }
    }

    /// Forgets a connection that reported its end.
    pub fn closed(&mut self, id: u64) {
        self.open.remove(&id);
    }

    fn start(
        &mut self,
        peer: SocketAddr,
        stream: impl Future<Output = io::Result<TcpStream>> + Send + 'static,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        let (writer, outgoing) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let stop = self.stop.child_token();
        let connection =
            Connection { peer, writer: writer.clone(), queued: queued.clone(), stop: stop.clone() };
        self.open.insert(id, connection);
        let events = self.events.clone();
        self.tracker.spawn(async move {
            let work = async {
                let (read, write) = stream.await?.into_split();
                tokio::select! {
                    ended = read_loop(read, id, peer, &events, &writer, &queued) => ended,
                    ended = write_loop(write, outgoing, &queued) => ended,
                }
            };
            let ended: io::Result<()> = tokio::select! {
                () = stop.cancelled() => Ok(()),
                ended = work => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a SIP connection ended");
            }
            // The driver is gone only when everything ends.
            let _ = events.send(TcpEvent::Closed(id, peer)).await;
        });
        id
    }
}

async fn connect(local: IpAddr, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(local, 0))?;
    timeout(CONNECT, socket.connect(peer)).await?
}

async fn read_loop(
    mut read: OwnedReadHalf,
    id: u64,
    peer: SocketAddr,
    events: &mpsc::Sender<TcpEvent>,
    writer: &mpsc::UnboundedSender<Bytes>,
    queued: &AtomicUsize,
) -> io::Result<()> {
    let limits = Limits { max_message_bytes: 64 * 1024, max_body_bytes: 64 * 1024, ..Limits::stream() };
    let mut parser = StreamParser::new(limits);
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let length = if parser.pending() == 0 {
            read.read(&mut buffer).await?
        } else {
            timeout(MESSAGE, read.read(&mut buffer)).await??
        };
        if length == 0 {
            return Ok(());
        }
        let messages = parser.push(&buffer[..length]).map_err(|error| io::Error::other(error.to_string()))?;
        // CRLF CRLF asks, CRLF answers (RFC 5626 section 4.4.1).
        if parser.take_keepalives() >= 2 && queued.load(Ordering::Relaxed) < BACKLOG {
            queued.fetch_add(2, Ordering::Relaxed);
            let _ = writer.send(Bytes::from_static(b"\r\n"));
        }
        for message in messages {
            // Waiting here slows this peer only.
            if events.send(TcpEvent::Message(id, peer, Box::new(message))).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn write_loop(
    mut write: OwnedWriteHalf,
    mut outgoing: mpsc::UnboundedReceiver<Bytes>,
    queued: &AtomicUsize,
) -> io::Result<()> {
    while let Some(bytes) = outgoing.recv().await {
        timeout(WRITE, write.write_all(&bytes)).await??;
        queued.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
    Ok(())
}
