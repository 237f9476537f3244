//! placeholder
#[cfg(feature = "media")]
pub mod media;
