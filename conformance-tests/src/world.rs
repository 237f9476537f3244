//! Decides what a run consists of: the subject, the DNS and the homeserver that the suite plays, and the accounts and
//! services with which it signs in.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::{Instant, sleep};

use ahoy_proto::v1::{self, Role};
use ahoy_testkit::dns::{Data, Signing, Zone, ZoneRecord, ZoneServer};

use crate::moment::now_s;
use crate::peer::Peer;
use crate::quic::{Net, Show};
use crate::refusal::Skipped;
use crate::session::{Greeted, Session, Target, greet, hello};
use crate::sign::{self, Anchor, Key};

/// How long the subject may take to answer after the suite said that it is ready.
const START: Duration = Duration::from_secs(30);
/// Pause between two tries to reach it.
const AGAIN: Duration = Duration::from_millis(200);

/// What a run is given.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The subject's name.
    pub name: String,
    /// Host and optional port to publish for it.
    pub endpoint: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its anchor, as it is to be published.
    pub anchor: String,
    /// Where the suite serves DNS.
    pub dns_listen: SocketAddr,
    /// Where the suite writes the trust anchor that the subject reads.
    pub trust_anchor: PathBuf,
    /// Where the suite's homeservers listen.
    pub peer_address: IpAddr,
    /// `account=token`.
    pub invites: Vec<(String, String)>,
    /// A service, its addresses and its token.
    pub services: Vec<(String, Vec<String>, String)>,
}

/// A device or service of the subject.
pub struct Account {
    /// The address of a person, or the service's name.
    pub name: String,
    /// A service's addresses; empty for a person.
    pub addresses: Vec<String>,
    /// Its key.
    pub key: Key,
    /// The token that it enrols with.
    pub invite: String,
    is_service: bool,
    is_enrolled: AtomicBool,
}

/// A name of the suite.
pub struct Site {
    /// The name.
    pub name: String,
    /// `k`.
    pub key: Arc<Key>,
    /// Signs events, placements and invites.
    pub message_key: Arc<Key>,
}

/// Everything that a case works with.
pub struct World {
    /// Where the subject is.
    pub subject: Target,
    /// Its anchor, checked.
    pub anchor: Anchor,
    /// The DNS that the subject asks.
    pub dns: ZoneServer,
    /// The zone above all names of a run.
    pub parent: String,
    /// The suite's homeserver's port.
    pub net: Net,
    /// A port with a key that no card lists.
    pub stranger: Net,
    /// The suite's homeserver.
    pub peer: Peer,
    /// Its main name.
    pub home: Site,
    /// Devices, one for each invite.
    pub devices: Vec<Account>,
    /// Services, likewise.
    pub services: Vec<Account>,
    /// The subject's process, when the suite started it.
    pub process: Option<u32>,
}

impl World {
    /// Starts DNS, publishes the subject and the suite's own name, writes the trust anchor, opens the ports.
    ///
    /// # Errors
    /// When an address cannot be bound, a file cannot be written, or the subject's anchor is not valid.
    pub async fn prepare(settings: &Settings) -> anyhow::Result<Self> {
        let name = settings.name.clone();
        let (_, parent) = name.split_once('.').context("the subject's name has a single label")?;
        let parent = parent.to_owned();
        let anchor = sign::check_anchor(&name, &settings.anchor, now_s())
            .with_context(|| format!("the anchor given for {name} is not valid"))?;
        let host = settings.endpoint.split(':').next().unwrap_or_default().to_owned();
        ensure!(
            host.ends_with(&format!(".{name}")),
            "the endpoint {host} is not below {name}: the suite serves that zone alone"
        );
        let dns = ZoneServer::start(settings.dns_listen, &parent).await?;
        let records = vec![
            ZoneRecord::new(format!("_ahoy.{name}"), Data::Text(settings.anchor.clone())),
            ZoneRecord::new(host.clone(), Data::Address(settings.address.ip())),
        ];
        dns.put_zone(Zone::signed(&name, records))?;
        let (net, stranger) = (Net::bind(settings.peer_address)?, Net::bind(settings.peer_address)?);
        let home = Site::new(format!("peer.{parent}"));
        let world = Self {
            subject: Target { name, host, address: settings.address },
            anchor,
            parent,
            peer: Peer::start(net.clone()),
            net,
            stranger,
            home,
            devices: settings.invites.iter().map(|(a, token)| Account::person(a, token)).collect(),
            services: settings.services.iter().map(|(s, a, token)| Account::service(s, a, token)).collect(),
            dns,
            process: None,
        };
        world.open_site(&world.home)?;
        std::fs::write(&settings.trust_anchor, world.dns.trust_anchor()?)
            .with_context(|| format!("cannot write {}", settings.trust_anchor.display()))?;
        Ok(world)
    }

