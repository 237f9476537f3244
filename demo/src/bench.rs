//! Decides how figures are taken and shown: each part starts real programs of its own, and prints its rows as it goes.

pub mod call;
pub mod machine;
pub mod media;
pub mod memory;
pub mod messages;
pub mod resolve;
pub mod store;

use std::time::Duration;

use crate::{
    layout::{Addresses, Layout},
    world::{Options, World},
};

/// `[limits]` that do not stand in the way of a measurement.
const LIMITS: &str = "device_messages = 1000000.0\nservice_messages = 1000000.0\ndevice_calls = 1000.0\n\
                      service_calls = 1000.0\nrequests = 100000.0\npeer_items = 1000000.0\npeer_calls = 1000.0";

/// Prints the head of the table.
pub fn print_head() {
    print_row("what", "figure", "ceiling or aim", "how");
    println!("{}", "-".repeat(150));
}

/// Prints a row of the table.
pub fn print_row(what: &str, figure: &str, aim: &str, how: &str) {
    println!("{what:<44} | {figure:<42} | {aim:<38} | {how}");
}

/// Makes a world, lets `measure` start in it what it needs, and stops everything.
///
/// # Errors
/// Those of `measure`; the run folder, with the logs, is kept then.
pub async fn in_world(
    part: &str,
    measure: impl AsyncFnOnce(&mut World) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let process = std::process::id();
    let root = std::env::temp_dir().join(format!("ahoy-bench-{process}-{part}"));
    let layout = Layout::new(root.clone())?;
    let options = Options { limits: LIMITS.to_owned(), ..Options::default() };
    let mut world = World::new(layout, Addresses::loopback(process), options);
    let measured = measure(&mut world).await;
    world.stop().await;
    if measured.is_ok() {
        std::fs::remove_dir_all(&root)?;
    }
    measured
}

/// Times, to be asked for their quantiles.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that a share `q` of all does not exceed, in milliseconds; 0 without any.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        // Nearest rank.
        let rank = (sorted.len() as f64 * q).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }

    /// p50, p99 and the slowest.
    pub fn summary(&self) -> String {
        let at = |q| self.quantile_ms(q);
        format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let mut times = Times::default();
        assert_eq!(times.quantile_ms(0.5), 0.0);
        for ms in (1..=100).rev() {
            times.add(Duration::from_millis(ms));
        }
        assert_eq!(times.quantile_ms(0.5), 50.0);
        assert_eq!(times.quantile_ms(0.99), 99.0);
        assert_eq!(times.quantile_ms(1.0), 100.0);
    }
}
