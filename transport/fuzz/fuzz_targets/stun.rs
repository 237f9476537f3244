//! Any datagram at the shared port: no panic, and no answer that is larger than a few words.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let source = std::net::SocketAddr::from(([192, 0, 2, 1], 32853));
    assert!(ahoy_transport::stun::answer(data, source).is_none_or(|answer| answer.len() <= 56));
    let _ = ahoy_transport::stun::parse_response(data, &[0; 12]);
});
