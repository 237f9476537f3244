//! Drives `ahoy_proto::fuzz::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_proto::fuzz::session(data));
