//! `make demo`: runs the main job with the real programs and proves it; exit status 0 only if everything held.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use ahoy_demo::{
    layout::{Addresses, Layout},
    main_job::{self, Proof},
    process::{Process, Spec},
    world::{Options, Pbx, World},
};
use clap::Parser;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

#[derive(Parser)]
#[command(about = "Two homeservers, DNS, a bridge and a phone: a message, a call each way, and the proof")]
struct Arguments {
    /// What stands behind the bridge.
    #[arg(long, value_enum, default_value = "phone")]
    pbx: Pbx,
    /// Leave everything running afterwards and print what to try.
    #[arg(long)]
    stay: bool,
    /// Folder for configurations, data, logs and recordings; a temporary one without it.
    #[arg(long)]
    run_dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nVERDICT: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let process = std::process::id();
    let root = arguments.run_dir.unwrap_or_else(|| std::env::temp_dir().join(format!("ahoy-demo-{process}")));
    let layout = Layout::new(root)?;
    println!("run folder: {}", layout.root.display());
    if arguments.pbx == Pbx::Asterisk {
        let script = layout.interop.join("install.sh").display().to_string();
        let mut install =
            Process::start(Spec::new("install", ["bash", &script, "asterisk"]), &layout.logs()).await?;
        let status = install.wait(Duration::from_secs(300)).await?;
        anyhow::ensure!(status.success(), "Asterisk could not be installed; see {}", install.log().display());
    }
    let options = Options { pbx: arguments.pbx, ..Options::default() };
    let mut world = World::new(layout, Addresses::loopback(process), options);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        outcome = main_job_of(&mut world, arguments.stay) => outcome,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    if outcome.is_ok() && arguments.stay {
        println!("\nCtrl-C stops everything.");
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    }
    world.stop().await;
    outcome
}

async fn main_job_of(world: &mut World, stay: bool) -> anyhow::Result<()> {
    let mut clock = Lap(Instant::now());
    world.start().await?;
    clock.print("two homeservers, DNS, bridge and PBX are running");
    println!("\n-- resolve bank.example\n{}", main_job::explain(world).await?);
    clock.print("bank.example is Secure");
    main_job::sign_up(world).await?;
    main_job::start_bot(world).await?;
    clock.print("two accounts and the bot are signed in");
    let reply = main_job::message(world).await?;
    clock.print(&format!("support@bank.example answered: {reply:?}"));
    println!("\n-- caller@home.example calls support@bank.example");
    let inward = main_job::call_in(world).await?;
    print_proof(&inward);
    println!("\n-- the desk phone calls caller@home.example");
    let outward = main_job::call_out(world).await?;
    print_proof(&outward);
    if stay {
        print_commands(world);
    }
    println!("\nVERDICT: passed: name, message, call in, call out, audio both ways, digits");
    Ok(())
}

struct Lap(Instant);

impl Lap {
    fn print(&mut self, what: &str) {
        println!("{:>8} ms  {what}", self.0.elapsed().as_millis());
        self.0 = Instant::now();
    }
}

fn print_proof(proof: &Proof) {
    for step in &proof.client.steps {
        println!("{:>8} ms  {:<12} {}", step.ms, step.step, step.detail);
    }
    println!(
        "             tone heard by the client: share {:.3}, from {} ms of its recording",
        proof.heard_by_client, proof.onset_ms
    );
    println!("             tone heard by the phone:  share {:.3}", proof.heard_by_phone);
    for recording in &proof.recordings {
        println!("             recording: {}", recording.display());
    }
}

fn print_commands(world: &World) {
    let ahoy = format!("{} --home {}", world.layout.program("ahoy"), world.layout.text("caller"));
    println!("\nTry by hand:");
    for command in [
        "explain bank.example",
        "send support@bank.example \"Is anybody there?\"",
        "read --follow",
        "call support@bank.example --play tone:440 --record answer.wav --dtmf '12#' --duration 10",
        "answer --play tone:440 --record caller.wav",
        "peers",
    ] {
        println!("  {ahoy} {command}");
    }
}
