//! Decides what all parts of the running homeserver share, and how they find each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use ahoy_proto::address::Address;
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::{Name, NamePolicy};
use ahoy_proto::time::{Clock, Entropy};
use ahoy_proto::v1::{self, ErrorCode, request, response};
use ahoy_resolver::Resolver;
use ahoy_transport::{CardBook, Connection, Endpoint};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::Calls;
use crate::card_book;
use crate::desk::Desk;
use crate::home::Home;
use crate::invite::InviteKey;
use crate::keys::Keys;
use crate::limit::{Buckets, Limits, Rate};
use crate::metrics::Metrics;
use crate::online::Online;
use crate::outbox::Outbox;
use crate::peer::{Class, Guests, Link, Peers};

/// Pipes that one name may open: each opening is a commit.
const PIPES: Rate = Rate::new(2.0, 60.0);
/// Names of one registrable domain that are looked up because somebody claims them.
const LOOKUPS: Rate = Rate::new(5.0, 100.0);

/// The running homeserver.
pub struct House {
    /// Its names.
    pub names: BTreeMap<Name, Served>,
    /// Its UDP port.
    pub endpoint: Endpoint,
    /// Finds other names.
    pub resolver: Arc<Resolver>,
    /// The cards of its names.
    pub cards: Arc<card_book::CardBook>,
    /// Judges signatures.
    pub keys: Keys,
    /// Connections to other homeservers.
    pub peers: Peers,
    /// Who is signed in.
    pub online: Online,
    /// How many connections other homeservers made.
    pub guests: Guests,
    /// Calls in progress.
    pub calls: Calls,
    /// How fast others may ask.
    pub limiter: Limiter,
    /// Reads invite tokens.
    pub invites: InviteKey,
    /// Figures about itself.
    pub metrics: Metrics,
    /// Itself, for tasks that it starts.
    pub me: Weak<House>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Which special-use names are allowed.
    pub policy: NamePolicy,
    /// Every task.
    pub tracker: TaskTracker,
    /// No new calls or sign-ins.
    pub draining: CancellationToken,
    /// The drain deadline has passed: live calls are hung up.
    pub cut: CancellationToken,
    /// Everything ends.
    pub stop: CancellationToken,
}

/// A served name and what serves it.
pub struct Served {
    /// Its data.
    pub home: Arc<Home>,
    /// Its queues.
    pub outbox: Arc<Outbox>,
}

/// Token buckets, by who asks.
pub struct Limiter {
    /// Messages of devices, by owner and device.
    pub device_messages: Buckets<[u8; 8]>,
    /// Messages of services.
    pub service_messages: Buckets<[u8; 8]>,
    /// Calls of devices.
    pub device_calls: Buckets<[u8; 8]>,
    /// Calls of services.
    pub service_calls: Buckets<[u8; 8]>,
    /// Other requests of devices and services.
    pub requests: Buckets<[u8; 8]>,
    /// Other requests of peers, by the registrable domain of the name that they came with.
    pub peer_requests: Buckets<String>,
    /// Pipes that are opened, by source.
    pub peer_pipes: Buckets<Name>,
    /// Names that claims make us look up, by registrable domain.
    pub lookups: Buckets<String>,
    /// Pipe items, by source.
    pub peer_items: Buckets<Name>,
    /// Calls from other names.
    pub peer_calls: Buckets<Name>,
}

impl Limiter {
    /// Buckets for these limits.
    pub fn new(limits: &Limits) -> Self {
        Self {
            device_messages: Buckets::new(limits.device_messages),
            service_messages: Buckets::new(limits.service_messages),
            device_calls: Buckets::new(limits.device_calls),
            service_calls: Buckets::new(limits.service_calls),
            requests: Buckets::new(limits.requests),
            peer_requests: Buckets::new(limits.requests),
            peer_pipes: Buckets::new(PIPES),
            lookups: Buckets::new(LOOKUPS),
            peer_items: Buckets::new(limits.peer_items),
            peer_calls: Buckets::new(limits.peer_calls),
        }
    }
}

impl House {
    /// A name that is served here.
    pub fn served(&self, name: &Name) -> Result<&Served, Fault> {
        let foreign =
            || Fault::new(ErrorCode::NameNotServed, format!("this homeserver does not serve {name}"));
        self.names.get(name).ok_or_else(foreign)
    }

    /// The data of a name that is served here.
    pub fn home(&self, name: &Name) -> Result<&Arc<Home>, Fault> {
        self.served(name).map(|served| &served.home)
    }

    /// The way from one of our names to any name.
    pub async fn link(&self, source: &Name, destination: &Name) -> Result<Link, Fault> {
        match self.names.get(destination) {
            Some(served) => Ok(Link::Local(served.home.clone())),
            None => self.peer(source, destination, Class::Bulk).await.map(Link::Remote),
        }
    }

    /// A connection to the homeserver of a foreign name that believes that we speak for `source`.
    pub async fn peer(&self, source: &Name, destination: &Name, class: Class) -> Result<Connection, Fault> {
        self.peers.connection(self, source, destination, class).await
    }

    /// Asks what `to` is, for one of our addresses.
    pub async fn contact(
        &self,
        link: &Link,
        desk: &Desk,
        from: &Address,
        to: &Address,
    ) -> Result<v1::ContactAnswer, Fault> {
        let connection = match link {
            Link::Local(home) => return home.answer_contact(from, desk.line(from).is_some(), to),
            Link::Remote(connection) => connection,
        };
        let contact = v1::Contact { address: to.to_string(), from: from.to_string() };
        let request = v1::Request { request: Some(request::Request::Contact(contact)) };
        let response =
            connection.request(request, limit::REQUEST_TIME).await.map_err(|error| error.fault())?;
        match response.response {
            Some(response::Response::Contact(answer)) => Ok(answer),
            _ => Err(Fault::new(ErrorCode::Malformed, "the peer answered another question")),
        }
    }

    /// Something was heard from a name: what waits for it is tried at once.
    pub fn heard(&self, name: &Name) {
        for served in self.names.values() {
            served.outbox.heard(name);
        }
    }

    /// The cards of our names, at most 64, that of `first` foremost.
    pub fn claims(&self, first: &Name) -> Vec<(Name, v1::Signed)> {
        let mut names: Vec<&Name> = self.names.keys().filter(|name| *name != first).collect();
        names.insert(0, first);
        let cards = names.into_iter().filter_map(|name| Some((name.clone(), self.cards.card(name)?)));
        cards.take(limit::PENDING_CLAIMS).collect()
    }
}

impl CardBook for House {
    fn card(&self, name: &Name) -> Option<v1::Signed> {
        self.cards.card(name)
    }
}
