//! The Ahoy homeserver: accounts, conversations, federation, calls, services and their store.

pub mod card_book;
pub mod config;
pub mod homeserver;
pub mod http;
pub mod init;
pub mod invite;
pub mod key_file;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod name_folder;
pub mod store;
