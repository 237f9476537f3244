//! Drives `ahoy_bridge::rtc::fuzz_stun`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_bridge::rtc::fuzz_stun(data));
