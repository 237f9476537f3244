//! The desk phone as a process: configuration from a TOML file, commands as JSON lines on standard input,
//! events as JSON lines on standard output.

use std::{
    io::{BufRead, Write},
    path::PathBuf,
    sync::Arc,
};

use ahoy_proto::time::Entropy;
use ahoy_testkit::phone::{Command, Phone, PhoneConfig};
use anyhow::Context;
use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

#[derive(Parser)]
#[command(about = "A desk phone for tests: rings, answers, plays a tone, records, dials")]
struct Arguments {
    /// The phone's TOML file: bind, user, extensions, ring_ms, tone_hz, record_dir.
    #[arg(long)]
    config: PathBuf,
}

struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        use rand::TryRng;
        rand::rngs::SysRng.try_fill_bytes(buffer).expect("the operating system gives random bytes");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let path = Arguments::parse().config;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config: PhoneConfig = toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    let bind = config.bind;
    let mut phone = Phone::start(config, Arc::new(OsEntropy))
        .await
        .with_context(|| format!("cannot listen on {bind}"))?;
    let mut lines = lines_of_stdin();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut listening = true;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            event = phone.events.recv() => match event {
                Some(event) => print(&event)?,
                None => return Ok(()),
            },
            line = lines.recv(), if listening => match line {
                Some(line) => obey(&phone, &line).await,
                None => listening = false,
            },
        }
    }
    // The recordings are written on the way out; their events still go to the reader.
    phone.commands.send(Command::Quit).await.ok();
    while let Some(event) = phone.events.recv().await {
        print(&event)?;
    }
    Ok(())
}

/// Standard input is read by a thread of its own, which ends with the process.
fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (to_phone, lines) = mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if to_phone.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn print(event: &ahoy_testkit::phone::Event) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(event)?)?;
    Ok(out.flush()?)
}

async fn obey(phone: &Phone, line: &str) {
    match serde_json::from_str::<Command>(line) {
        // A phone that is already off needs no command.
        Ok(command) => drop(phone.commands.send(command).await),
        Err(error) => tracing::warn!(line, %error, "not a command"),
    }
}
