//! For tests and the demo: what stands where the real world stands.

pub mod phone;
pub mod tone;
