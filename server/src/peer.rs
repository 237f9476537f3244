//! Decides how this homeserver reaches others and whom it believes to be one: the TLS key of the connection must be
//! in the name's card, on both sides. `[WIRE-AUTH-08]`

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use ahoy_proto::card::verify_card;
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::name::Name;
use ahoy_proto::v1::{self, ErrorCode, Role};
use ahoy_resolver::Resolution;
use ahoy_transport::{CardBook as _, Connection, Greeted, Hello};
use tokio::sync::Semaphore;

use crate::home::Home;
use crate::house::House;
use crate::session;
use crate::wake::lock;

/// The way to a name.
pub enum Link {
    /// It is served here.
    Local(Arc<Home>),
    /// A connection to its homeserver.
    Remote(Connection),
}

/// What a connection is for. Bulk must not stall what is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Calls and questions.
    Live,
    /// Pipes.
    Bulk,
}

/// The other end of a connection between homeservers.
pub struct Peer {
    names: Mutex<BTreeSet<Name>>,
    /// The registrable domain of the name that it came with: by this it is counted, whatever else it claims.
    pub domain: String,
    /// Places for claims that are not decided yet.
    pub claims: Arc<Semaphore>,
    /// The connection.
    pub connection: Connection,
}

impl Peer {
    /// A peer that was found to speak for `first`, and for `others` as well.
    pub fn new(connection: Connection, first: &Name, others: impl IntoIterator<Item = Name>) -> Arc<Self> {
        let names = others.into_iter().chain([first.clone()]).collect();
        Arc::new(Self {
            names: Mutex::new(names),
            domain: first.registrable_domain().to_owned(),
            claims: Arc::new(Semaphore::new(limit::PENDING_CLAIMS)),
            connection,
        })
    }

    /// Whether it was found to speak for `name`.
    pub fn speaks_for(&self, name: &Name) -> bool {
        lock(&self.names).contains(name)
    }

    /// A name that it was found to speak for as well. At most 1024.
    pub fn add(&self, name: Name) -> Result<(), Fault> {
        let mut names = lock(&self.names);
        if names.len() >= 1024 {
            return Err(Fault::new(ErrorCode::Limit, "too many names on one connection; open another"));
        }
        names.insert(name);
        Ok(())
    }
}

/// Connections of one domain to one of our names that are taken at once.
const GUESTS: usize = 64;

/// How many connections other homeservers made, by their registrable domain and the name of ours that they asked for.
#[derive(Default)]
pub struct Guests(Mutex<HashMap<(String, Name), usize>>);

/// One counted connection.
pub struct Guest<'a> {
    guests: &'a Guests,
    key: (String, Name),
}

