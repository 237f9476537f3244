//! Where time and randomness enter the process: the only readers of the system clock and random source.

use std::time::{SystemTime, UNIX_EPOCH};

use ahoy_proto::time::{Clock, Entropy, Timestamp};

/// The operating system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The operating system's random source, through the process's TLS provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) {
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        random.fill(out).expect("the operating system's random source does not fail after start-up");
    }
}
