//! Whole calls through the bridge's call control: a homeserver in process on one side (real QUIC,
//! real signatures), a PBX by hand on the other (real SIP and RTP datagrams), real media.

mod dtmf;
mod ends;
mod from_trunk;
mod health;
mod homeserver;
mod path;
mod pbx;
mod rig;
mod to_trunk;
