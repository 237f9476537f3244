//! Start, drain, stop: the one place that knows the order.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ahoy_client::{Network, NetworkConfig, ServiceLogin, Session, Status};
use ahoy_proto::address::Local;
use ahoy_proto::key::SigningKey;
use ahoy_proto::time::Entropy;
use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::call::{Exchange, LiveTrunk};
use crate::cdr::Cdr;
use crate::config::BridgeConfig;
use crate::rtc::{RtcConfig, RtcHub};
use crate::trunk;

/// Runs a bridge until SIGTERM or SIGINT, or until its homeserver refuses it for good.
pub async fn run(config: BridgeConfig) -> anyhow::Result<()> {
    let name = config.parsed_name().map_err(anyhow::Error::msg)?;
    let service =
        Local::parse(&config.service).with_context(|| format!("service = \"{}\"", config.service))?;
    let policy = config.policy();
    let trunks = trunk::load_folder(&config.trunks, &name, &policy)?;
    let addresses: Vec<_> = trunks.iter().flat_map(trunk::Trunk::lines).cloned().collect();
    private_folder(&config.data_dir)?;
    let network = Network::open(NetworkConfig {
        data_dir: config.data_dir.clone(),
        dns: config.dns.clone(),
        special_use_allowed: config.special_use_allowed.clone(),
        bind: config.bind,
    })
    .await?;
    let (clock, entropy) = (network.clock(), network.entropy());
    let key = service_key(&config.data_dir, &*entropy)?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut live = Vec::new();
    let mut incoming = Vec::new();
    for trunk in trunks {
        let id = trunk.id.clone();
        let bind = trunk.file.bind;
        let (up, calls) = LiveTrunk::bind(trunk, entropy.clone(), &tasks, stop.clone())
            .await
            .with_context(|| format!("trunk {id}: SIP at {bind}"))?;
        live.push(up);
        incoming.push(calls);
    }
    let hub = RtcHub::bind(RtcConfig {
        bind: config.media_bind,
        stun: None,
        max_calls: config.max_calls,
        entropy: entropy.clone(),
    })?;
    let cdr = Cdr::open(&config.cdr).await.with_context(|| format!("cdr = {}", config.cdr.display()))?;
    let session = Session::start_service(
        &network,
        ServiceLogin {
            name,
            service,
            key,
            invite: config.invite.clone(),
            addresses,
            calls: true,
            messages: false,
        },
    );
    let exchange = Arc::new(Exchange {
        trunks: live,
        hub: hub.clone(),
        session: session.clone(),
        cdr,
        clock,
        entropy,
        policy,
        calls: TaskTracker::new(),
        draining: CancellationToken::new(),
        cut: CancellationToken::new(),
    });
    tasks.spawn(exchange.clone().run(incoming));
    let outcome = tokio::select! {
        refused = watch(&session, &hub) => Err(refused),
        signal = stop_signal() => signal,
    };
    tracing::info!(seconds = config.drain_seconds, "draining: no new calls");
    exchange.drain(Duration::from_secs(config.drain_seconds)).await;
    session.close().await;
    hub.close().await;
    stop.cancel();
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await;
    network.close().await;
    outcome
}

/// Follows the session: the homeserver's STUN address, and what people should know. Returns
/// only when the homeserver refuses the bridge for good.
async fn watch(session: &Session, hub: &RtcHub) -> anyhow::Error {
    let mut status = session.status();
    let mut told = false;
    loop {
        let now = status.borrow_and_update().clone();
        match now {
            Status::Online => {
                hub.set_stun(session.stun_addr());
                tracing::info!(service = session.subject(), "signed in");
                if !told {
                    told = true;
                    println!("ahoy-bridge is ready");
                }
            }
            Status::Waiting { retry_in, error } => tracing::warn!(?retry_in, %error, "not signed in"),
            Status::Refused(error) => return anyhow::Error::msg(error.to_string()),
            Status::Connecting | Status::Draining | Status::Closed => {}
        }
        if status.changed().await.is_err() {
            return anyhow::anyhow!("the session ended");
        }
    }
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn private_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("data_dir = {}", folder.display()))
}

/// The service's key: read, or made at the first start. Mode 0600.
fn service_key(folder: &Path, entropy: &dyn Entropy) -> anyhow::Result<SigningKey> {
    use std::io::Write;
    let path = folder.join("service.key");
    let shown = path.display();
    if path.exists() {
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
        anyhow::ensure!(
            mode & 0o077 == 0,
            "{shown} has mode {mode:o}, so that others can read it: run `chmod 600` on it"
        );
        let text = Zeroizing::new(std::fs::read_to_string(&path).with_context(|| shown.to_string())?);
        return SigningKey::from_key_file(&text).with_context(|| shown.to_string());
    }
    private_folder(folder)?;
    let key = SigningKey::generate(entropy);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(key.to_key_file().as_bytes())?;
    file.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting;
    impl Entropy for Counting {
        fn fill(&self, out: &mut [u8]) {
            out.iter_mut().zip(1..).for_each(|(byte, number)| *byte = number);
        }
    }

    #[test]
    fn the_key_is_made_once_and_refused_when_others_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let made = service_key(&data, &Counting).unwrap();
        let read = service_key(&data, &Counting).unwrap();
        assert_eq!(made.public().as_bytes(), read.public().as_bytes());
        std::fs::set_permissions(data.join("service.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(service_key(&data, &Counting).expect_err("refused").to_string().contains("chmod 600"));
    }
}
