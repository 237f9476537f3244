//! Decides how the demo's own programs take part: sessions of the client SDK, enrolled as an operator would.

use std::net::{IpAddr, SocketAddr};

use ahoy_client::{DeviceLogin, Enrolment, Network, NetworkConfig, ServiceLogin, Session};
use ahoy_proto::{
    address::{Address, Local},
    key::SigningKey,
    name::{Name, NamePolicy},
    v1,
};
use anyhow::Context;

use crate::{
    layout::{BANK, HOME},
    world::World,
};

/// The names of the demo are special-use ones.
pub fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

/// An address of the demo.
///
/// # Errors
/// When it is none.
pub fn address(text: &str) -> anyhow::Result<Address> {
    Address::parse(text, &policy()).with_context(|| format!("{text:?} is no address"))
}

/// A way to the network of its own: one socket, one resolver, and pins in a folder of the run.
///
/// # Errors
/// When the folder or the socket cannot be had.
pub async fn network(world: &World, folder: &str, bind: IpAddr) -> anyhow::Result<Network> {
    let config = NetworkConfig {
        data_dir: world.layout.path(folder),
        dns: toml::from_str(&world.dns_values())?,
        special_use_allowed: vec!["example".to_owned()],
        bind: SocketAddr::new(bind, 0),
    };
    Ok(Network::open(config).await?)
}

/// The folder of the homeserver that serves a name.
fn homeserver_of(name: &Name) -> &'static str {
    if name.as_str() == HOME { "home" } else { "bank" }
}

/// A login for a fresh device of a fresh or known account, with an invite of its homeserver.
///
/// # Errors
/// When the homeserver gives no invite.
pub async fn device_login(world: &World, network: &Network, account: &str) -> anyhow::Result<DeviceLogin> {
    let account = address(account)?;
    let invite = world.invite(homeserver_of(account.name()), &[&account.to_string()]).await?;
    let enrol = Some(Enrolment { invite, label: "demo".to_owned() });
    Ok(DeviceLogin { account, key: SigningKey::generate(&*network.entropy()), enrol })
}

/// A fresh device of an account, signed in.
///
/// # Errors
/// When it cannot be enrolled.
pub async fn device(world: &World, network: &Network, account: &str) -> anyhow::Result<Session> {
    Ok(Session::sign_in_device(network, device_login(world, network, account).await?).await?)
}

/// A service of the company that takes the messages of one line.
///
/// # Errors
/// When it cannot be enrolled.
pub async fn message_service(
    world: &World,
    network: &Network,
    service: &str,
    line: &str,
) -> anyhow::Result<Session> {
    let invite = world.invite("bank", &["--service", service, "--address", line]).await?;
    let login = ServiceLogin {
        name: Name::parse(BANK, &policy()).context("the company's name")?,
        service: Local::parse(service).context("the service's name")?,
        key: SigningKey::generate(&*network.entropy()),
        invite: Some(invite),
        addresses: vec![address(line)?],
        calls: false,
        messages: true,
    };
    Ok(Session::sign_in_service(network, login).await?)
}

/// A text to an address.
pub fn text(to: &Address, client_id: [u8; 16], body: &str) -> v1::Submit {
    let text = v1::Text { body: body.to_owned(), ..v1::Text::default() };
    let content = v1::Content { fallback: body.to_owned(), content: Some(v1::content::Content::Text(text)) };
    v1::Submit {
        to: to.to_string(),
        client_id: client_id.to_vec().into(),
        content: Some(content),
        ..v1::Submit::default()
    }
}