    /// Waits until the subject shows its card.
    ///
    /// # Errors
    /// When it does not within 30 s.
    pub async fn await_subject(&self) -> anyhow::Result<()> {
        let until = Instant::now() + START;
        loop {
            let error = match self.greet(Role::CardReader).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if Instant::now() >= until {
                let subject = &self.subject;
                return Err(error.context(format!(
                    "{} at {} does not show its card within {START:?}",
                    subject.name, subject.address
                )));
            }
            sleep(AGAIN).await;
        }
    }

    /// Asks the subject's process to stop, as an operator would.
    ///
    /// # Errors
    /// [`Skipped`] when the suite did not start it.
    pub async fn stop_subject(&self) -> anyhow::Result<()> {
        let process = self.process.ok_or_else(|| Skipped("needs --start".into()))?;
        let kill =
            tokio::process::Command::new("kill").args(["-TERM", &process.to_string()]).status().await?;
        ensure!(kill.success(), "the subject cannot be asked to stop");
        Ok(())
    }

    /// A name below the run's parent zone.
    pub fn name(&self, label: &str) -> String {
        format!("{label}.{}", self.parent)
    }

    /// A valid anchor text for a name of the suite, without its signature.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn anchor_text(&self, site: &Site) -> anyhow::Result<String> {
        let port = self.net.address()?.port();
        Ok(sign::anchor_text(&site.key, now_s(), &format!("e=hs.{}:{port}", site.name)))
    }

    /// A valid card for an anchor of the suite.
    pub fn card(&self, site: &Site, anchor: &str) -> v1::Card {
        sign::card(&site.name, anchor, &self.net.spki, &site.message_key)
    }

    /// Publishes this anchor for a site, in a zone signed like this.
    ///
    /// # Errors
    /// When the zone cannot be signed.
    pub fn publish(&self, site: &Site, anchor: &str, signing: Signing) -> anyhow::Result<()> {
        let text = ZoneRecord::new(format!("_ahoy.{}", site.name), Data::Text(anchor.to_owned()));
        self.put_zone(site, vec![text], signing)
    }

    /// Publishes these records, and the address of the suite's homeserver.
    ///
    /// # Errors
    /// When the zone cannot be signed.
    pub fn put_zone(
        &self,
        site: &Site,
        mut records: Vec<ZoneRecord>,
        signing: Signing,
    ) -> anyhow::Result<()> {
        let host = format!("hs.{}", site.name);
        records.push(ZoneRecord::new(host, Data::Address(self.net.address()?.ip())));
        self.dns.put_zone(Zone { name: site.name.clone(), signing, records })
    }

    /// Publishes a site that is right in every respect, and shows its card.
    ///
    /// # Errors
    /// When the zone cannot be signed.
    pub fn open_site(&self, site: &Site) -> anyhow::Result<()> {
        let anchor = sign::sign_anchor(&site.name, &site.key, &self.anchor_text(site)?);
        self.publish(site, &anchor, Signing::Signed)?;
        self.peer.show_card(&site.name, sign::sign_card(&self.card(site, &anchor), &site.key));
        Ok(())
    }

    /// Exchanges hellos with the subject in a role.
    ///
    /// # Errors
    /// As [`greet`].
    pub async fn greet(&self, role: Role) -> anyhow::Result<Greeted> {
        let show = if role == Role::Homeserver { Show::Certificate } else { Show::Nothing };
        greet(&self.net, &self.subject, show, hello(role, &self.subject.name)).await
    }

    /// The card that the subject shows now, checked.
    ///
    /// # Errors
    /// The requirement that it breaks.
    pub async fn subject_card(&self) -> anyhow::Result<v1::Card> {
        let greeted = self.greet(Role::CardReader).await?;
        let signed = greeted.hello.card.as_ref().context("WIRE-HELLO-05: a ServerHello without a card")?;
        sign::check_card(signed, &self.subject.name, &self.anchor, &greeted.spki)
    }

    /// The account of a device of the run.
    ///
    /// # Errors
    /// [`Skipped`] when the run was given fewer invites.
    pub fn person(&self, index: usize) -> anyhow::Result<&Account> {
        self.devices.get(index).ok_or_else(|| Skipped(format!("needs {} --invite", index + 1)).into())
    }

    /// Signs a device in, which enrols it the first time.
    ///
    /// # Errors
    /// [`Skipped`], or the subject's refusal.
    pub async fn device(&self, index: usize) -> anyhow::Result<Session> {
        self.sign_in(self.person(index)?).await
    }

    /// The first service.
    ///
    /// # Errors
    /// [`Skipped`] when the run was given none.
    pub fn desk(&self) -> anyhow::Result<&Account> {
        self.services.first().ok_or_else(|| Skipped("needs a --service-invite".into()).into())
    }

    /// The line that the first service answers for.
    ///
    /// # Errors
    /// [`Skipped`] when the run was given no service with an address.
    pub fn line(&self) -> anyhow::Result<&str> {
        let address = self.desk()?.addresses.first();
        address.map(String::as_str).ok_or_else(|| Skipped("needs a service with an address".into()).into())
    }

    /// Signs the first service in, which enrols it the first time.
    ///
    /// # Errors
    /// [`Skipped`], or the subject's refusal.
    pub async fn service(&self) -> anyhow::Result<Session> {
        self.sign_in(self.desk()?).await
    }

    async fn sign_in(&self, account: &Account) -> anyhow::Result<Session> {
        let role = if account.is_service { Role::Service } else { Role::Device };
        let greeted = self.greet(role).await?;
        let invite = (!account.is_enrolled.load(Ordering::Relaxed)).then_some(account.invite.as_str());
        let auth = account.auth(&greeted, invite);
        let session =
            greeted.authenticate(auth).await.with_context(|| format!("{} signs in", account.name))?;
        account.is_enrolled.store(true, Ordering::Relaxed);
        // Whoever has an answer to a request is connected for calls too: `Ready` alone may arrive a moment earlier.
        let who = v1::Who { address: self.subject.name.clone() };
        // What the answer says is nothing to this.
        let _ = session.request(v1::request::Request::Who(who)).await;
        Ok(session)
    }

    /// Signs in at the subject as the homeserver of the suite's main name.
    ///
    /// # Errors
    /// The subject's refusal.
    pub async fn homeserver(&self) -> anyhow::Result<Session> {
        let greeted = self.greet(Role::Homeserver).await?;
        let card = self.peer.card(&self.home.name).context("the suite shows its own card")?;
        let session = greeted.authenticate(claim(vec![card])).await?;
        if session.ready.names != [self.home.name.clone()] {
            bail!("the claim of {} was not accepted: {:?}", self.home.name, session.ready.names);
        }
        Ok(session)
    }
}

