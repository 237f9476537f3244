//! `make bench`: figures of the real programs on this machine, each beside its ceiling or aim.

use std::process::ExitCode;

use ahoy_demo::bench::{self, machine};
use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "Measures the homeserver, the bridge and the SDK; prints a table")]
struct Arguments {
    /// The parts to run; all without any.
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Durable commits of the store.
    Store,
    /// Messages between two homeservers.
    Messages,
    /// From a name to its card.
    Resolve,
    /// From the tap to the SIP INVITE.
    Call,
    /// Relayed audio.
    Media,
    /// Memory of a homeserver.
    Memory,
}

#[tokio::main]
async fn main() -> ExitCode {
    let parts = Arguments::parse().parts;
    bench::print_head();
    let mut failed = false;
    for part in Part::value_variants() {
        if !parts.is_empty() && !parts.contains(part) {
            continue;
        }
        if let Err(error) = run(*part).await {
            failed = true;
            println!("{part:?} could not be measured: {error:#}");
        }
        match machine::describe() {
            Ok(text) => println!("  ({part:?} on {text})"),
            Err(error) => println!("  (the machine cannot be described: {error:#})"),
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn run(part: Part) -> anyhow::Result<()> {
    match part {
        Part::Store => bench::store::run().await,
        Part::Messages => bench::messages::run().await,
        Part::Resolve => bench::resolve::run().await,
        Part::Call => bench::call::run().await,
        Part::Media => bench::media::run().await,
        Part::Memory => bench::memory::run().await,
    }
}
