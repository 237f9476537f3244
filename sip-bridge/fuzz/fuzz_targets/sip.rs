//! Drives `ahoy_bridge::sip::fuzz_datagram`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ahoy_bridge::sip::fuzz_datagram(data));
