//! ahoy-bridge: SIP and RTP on one side, an ordinary Ahoy service on the other (spec section 7).

pub mod call;
pub mod cdr;
pub mod config;
pub mod lifecycle;
pub mod rtc;
pub mod rtp;
pub mod sdp;
pub mod sip;
pub mod status_map;
pub mod trunk;
