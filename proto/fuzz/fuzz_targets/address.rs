//! Drives `ahoy_proto::fuzz::address`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_proto::fuzz::address(data));
