//! placeholder
pub mod rtc;