impl Guests {
    /// Counts a connection; `None` when there are too many.
    pub fn admit(&self, domain: &str, wanted: &Name) -> Option<Guest<'_>> {
        let key = (domain.to_owned(), wanted.clone());
        let mut counts = lock(&self.0);
        let count = counts.get(&key).copied().unwrap_or(0);
        if count >= GUESTS {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Guest { guests: self, key })
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut counts = lock(&self.guests.0);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// A place for one connection; whoever dials holds it, and the others wait.
type Slot = Arc<tokio::sync::Mutex<Option<Dialled>>>;

/// Connections that were made to other homeservers.
#[derive(Default)]
pub struct Peers {
    slots: Mutex<HashMap<(Name, Class), Slot>>,
}

struct Dialled {
    connection: Connection,
    claimed: BTreeSet<Name>,
}

impl Peers {
    /// A connection to the homeserver of `destination` that believes that we speak for `source`. One is made when
    /// there is none, and shared.
    pub async fn connection(
        &self,
        house: &House,
        source: &Name,
        destination: &Name,
        class: Class,
    ) -> Result<Connection, Fault> {
        let slot = lock(&self.slots).entry((destination.clone(), class)).or_default().clone();
        let mut slot = slot.lock().await;
        let usable = |d: &Dialled| d.connection.is_closed().is_none() && d.connection.going_away().is_none();
        if !slot.as_ref().is_some_and(usable) {
            *slot = Some(dial(house, source, destination).await?);
        }
        let dialled = slot.as_mut().expect("it was dialled above");
        if !dialled.claimed.contains(source) {
            let card = house.card(source);
            let card =
                card.ok_or_else(|| Fault::new(ErrorCode::NameNotServed, "the source is not served here"))?;
            let claim = dialled.connection.claim(source, card, limit::REQUEST_TIME).await;
            claim.map_err(|error| error.fault())?;
            dialled.claimed.insert(source.clone());
        }
        Ok(dialled.connection.clone())
    }
}

/// Tries the name's endpoints in their order.
async fn dial(house: &House, source: &Name, destination: &Name) -> Result<Dialled, Fault> {
    let resolution = house.keys.resolution(destination).await?;
    let unreachable =
        || Fault::new(ErrorCode::PeerUnreachable, format!("no endpoint of {destination} answers"));
    let mut last = unreachable();
    for endpoint in &resolution.endpoints {
        for addr in &endpoint.addrs {
            let hello = Hello::new(Role::Homeserver, destination.clone());
            let greeted = match house.endpoint.greet(*addr, &endpoint.host, hello).await {
                Ok(greeted) => greeted,
                Err(error) => {
                    tracing::debug!(%destination, %addr, %error, "an endpoint does not answer");
                    last = unreachable();
                    continue;
                }
            };
            match introduce(house, source, &resolution, greeted).await {
                Ok(dialled) => return Ok(dialled),
                Err(fault) => last = fault,
            }
        }
    }
    Err(last)
}

/// Checks that this is the name's homeserver, and tells it our names.
async fn introduce(
    house: &House,
    source: &Name,
    resolution: &Arc<Resolution>,
    greeted: Greeted,
) -> Result<Dialled, Fault> {
    let name = &resolution.name;
    if let Err(fault) = is_authentic(house, resolution, &greeted) {
        greeted.refuse(&fault);
        return Err(fault);
    }
    let claims = house.claims(source);
    let cards: Vec<v1::Signed> = claims.into_iter().map(|(_, card)| card).collect();
    let (connection, ready) = greeted.as_homeserver(cards).await.map_err(|error| error.fault())?;
    let claimed: BTreeSet<Name> =
        ready.names.iter().filter_map(|name| Name::from_wire(name, &house.policy).ok()).collect();
    house.heard(name);
    let peer = Peer::new(connection.clone(), name, []);
    session::serve_dialled(house, peer);
    Ok(Dialled { connection, claimed })
}

fn is_authentic(house: &House, resolution: &Resolution, greeted: &Greeted) -> Result<(), Fault> {
    let wrong = |what: &str| Fault::new(ErrorCode::PeerNotAuthentic, format!("{}: {what}", resolution.name));
    let signed = greeted.server_hello().card.as_ref().ok_or_else(|| wrong("the server shows no card"))?;
    let card = verify_card(signed, &resolution.name, &resolution.card.anchor, house.clock.now())?;
    if card.lists_tls(&greeted.spki()) {
        Ok(())
    } else {
        Err(wrong("the server's TLS key is not in its card"))
    }
}

/// The name of a claimed card, when a connection with this TLS key may speak for it. `[WIRE-AUTH-09]`
pub async fn believe(house: &House, claim: &v1::Signed, spki: Option<[u8; 32]>) -> Result<Name, Fault> {
    use prost::Message as _;
    let refused = |what: String| Fault::new(ErrorCode::ClaimRefused, what);
    let spki = spki.ok_or_else(|| refused("a homeserver shows a certificate".to_owned()))?;
    let card = v1::Card::decode(&claim.body[..])
        .map_err(|_| refused("the claimed card does not decode".to_owned()))?;
    let name = Name::from_wire(&card.name, &house.policy)?;
    if house.names.contains_key(&name) {
        return Err(refused(format!("{name} is served here")));
    }
    if house.resolver.remembered(&name).is_none() {
        // What a claim makes us look up is budgeted by the domain that has to answer for it.
        let domain = name.registrable_domain().to_owned();
        house.limiter.lookups.admit(domain, "lookups of names of this domain", house.clock.now())?;
    }
    let resolution = house.keys.resolution(&name).await?;
    if resolution.card.lists_tls(&spki) {
        return Ok(name);
    }
    // The peer may have changed its TLS key a moment ago and shows a newer card.
    let newer = verify_card(claim, &name, &resolution.card.anchor, house.clock.now());
    match newer {
        Ok(newer) if newer.may_replace(&resolution.card) && newer.lists_tls(&spki) => Ok(name),
        _ => Err(refused(format!("the card of {name} does not list this TLS key"))),
    }
}
