//! Durable commits per second: `cargo bench -p ahoyd --bench store [-- SECONDS]`.
//!
//! Each writer commits 1 KiB values one after the other; what is timed is from the call of `commit` to its return,
//! with the disk synced in between. The store is in a folder of its own below the target folder, or below
//! `AHOY_BENCH_DIR`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ahoyd::store::{self, Batch, Partition, Store};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What the engine reached on its own with 256 writers when it was chosen, on two cores.
const CEILING: &str = "ceiling 105000/s with 256 writers (fjall 3.1 alone, two cores)";

fn main() {
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(3);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("durable commits of 1 KiB; {CEILING}");
    println!("{:>8} {:>12} {:>10} {:>10} {:>14}", "writers", "commits/s", "p50", "p99", "commits/sync");
    for writers in [1, 16, 64, 256, 1024] {
        let run = runtime.block_on(measure(writers, Duration::from_secs(seconds)));
        println!(
            "{writers:>8} {:>12.0} {:>7.2} ms {:>7.2} ms {:>14.1}",
            run.per_second, run.p50_ms, run.p99_ms, run.per_sync
        );
    }
}

struct Run {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    per_sync: f64,
}

async fn measure(writers: usize, time: Duration) -> Run {
    let folder = std::env::var_os("AHOY_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(folder).expect("a folder");
    let store = store::open(dir.path(), 32 << 20).expect("the store opens");
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for writer in 0..writers {
        running.spawn(write(store.clone(), writer, begun + time));
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(written) = running.join_next().await {
        times.extend(written.expect("a writer does not panic"));
    }
    let elapsed = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    let stats = store.stats();
    assert_eq!(stats.commits, times.len() as u64, "every commit was acknowledged once");
    Run {
        per_second: times.len() as f64 / elapsed,
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        per_sync: stats.commits as f64 / stats.groups as f64,
    }
}

async fn write(store: Arc<dyn Store>, writer: usize, until: Instant) -> Vec<Duration> {
    let partition = Partition::new("bench", writer.to_be_bytes());
    // Bytes that do not compress.
    let mut state = writer as u64 + 1;
    let value: Vec<u8> = (0..1024).map(|_| noise(&mut state)).collect();
    let mut times = Vec::new();
    for at in 0u64.. {
        let begun = Instant::now();
        if begun >= until {
            break;
        }
        let batch = Batch::new(&partition).put(at.to_be_bytes().to_vec(), value.clone());
        store.commit(batch).await.expect("commits");
        times.push(begun.elapsed());
    }
    times
}

/// One step of xorshift64.
fn noise(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}
