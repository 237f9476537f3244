//! `ahoy-conform`: lists the cases, runs them against a homeserver, and compares them with the spec.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use ahoy_conform::run::{Plan, run};
use ahoy_conform::world::Settings;
use ahoy_conform::{cases, coverage};
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Judges an Ahoy homeserver from outside.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the cases with their requirements.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run the cases. Exit status 0: all passed; 1: one failed; 127: one is not supported and none failed.
    Run(Box<RunArgs>),
    /// Compare the cases with the requirements of the spec. Fails on an unknown requirement, and on a MUST that has
    /// neither a case nor a line in spec/coverage-exempt.txt.
    Coverage {
        /// The folder of the spec.
        #[arg(long, default_value = "spec")]
        spec: PathBuf,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The subject's name, e.g. bank.example. The suite serves DNS for the zone above it.
    #[arg(long)]
    name: String,
    /// The subject's endpoint as its anchor names it, below the name: hs.bank.example.
    #[arg(long)]
    endpoint: String,
    /// Where the subject listens, UDP.
    #[arg(long)]
    address: SocketAddr,
    /// The subject's anchor: `v=ahoy1;...`.
    #[arg(long)]
    anchor: String,
    /// Where the suite serves DNS, UDP and TCP; the subject has to ask there.
    #[arg(long)]
    dns_listen: SocketAddr,
    /// The file that the suite writes DNSKEY lines to, and that the subject starts validation from.
    #[arg(long)]
    trust_anchor: PathBuf,
    /// Where the suite's homeservers bind.
    #[arg(long)]
    peer_address: IpAddr,
    /// An account and its invite: `ann@bank.example=TOKEN`. Twice for the cases with two people.
    #[arg(long, value_parser = invite)]
    invite: Vec<(String, String)>,
    /// A service, the line that it answers for, and its invite: `desk:support@bank.example=TOKEN`.
    #[arg(long, value_parser = service_invite)]
    service_invite: Vec<(String, Vec<String>, String)>,
    /// A shell command that starts the subject once the suite is ready; it is stopped at the end.
    #[arg(long)]
    start: Option<String>,
    /// Run only this case; may be repeated.
    #[arg(long)]
    case: Vec<String>,
    /// Write a JUnit file.
    #[arg(long)]
    junit: Option<PathBuf>,
}

fn invite(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(account, _)| account.contains('@'));
    let (account, token) = parts.ok_or("expected ACCOUNT=TOKEN, e.g. ann@bank.example=ahoyinvite_...")?;
    Ok((account.to_owned(), token.to_owned()))
}

fn service_invite(text: &str) -> Result<(String, Vec<String>, String), String> {
    let wrong = "expected SERVICE:ADDRESS[,ADDRESS]=TOKEN, e.g. desk:support@bank.example=ahoyinvite_...";
    let (service, rest) = text.split_once(':').ok_or(wrong)?;
    let (addresses, token) = rest.split_once('=').ok_or(wrong)?;
    Ok((service.to_owned(), addresses.split(',').map(str::to_owned).collect(), token.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let done = match Cli::parse().command {
        Command::List { json } => Ok(list(json)),
        Command::Run(args) => run(plan(*args)).await,
        Command::Coverage { spec } => compare(&spec),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("ahoy-conform: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn plan(args: RunArgs) -> Plan {
    let settings = Settings {
        name: args.name,
        endpoint: args.endpoint,
        address: args.address,
        anchor: args.anchor,
        dns_listen: args.dns_listen,
        trust_anchor: args.trust_anchor,
        peer_address: args.peer_address,
        invites: args.invite,
        services: args.service_invite,
    };
    Plan { settings, start: args.start, selected: args.case, junit: args.junit }
}

fn list(json: bool) -> u8 {
    let cases = cases::all();
    if json {
        let one =
            |case: &cases::Case| serde_json::json!({ "id": case.id, "rules": case.rules, "says": case.says });
        println!("{}", serde_json::Value::from(cases.iter().map(one).collect::<Vec<_>>()));
    } else {
        for case in cases {
            println!("{:<28} {} [{}]", case.id, case.says, case.rules.join(" "));
        }
    }
    0
}

fn compare(spec: &std::path::Path) -> anyhow::Result<u8> {
    let coverage = coverage::compare(spec)?;
    for wrong in &coverage.wrong {
        println!("{wrong}");
    }
    let stated: Vec<String> =
        coverage.stated.iter().map(|(force, count)| format!("{count} {force}")).collect();
    println!(
        "{}: {} by a case, {} by a stated reason, {} optional ones open, {} wrong",
        stated.join(", "),
        coverage.by_case,
        coverage.by_reason,
        coverage.open.len(),
        coverage.wrong.len()
    );
    Ok(u8::from(!coverage.wrong.is_empty()))
}
