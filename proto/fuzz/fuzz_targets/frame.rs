//! Drives `ahoy_proto::fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_proto::fuzz::frame(data));
