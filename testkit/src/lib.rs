//! For tests and the demo: what stands where the real world stands.

pub mod clock;
pub mod dns;
pub mod phone;
pub mod tone;
