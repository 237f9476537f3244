//! Runs the conformance suite against our own homeserver, set up as any other subject would be.

use std::{process::ExitCode, time::Duration};

use crate::{
    layout::{Addresses, BANK, Layout},
    process::{Process, Spec},
    world::{Options, World},
};

/// Starts a homeserver for the suite, runs it, and gives its exit status.
pub async fn run() -> ExitCode {
    match judge().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the suite could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn judge() -> anyhow::Result<ExitCode> {
    let process = std::process::id();
    let layout = Layout::new(std::env::temp_dir().join(format!("ahoy-conform-{process}")))?;
    let world = World::new(layout, Addresses::loopback(process), Options::default());
    let command =
        [world.layout.program("ahoy-conform"), "run".to_owned(), "--name".to_owned(), BANK.to_owned()];
    let mut suite = Process::start(Spec::new("conform", command), &world.layout.logs()).await?;
    let status = suite.wait(Duration::from_secs(600)).await?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
