//! Drives `ahoy_proto::fuzz::card`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_proto::fuzz::card(data));
