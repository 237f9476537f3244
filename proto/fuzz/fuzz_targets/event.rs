//! Drives `ahoy_proto::fuzz::event`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_proto::fuzz::event(data));
