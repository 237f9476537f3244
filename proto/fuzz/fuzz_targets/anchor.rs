//! Drives `ahoy_proto::fuzz::anchor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_proto::fuzz::anchor(data));