/// A homeserver's `Auth`.
pub fn claim(cards: Vec<v1::Signed>) -> v1::Auth {
    let claims = cards.into_iter().map(|card| v1::Claim { card: Some(card) }).collect();
    crate::session::auth(v1::auth::Auth::Server(v1::ServerAuth { claims }))
}

impl Account {
    fn person(address: &str, token: &str) -> Self {
        Self::new(address, Vec::new(), token, false)
    }

    fn service(name: &str, addresses: &[String], token: &str) -> Self {
        Self::new(name, addresses.to_vec(), token, true)
    }

    fn new(name: &str, addresses: Vec<String>, invite: &str, is_service: bool) -> Self {
        Self {
            name: name.to_owned(),
            addresses,
            key: Key::generate(),
            invite: invite.to_owned(),
            is_service,
            is_enrolled: AtomicBool::new(false),
        }
    }

    /// The right `Auth` on a connection.
    pub fn auth(&self, greeted: &Greeted, invite: Option<&str>) -> v1::Auth {
        if self.is_service {
            greeted.service_auth(&self.name, &self.key, &self.addresses, invite)
        } else {
            greeted.device_auth(&self.name, &self.key, invite)
        }
    }
}

impl Site {
    /// A name with fresh keys.
    pub fn new(name: String) -> Self {
        Self { name, key: Arc::new(Key::generate()), message_key: Arc::new(Key::generate()) }
    }

    /// An address of it.
    pub fn address(&self, local: &str) -> String {
        format!("{local}@{}", self.name)
    }
}
