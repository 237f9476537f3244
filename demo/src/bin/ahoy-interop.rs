//! `make interop`: the main job against real peers, one line per check; exit status 0 only if all pass.

use std::{process::ExitCode, time::Duration};

use ahoy_demo::{
    conform, crash,
    layout::{Addresses, Layout},
    main_job::{self, CALLER_HZ},
    peers,
    world::{Dns, Options, Pbx, World},
};
use clap::Parser;
use tokio::time::Instant;

#[derive(Parser)]
#[command(about = "The main job against Asterisk, NSD, baresip and NAT, and messages through crashes")]
struct Arguments {
    /// The suites to run, all without it: asterisk, asterisk-defaults, asterisk-tcp, nsd, nat, kill9.
    /// `conform` runs the conformance suite against our own homeserver instead.
    suites: Vec<String>,
}

/// A suite's name and what differs in its world.
type Suite = (&'static str, fn() -> Options);

struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    async fn note(&mut self, name: &str, check: impl Future<Output = anyhow::Result<String>>) {
        let start = Instant::now();
        match check.await {
            Ok(what) => {
                self.passed += 1;
                println!("PASS  {name} ({} ms) {what}", start.elapsed().as_millis());
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL  {name} ({} ms): {error:#}", start.elapsed().as_millis());
            }
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let suites = Arguments::parse().suites;
    let mut tally = Tally { passed: 0, failed: 0 };
    let known: [Suite; 6] = [
        ("asterisk", || Options { pbx: Pbx::Asterisk, ..Options::default() }),
        ("asterisk-defaults", || Options {
            pbx: Pbx::Asterisk,
            asterisk_defaults: true,
            ..Options::default()
        }),
        ("asterisk-tcp", || Options { pbx: Pbx::Asterisk, tcp: true, ..Options::default() }),
        ("nsd", || Options { dns: Dns::Nsd, ..Options::default() }),
        ("nat", Options::default),
        ("kill9", || Options { limits: crash::LIMITS.to_owned(), ..Options::default() }),
    ];
    if suites.first().is_some_and(|s| s == "conform") {
        return conform::run().await;
    }
    if let Some(suite) = suites.iter().find(|s| known.iter().all(|(name, _)| name != s)) {
        eprintln!("there is no suite {suite:?}");
        return ExitCode::from(2);
    }
    for (name, options) in &known {
        if suites.is_empty() || suites.iter().any(|s| s == name) {
            run_suite(name, options(), &mut tally).await;
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run_suite(name: &str, mut options: Options, tally: &mut Tally) {
    let process = std::process::id();
    let root = std::env::temp_dir().join(format!("ahoy-interop-{process}-{name}"));
    println!("-- {name} (run folder {})", root.display());
    let mut addresses = Addresses::loopback(process);
    let nat = (name == "nat").then(|| peers::Nat::new(process));
    if let Some(nat) = &nat {
        options.under = nat.under();
        addresses = nat.addresses();
    }
    let layout = match Layout::new(root) {
        Ok(layout) => layout,
        Err(error) => return tally.note(name, async { Err(error) }).await,
    };
    if let Some(nat) = &nat {
        tally.note(&format!("{name}: namespaces"), nat.up(&layout)).await;
    }
    let mut world = World::new(layout, addresses, options);
    let started = if name == "kill9" { world.start_homeservers().await } else { world.start().await };
    let up = started.is_ok();
    tally.note(&format!("{name}: start"), async { started.map(|()| String::new()) }).await;
    if up {
        checks(name, &mut world, tally).await;
    }
    world.stop().await;
    if let Some(nat) = &nat {
        nat.down(&world.layout).await;
    }
}

async fn checks(suite: &str, world: &mut World, tally: &mut Tally) {
    let name = |check: &str| format!("{suite}: {check}");
    if suite == "kill9" {
        return tally
            .note(&name("10,000 messages through kill -9 of both homeservers"), crash::run(world))
            .await;
    }
    tally
        .note(&name("the name is Secure"), async { main_job::explain(world).await.map(|_| String::new()) })
        .await;
    tally.note(&name("accounts"), async { main_job::sign_up(world).await.map(|()| String::new()) }).await;
    if suite == "nsd" {
        tally.note(&name("bot"), async { main_job::start_bot(world).await.map(|()| String::new()) }).await;
        tally.note(&name("message and reply"), main_job::message(world)).await;
    }
    let label = name("call to the desk phone, audio both ways, digits");
    tally.note(&label, async { main_job::call_in(world).await.map(|p| shares(&p)) }).await;
    let label = name("the desk phone calls out, audio both ways");
    tally.note(&label, async { main_job::call_out(world).await.map(|p| shares(&p)) }).await;
    if world.options.pbx == Pbx::Asterisk {
        asterisk_checks(suite, world, tally).await;
    }
}

fn shares(proof: &main_job::Proof) -> String {
    let (client, phone) = (proof.heard_by_client, proof.heard_by_phone);
    format!("shares {client:.3} and {phone:.3}, first sound at {} ms", proof.onset_ms)
}

async fn asterisk_checks(suite: &str, world: &mut World, tally: &mut Tally) {
    let name = |check: &str| format!("{suite}: {check}");
    let call = Duration::from_secs(30);
    for (line, reason) in [("busy", "busy"), ("unknown", "not_found")] {
        let label = name(&format!("a call to a {line} extension ends with {reason}"));
        tally
            .note(&label, async { main_job::refused(world, line, reason, call).await.map(|_| String::new()) })
            .await;
    }
    tally.note(&name("echo"), peers::echo(world)).await;
    tally.note(&name("announcement before the answer, then declined"), peers::announcement(world)).await;
    tally.note(&name("a menu steered by keys"), peers::menu(world)).await;
    tally.note(&name("a registered phone calls out"), peers::registered_phone(world, CALLER_HZ)).await;
}
