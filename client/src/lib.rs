//! The Ahoy SDK: connect, sign in, send, sync, call, answer.
//!
//! ```no_run
//! # async fn example(network: ahoy_client::Network, login: ahoy_client::DeviceLogin) -> Result<(), ahoy_client::ClientError> {
//! use ahoy_client::Session;
//! let session = Session::sign_in_device(&network, login).await?;
//! let mut log = session.sync(0);
//! while let ahoy_client::SyncEvent::Item(item) = log.next().await? {
//!     println!("{}: {:?}", item.position, item.item);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Session`] renews its connection by itself; its sync log and its calls go on over the next one.
//! Everything but [`media`] and [`phone`] works without the feature `media`.

mod begin;
pub mod call;
pub mod error;
mod hop;
mod login;
#[cfg(feature = "media")]
pub mod media;
pub mod message;
pub mod network;
pub mod outcome;
#[cfg(feature = "media")]
pub mod phone;
mod rules;
mod session;
mod supervisor;
mod sync;

pub use call::{Call, CallOver, CallSender, IncomingCall, PlaceCall};
pub use error::{ClientError, Stage};
pub use login::{DeviceLogin, Enrolment, ServiceLogin};
pub use network::{Network, NetworkConfig, NetworkParts};
pub use session::{INCOMING_CALLS, Session, Status};
pub use sync::{SyncEvent, SyncStream};
