//! Names: from a name to its verified anchor and card (spec section 2).
//!
//! ```text
//! resolve -> cache -> pin -> DnsView (aliases by hand) -> rules -> CardSource -> Resolution
//! ```

mod cache;
mod config;
mod contact;
mod error;
mod hickory;
mod introduce;
mod judge;
mod pin;
mod resolution;
mod resolver;
mod trail;
mod trust;
mod view;

pub use config::{DnsConfig, DnsConfigError};
pub use error::ResolveError;
pub use hickory::HickoryView;
pub use pin::{FilePins, MemoryPins, Pin, PinStore};
pub use resolution::{Explanation, Level, Resolution, ResolvedEndpoint, Step, Warning};
pub use resolver::{Resolver, ResolverLimits};
pub use view::{DnsAnswer, DnsFault, DnsView, Found, Standing};
