//! `ahoy-conform`: judges a homeserver from outside. Trusts the generated schema types and nothing else of this
//! workspace's protocol code; the zones that it serves are signed by `ahoy_testkit::dns`.

pub mod cases;
pub mod coverage;
pub mod event;
pub mod frame;
pub mod leg;
pub mod moment;
pub mod peer;
pub mod pipe;
pub mod quic;
pub mod refusal;
pub mod report;
pub mod run;
pub mod session;
pub mod sign;
pub mod world;
