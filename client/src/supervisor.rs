//! What keeps a session signed in: attempt, serve, notice the loss or the drain, wait, attempt again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::delivery::Backoff;
use ahoy_proto::fault::Fault;
use ahoy_proto::time::random;
use ahoy_proto::v1::{self, ErrorClass, ErrorCode};
use ahoy_transport::{Connection, ControlEvent, DeviceCredentials, Greeted, ServiceCredentials};
use tokio::time::{Instant, sleep, timeout};

use crate::begin;
use crate::error::{ClientError, Stage};
use crate::login::{Enrolment, Login};
use crate::network::SIGN_IN_DEADLINE;
use crate::session::{Link, Shared, Status};

/// A connection that lived this long was a good one: after it, the first attempt follows almost at once.
const GOOD_LIFE: Duration = Duration::from_secs(1);
/// The most that an attempt waits after a good connection was lost, so that not every client of a
/// restarted homeserver returns in the same instant. Well below the 15 s in which calls resume.
const SPREAD: Duration = Duration::from_millis(500);
/// The longest wait that a draining homeserver may ask for.
const LONGEST_DRAIN: Duration = Duration::from_secs(60);

/// The longest that calls may take to hang up when the session is closed.
const PARTING: Duration = Duration::from_secs(3);

/// What a successful attempt brings.
pub(crate) struct Won {
    connection: Connection,
    ready: v1::Ready,
    addr: SocketAddr,
}

/// Runs until the session ends: `link` is the connection that exists already, if any.
pub(crate) async fn run(shared: Arc<Shared>, link: Option<Link>) {
    let stop = shared.stop.clone();
    tokio::select! {
        () = keep_signed_in(&shared, link) => {}
        () = stop.cancelled() => { shared.status.send_replace(Status::Closed); }
    }
    if let Some(link) = shared.link.send_replace(None) {
        // Calls say goodbye first: their tasks end on the same token.
        shared.hops.close();
        let _ = timeout(PARTING, shared.hops.wait()).await;
        link.connection.close();
    }
}

async fn keep_signed_in(shared: &Arc<Shared>, mut link: Option<Link>) {
    let mut backoff = Backoff::new();
    let mut fresh = link.is_none();
    loop {
        let current = match link.take() {
            Some(link) => link,
            None => match attempt(shared, fresh).await {
                Ok(won) => publish(shared, won),
                // A name that cannot be resolved now may be repaired; a refused key stays refused.
                Err(error) if error.stage != Stage::SignIn || error.is_retryable() => {
                    let wait = wait(&mut backoff, error.fault.retry_after, shared);
                    shared.status.send_replace(Status::Waiting { retry_in: wait, error });
                    sleep(wait).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "the homeserver refused this session for good");
                    shared.status.send_replace(Status::Refused(error));
                    return;
                }
            },
        };
        fresh = false;
        let since = Instant::now();
        let drain = lost_or_draining(&current.connection).await;
        shared.link.send_replace(None);
        match drain {
            Some(wait) => {
                shared.status.send_replace(Status::Draining);
                sleep(wait).await;
            }
            None if since.elapsed() >= GOOD_LIFE => {
                backoff.heard();
                sleep(spread(shared)).await;
            }
            None => sleep(wait(&mut backoff, None, shared)).await,
        }
        shared.status.send_replace(Status::Connecting);
    }
}

/// Makes a connection the session's own and serves the streams that the homeserver opens on it.
pub(crate) fn publish(shared: &Arc<Shared>, won: Won) -> Link {
    let serial = shared.next_serial();
    let link = Link { connection: won.connection, ready: Arc::new(won.ready), serial };
    let stun = link.ready.stun.parse().unwrap_or(won.addr);
    *shared.stun.lock().expect("no holder panics") = Some(stun);
    shared.link.send_replace(Some(link.clone()));
    shared.status.send_replace(Status::Online);
    shared.tracker.spawn(serve(shared.clone(), link.clone()));
    link
}

