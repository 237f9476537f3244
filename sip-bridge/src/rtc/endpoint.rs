//! Decides which leg a datagram belongs to, and what our addresses are: the sockets that one or many legs use.
//!
//! Checks are attributed by the local ufrag in them, responses by their transaction, DTLS and SRTP by their source
//! address, which counts only once STUN from it proved the leg's password [CALL-MEDIA-06].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use str0m::Candidate;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::hub::Call;
use super::leg::Wire;
use super::stun::{self, Datagram, Transaction};
use super::timer::LegId;

/// Receive buffer: larger than any datagram that ICE, DTLS or G.711 in SRTP sends.
const DATAGRAM: usize = 2048;
/// Datagrams taken in one go before other tasks get their turn.
const BATCH: usize = 64;
/// A response later than this is not waited for.
const TRANSACTION_LIFE: Duration = Duration::from_secs(10);
/// Transactions remembered per endpoint; the oldest generation goes first.
const TRANSACTIONS: usize = 16_384;
/// Verified addresses remembered per leg: candidates of a peer that moves about.
const ADDRESSES: usize = 16;
/// An address that another leg has proved to own changes hands only after this much silence.
const ADDRESS_LIFE: Duration = Duration::from_secs(5);

/// A path: one of our sockets and a remote address.
type Path = (usize, SocketAddr);

/// Where one of our sockets is, seen from here and from the STUN server.
struct Socket {
    udp: UdpSocket,
    local: SocketAddr,
}

#[derive(Default)]
struct Routes {
    by_ufrag: HashMap<String, Weak<Call>>,
    by_transaction: HashMap<Transaction, (Weak<Call>, Instant)>,
    by_path: HashMap<Path, (Weak<Call>, Instant)>,
}

/// The sockets and the legs on them.
pub(super) struct Endpoint {
    sockets: Vec<Socket>,
    routes: Mutex<Routes>,
    /// Our binding requests under way, and the socket that each left from.
    asked: Mutex<HashMap<Transaction, usize>>,
    mapped: watch::Sender<Vec<Option<SocketAddr>>>,
    pub(super) cancel: CancellationToken,
}

/// A datagram with the call that it belongs to.
pub(super) struct Attributed {
    pub(super) call: Arc<Call>,
    pub(super) is_stun: bool,
    path: Path,
}

