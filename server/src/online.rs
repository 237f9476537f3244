//! Decides who is signed in right now, and lets calls find them and wait for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ahoy_proto::address::Address;
use ahoy_proto::fault::Fault;
use ahoy_proto::name::Name;
use ahoy_proto::v1::ErrorCode;
use ahoy_transport::Connection;

use crate::home::Home;
use crate::submit::Speaker;
use crate::wake::lock;

/// A signed-in device or service.
pub struct Client {
    /// Data of the name that it signed in at.
    pub home: Arc<Home>,
    /// As whom it speaks.
    pub speaker: Speaker,
    /// Whether it is a service; else it is a person's device.
    pub is_service: bool,
    /// Answers calls. Devices always do.
    pub calls: bool,
    /// Its connection.
    pub connection: Connection,
}

impl Client {
    /// Whether it answers calls to `address`.
    pub fn answers(&self, address: &Address) -> bool {
        self.calls && (!self.is_service || self.speaker.claimed.contains(address))
    }
}

/// Name and owner.
type Key = (Name, String);

/// Everybody who is signed in.
#[derive(Default)]
pub struct Online {
    clients: Mutex<HashMap<Key, Vec<Arc<Client>>>>,
}

impl Online {
    /// Somebody signed in. Of one device at most `most` connections are kept: the oldest one is closed.
    pub fn add(&self, client: Arc<Client>, most: usize) {
        let device = client.speaker.device;
        let mut clients = lock(&self.clients);
        let all = clients.entry(key_of(&client)).or_default();
        all.push(client);
        let mut same = all.iter().filter(|client| client.speaker.device == device);
        if same.clone().count() > most
            && let Some(oldest) = same.next()
        {
            let fault = Fault::new(ErrorCode::Limit, "this device has newer connections");
            oldest.connection.close_with(&fault);
        }
    }

    /// Their connection is gone.
    pub fn remove(&self, client: &Arc<Client>) {
        let mut clients = lock(&self.clients);
        if let Some(all) = clients.get_mut(&key_of(client)) {
            all.retain(|other| !Arc::ptr_eq(other, client));
            if all.is_empty() {
                clients.remove(&key_of(client));
            }
        }
    }

    /// The connections of an owner, the newest last; dead ones left out.
    pub fn of(&self, name: &Name, owner: &str) -> Vec<Arc<Client>> {
        let clients = lock(&self.clients);
        let all = clients.get(&(name.clone(), owner.to_owned()));
        all.into_iter().flatten().filter(|client| client.connection.is_closed().is_none()).cloned().collect()
    }

    /// The newest connection of one device or service.
    pub fn device(&self, name: &Name, owner: &str, device: &[u8; 8]) -> Option<Arc<Client>> {
        self.of(name, owner).into_iter().rfind(|client| client.speaker.device == *device)
    }
}

fn key_of(client: &Client) -> Key {
    (client.home.desk.name.clone(), client.speaker.owner.clone())
}
