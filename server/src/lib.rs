//! The Ahoy homeserver: accounts, conversations, federation, calls, services and their store.

pub mod store;