impl Endpoint {
    /// Binds one socket per address that `bind` stands for.
    pub(super) fn bind(bind: SocketAddr, cancel: CancellationToken) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for ip in addresses(bind.ip())? {
            let std = std::net::UdpSocket::bind(SocketAddr::new(ip, bind.port()))?;
            std.set_nonblocking(true)?;
            let udp = UdpSocket::from_std(std)?;
            sockets.push(Socket { local: udp.local_addr()?, udp });
        }
        let mapped = watch::channel(vec![None; sockets.len()]).0;
        Ok(Self { sockets, routes: Mutex::default(), asked: Mutex::default(), mapped, cancel })
    }

    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn local(&self, socket: usize) -> SocketAddr {
        self.sockets[socket].local
    }

    /// Host and server-reflexive candidates, as known now.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let mapped = self.mapped.borrow();
        let hosts = self.sockets.iter().filter_map(|socket| Candidate::host(socket.local, "udp").ok());
        let public =
            mapped.iter().enumerate().filter_map(|(index, public)| self.reflexive(index, (*public)?));
        hosts.chain(public).collect()
    }

    fn reflexive(&self, socket: usize, public: SocketAddr) -> Option<Candidate> {
        let base = self.local(socket);
        // Without a NAT the two are one, and the host candidate says it already.
        (public != base).then(|| Candidate::server_reflexive(public, base, "udp").ok())?
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that carry this ufrag are for this call from now on.
    pub(super) fn expect(&self, ufrag: String, call: &Arc<Call>) {
        self.routes().by_ufrag.insert(ufrag, Arc::downgrade(call));
    }

    /// Forgets everything about a call.
    pub(super) fn forget(&self, id: LegId) {
        let other = |call: &Weak<Call>| call.upgrade().is_some_and(|call| call.id != id);
        let mut routes = self.routes();
        routes.by_ufrag.retain(|_, call| other(call));
        routes.by_transaction.retain(|_, (call, _)| other(call));
        routes.by_path.retain(|_, (call, _)| other(call));
    }

    /// The calls on these sockets.
    pub(super) fn calls(&self) -> Vec<Arc<Call>> {
        let mut calls: Vec<Arc<Call>> = self.routes().by_ufrag.values().filter_map(Weak::upgrade).collect();
        calls.sort_unstable_by_key(|call| call.id);
        calls.dedup_by_key(|call| call.id);
        calls
    }

    /// Finds the call that a datagram is for, if any.
    pub(super) fn attribute(&self, socket: usize, source: SocketAddr, datagram: &[u8]) -> Option<Attributed> {
        let path = (socket, source);
        let (call, is_stun) = match stun::classify(datagram) {
            Datagram::Check { ufrag } => (self.routes().by_ufrag.get(ufrag)?.upgrade()?, true),
            Datagram::Response { transaction, .. } => {
                (self.routes().by_transaction.remove(&transaction)?.0.upgrade()?, true)
            }
            Datagram::Encrypted => (self.routes().by_path.get(&path)?.0.upgrade()?, false),
            Datagram::Noise => return None,
        };
        Some(Attributed { call, is_stun, path })
    }

    /// STUN on this path proved its call's password: DTLS and SRTP from there are the call's.
    pub(super) fn learn(&self, attributed: &Attributed, now: Instant) {
        let Attributed { call, path, .. } = attributed;
        let mut routes = self.routes();
        let entry = (Arc::downgrade(call), now);
        if let Some((owner, seen)) = routes.by_path.get_mut(path) {
            let ours = owner.ptr_eq(&entry.0);
            // A password proves the call, not the address: nobody takes a living call's address by forging it.
            if ours || owner.strong_count() == 0 || now >= *seen + ADDRESS_LIFE {
                (*owner, *seen) = entry;
            }
            return;
        }
        let of_call = routes.by_path.iter().filter(|(_, (owner, _))| owner.ptr_eq(&entry.0));
        let (count, oldest) =
            of_call.fold((0, None::<(Instant, Path)>), |(count, oldest), (path, (_, seen))| {
                (count + 1, oldest.filter(|(at, _)| at < seen).or(Some((*seen, *path))))
            });
        if let Some((_, path)) = oldest.filter(|_| count >= ADDRESSES) {
            routes.by_path.remove(&path);
        }
        routes.by_path.insert(*path, entry);
    }

    fn remember(&self, transaction: Transaction, call: &Weak<Call>) {
        let now = tokio::time::Instant::now().into_std();
        let mut routes = self.routes();
        if routes.by_transaction.len() >= TRANSACTIONS {
            routes.by_transaction.retain(|_, (_, sent)| now < *sent + TRANSACTION_LIFE);
            if routes.by_transaction.len() >= TRANSACTIONS {
                // More checks than any honest load sends in ten seconds: they are repeated anyway.
                routes.by_transaction.clear();
            }
        }
        routes.by_transaction.insert(transaction, (call.clone(), now));
    }

    /// Reads one socket until the endpoint is cancelled, handing each datagram to `take`.
    pub(super) async fn read(&self, socket: usize, mut take: impl FnMut(usize, SocketAddr, &[u8])) {
        let mut buffer = [0u8; DATAGRAM];
        let udp = &self.sockets[socket].udp;
        loop {
            match udp.recv_from(&mut buffer).await {
                Ok((length, source)) => take(socket, source, &buffer[..length]),
                Err(error) => self.rest(socket, &error).await,
            }
            for _ in 0..BATCH {
                match udp.try_recv_from(&mut buffer) {
                    Ok((length, source)) => take(socket, source, &buffer[..length]),
                    Err(_) => break,
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    async fn rest(&self, socket: usize, error: &io::Error) {
        // Errors of earlier sends surface here too; a pause keeps a broken socket from burning a core.
        tracing::debug!(local = %self.local(socket), %error, "media socket");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    /// Asks the STUN server for the address of every socket that can reach it.
    pub(super) async fn ask(&self, server: SocketAddr, mut transaction: impl FnMut() -> Transaction) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for (index, socket) in self.sockets.iter().enumerate() {
            if socket.local.is_ipv4() != server.is_ipv4()
                || (socket.local.ip().is_loopback() && !server.ip().is_loopback())
            {
                continue;
            }
            let id = transaction();
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(id, index);
            // `send_to` waits until the socket is writable: right after binding, `try_send_to` loses the packet.
            if let Err(error) = socket.udp.send_to(&stun::binding_request(id), server).await {
                tracing::debug!(local = %socket.local, %server, %error, "cannot reach the STUN server");
            }
        }
    }

    /// Whether a binding request still waits for its answer.
    pub(super) fn asking(&self) -> bool {
        !self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes an answer of the STUN server; the old and the new candidate when our address changed.
    pub(super) fn answered(&self, datagram: &[u8]) -> Option<Change> {
        let Datagram::Response { transaction, mapped } = stun::classify(datagram) else { return None };
        let socket = self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&transaction)?;
        let new = mapped?;
        let old = self.mapped.borrow()[socket];
        self.mapped.send_modify(|mapped| mapped[socket] = Some(new));
        (old != Some(new)).then(|| Change {
            old: old.and_then(|old| self.reflexive(socket, old)),
            new: self.reflexive(socket, new),
        })
    }

    /// Waits until some socket's public address is known.
    pub(super) async fn mapped(&self) {
        let mut mapped = self.mapped.subscribe();
        // The sender lives as long as this endpoint, so this ends only with a mapping.
        let _ = mapped.wait_for(|mapped| mapped.iter().any(Option::is_some)).await;
    }
}

/// A changed public address.
pub(super) struct Change {
    pub(super) old: Option<Candidate>,
    pub(super) new: Option<Candidate>,
}

/// What a leg sends through: its endpoint, and the leg to which answers belong.
pub(super) struct Line<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) call: &'a Weak<Call>,
}

impl Wire for Line<'_> {
    fn send(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let sockets = &self.endpoint.sockets;
        let Some(socket) = sockets.iter().find(|socket| socket.local == from) else { return };
        if let Some(transaction) = stun::request_transaction(datagram) {
            self.endpoint.remember(transaction, self.call);
        }
        // A full socket buffer loses the packet, as the network may.
        let _ = socket.udp.try_send_to(datagram, to);
    }
}

fn addresses(ip: IpAddr) -> io::Result<Vec<IpAddr>> {
    if !ip.is_unspecified() {
        return Ok(vec![ip]);
    }
    let of_family = |other: &IpAddr| other.is_ipv4() || ip.is_ipv6();
    let all: Vec<IpAddr> = if_addrs::get_if_addrs()?.into_iter().map(|interface| interface.ip()).collect();
    let link_local = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let mut reachable: Vec<IpAddr> =
        all.iter().copied().filter(|ip| of_family(ip) && !ip.is_loopback() && !link_local(ip)).collect();
    if reachable.is_empty() {
        reachable.extend(all.into_iter().filter(|ip| of_family(ip) && ip.is_loopback()));
    }
    reachable.sort_unstable();
    reachable.dedup();
    if reachable.is_empty() {
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no network interface has an address"));
    }
    Ok(reachable)
}