/// Until the connection is gone: `None`; until the homeserver drains: how long to stay away.
async fn lost_or_draining(connection: &Connection) -> Option<Duration> {
    loop {
        match connection.control_event().await {
            None => return None,
            Some(ControlEvent::GoAway(wait)) => return Some(wait.min(LONGEST_DRAIN)),
            Some(_) => {} // cards of peers are the homeserver's concern
        }
    }
}

/// Takes the streams that the homeserver opens; goes on through a drain, for the calls that live on it.
async fn serve(shared: Arc<Shared>, link: Link) {
    loop {
        tokio::select! {
            arrived = link.connection.accept() => match arrived {
                Some((open, stream)) => begin::arrived(&shared, open, stream),
                None => return,
            },
            () = shared.stop.cancelled() => return,
        }
    }
}

fn wait(backoff: &mut Backoff, retry_after: Option<Duration>, shared: &Shared) -> Duration {
    let now = shared.network.clock().now();
    backoff.failed(now, retry_after, &*shared.network.entropy()).since(now)
}

fn spread(shared: &Shared) -> Duration {
    let [low, high] = random::<2>(&*shared.network.entropy());
    SPREAD * u32::from(u16::from_le_bytes([low, high])) / u32::from(u16::MAX)
}

/// One attempt to sign in, with the invite where one is due: a device shows it first, a service only
/// when its key is not known; an invite that is spent does not matter when the key is enrolled
/// (the answer to the first use may have been lost, [WIRE-AUTH-21]).
pub(crate) async fn attempt(shared: &Arc<Shared>, fresh: bool) -> Result<Won, ClientError> {
    let enrolment = shared.login.enrolment().filter(|_| fresh || !shared.login.enrols_first());
    let Some(enrolment) = enrolment else { return sign_in(shared, None).await };
    if shared.login.enrols_first() {
        match sign_in(shared, Some(&enrolment)).await {
            Err(error) if error.code() == ErrorCode::BadInvite => {
                sign_in(shared, None).await.map_err(|_| error)
            }
            result => result,
        }
    } else {
        match sign_in(shared, None).await {
            Err(error) if error.stage == Stage::SignIn && error.fault.class == ErrorClass::Auth => {
                sign_in(shared, Some(&enrolment)).await
            }
            result => result,
        }
    }
}

async fn sign_in(shared: &Arc<Shared>, enrolment: Option<&Enrolment>) -> Result<Won, ClientError> {
    let login = &shared.login;
    let (greeted, addr) = shared.network.greet(login.name(), login.role()).await?;
    let error = |fault: Fault| ClientError::new(Stage::SignIn, login.subject(), fault);
    match timeout(SIGN_IN_DEADLINE, prove(login, greeted, enrolment)).await {
        Ok(Ok((connection, ready))) => Ok(Won { connection, ready, addr }),
        Ok(Err(refused)) => Err(error(refused)),
        Err(_) => Err(error(Fault::new(ErrorCode::Timeout, "no answer to the proof within 5 seconds"))),
    }
}

async fn prove(
    login: &Login,
    greeted: Greeted,
    enrolment: Option<&Enrolment>,
) -> Result<(Connection, v1::Ready), Fault> {
    let enrol = enrolment.map(Enrolment::to_wire);
    let result = match login {
        Login::Device(device) => {
            let credentials =
                DeviceCredentials { account: device.account.clone(), key: device.key.clone(), enrol };
            greeted.as_device(&credentials).await
        }
        Login::Service(service) => {
            let credentials = ServiceCredentials {
                service: service.service.clone(),
                key: service.key.clone(),
                enrol,
                addresses: service.addresses.clone(),
                calls: service.calls,
                messages: service.messages,
            };
            greeted.as_service(&credentials).await
        }
    };
    result.map_err(|error| error.fault())
}
