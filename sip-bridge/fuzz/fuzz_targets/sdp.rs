//! Drives `ahoy_bridge::sdp::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_bridge::sdp::fuzz(data));
