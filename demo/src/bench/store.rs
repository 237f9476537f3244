//! Durable commits per second of the homeserver's store, measured in a process of its own.

use std::time::Duration;

use anyhow::Context;

use super::{in_world, print_row};
use crate::process::Spec;

const SECONDS: &str = "3";

/// Runs `ahoyd-store-bench` with one and with 256 writers.
///
/// # Errors
/// When it fails.
pub async fn run() -> anyhow::Result<()> {
    in_world("store", async |world| {
        let command = [
            world.layout.program("ahoyd-store-bench"),
            world.layout.text("home"),
            SECONDS.to_owned(),
            "1".to_owned(),
            "256".to_owned(),
        ];
        let table =
            tokio::time::timeout(Duration::from_secs(60), world.output(Spec::new("store-bench", command)))
                .await??;
        for writers in ["1", "256"] {
            let words = |l: &str| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let row = table.lines().map(words).find(|w| w.first().is_some_and(|n| n == writers));
            let row =
                row.filter(|w| w.len() == 7).with_context(|| format!("no row for {writers}:\n{table}"))?;
            let (per_second, p50, p99, per_sync) = (&row[1], &row[2], &row[4], &row[6]);
            print_row(
                &format!("durable commits, {writers} writer(s)"),
                &format!("{per_second}/s, p50 {p50} ms, p99 {p99} ms"),
                if writers == "1" { "-" } else { "ceiling 105,000/s (engine alone)" },
                &format!("1 KiB values, fdatasync before each acknowledgement, {per_sync} commits per sync"),
            );
        }
        Ok(())
    })
    .await
}
