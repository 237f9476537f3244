//! Durable commits per second on a disk: `ahoyd-store-bench FOLDER [SECONDS] [WRITERS ...]`.
//!
//! Each writer commits 1 KiB values one after the other; what is timed is from the call of `commit` to its return,
//! with the disk synced in between. The store is in a folder of its own below FOLDER, which is removed afterwards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ahoyd::store::{self, Batch, Partition, Store};
use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many writers, unless it is said.
const WRITERS: [u64; 5] = [1, 16, 64, 256, 1024];
/// What the engine reached on its own with 256 writers when it was chosen, on two cores.
const CEILING: &str = "ceiling 105000/s with 256 writers (fjall 3.1 alone, two cores)";

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("usage: ahoyd-store-bench FOLDER [SECONDS] [WRITERS ...]")?;
    let numbers = arguments.map(|a| a.parse().with_context(|| format!("{a:?} is no number")));
    let numbers: Vec<u64> = numbers.collect::<anyhow::Result<_>>()?;
    let (seconds, writers) = match numbers.split_first() {
        Some((seconds, writers)) if !writers.is_empty() => (*seconds, writers.to_vec()),
        Some((seconds, _)) => (*seconds, WRITERS.to_vec()),
        None => (3, WRITERS.to_vec()),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    println!("durable commits of 1 KiB; {CEILING}");
    println!("{:>8} {:>12} {:>10} {:>10} {:>14}", "writers", "commits/s", "p50", "p99", "commits/sync");
    for writers in writers {
        let run = runtime.block_on(measure(Path::new(&folder), writers, Duration::from_secs(seconds)))?;
        println!(
            "{writers:>8} {:>12.0} {:>7.2} ms {:>7.2} ms {:>14.1}",
            run.per_second, run.p50_ms, run.p99_ms, run.per_sync
        );
    }
    Ok(())
}

struct Run {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    per_sync: f64,
}

async fn measure(folder: &Path, writers: u64, time: Duration) -> anyhow::Result<Run> {
    let dir = folder.join(format!("store-bench-{}-{writers}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let store = store::open(&dir, 32 << 20).with_context(|| format!("no store in {}", dir.display()))?;
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for writer in 0..writers {
        running.spawn(write(store.clone(), writer, begun + time));
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(written) = running.join_next().await {
        times.extend(written??);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    let stats = store.stats();
    anyhow::ensure!(stats.commits == times.len() as u64, "a commit was not acknowledged exactly once");
    drop(store);
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    Ok(Run {
        per_second: times.len() as f64 / elapsed,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        per_sync: stats.commits as f64 / stats.groups as f64,
    })
}

async fn write(store: Arc<dyn Store>, writer: u64, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let partition = Partition::new("bench", writer.to_be_bytes());
    // Bytes that do not compress.
    let mut state = writer + 1;
    let value: Vec<u8> = (0..1024).map(|_| noise(&mut state)).collect();
    let mut times = Vec::new();
    for at in 0u64.. {
        let begun = Instant::now();
        if begun >= until {
            break;
        }
        let batch = Batch::new(&partition).put(at.to_be_bytes().to_vec(), value.clone());
        store.commit(batch).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// One step of xorshift64.
fn noise(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}
