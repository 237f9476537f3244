//! The subcommands: what they take, and how a failure is told.

mod bot;
mod call;
mod explain;
mod home;
mod name;
mod read;
mod send;
mod signup;

use std::path::PathBuf;
use std::process::ExitCode;

use ahoy_client::ClientError;
use ahoy_client::error::code_name;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use home::Home;

/// Reach companies and people by name. Not for emergency calls.
#[derive(Parser)]
#[command(name = "ahoy", version, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Folder with config.toml, keys and positions.
    #[arg(long, env = "AHOY_HOME", global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// More about what happens, on standard error: -v, -vv. (RUST_LOG has the last word.)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit status: 0 done, 1 error, 2 usage; 3 a message still waits when --wait ended; for calls 10 + the \
reason on the wire: 11 not answered, 12 cancelled, 13 busy, 14 declined, 15 no answer, 16 no such extension, \
17 not reachable, 18 trunk down, 19 answered elsewhere, 20 superseded, 21 media, 22 connection lost, \
23 forbidden, 24 limited, 25 unavailable, 26 failed.";

#[derive(Subcommand)]
enum Command {
    /// Enrol this device for an account, with an invite of its operator.
    Signup(signup::Signup),
    /// Send a text.
    Send(send::Send),
    /// Show messages that were not shown yet.
    Read(read::Read),
    /// Call an address and talk through WAV files.
    Call(call::Call),
    /// Answer calls.
    Answer(call::Answer),
    /// Show every step from a name to its verified homeserver.
    Explain(explain::Explain),
    /// Show the homeserver's queues to its peers.
    Peers(explain::Peers),
    /// Answer messages to a line as a service.
    Bot(bot::Bot),
    /// Keys and records for a name of one's own.
    #[command(subcommand)]
    Name(name::Name),
}

/// What a subcommand can fail with.
#[derive(Debug)]
pub enum Failure {
    /// An error of the SDK, with its advice.
    Client(Box<ClientError>),
    /// Something wrong here: what, where, what to do in one sentence.
    Plain(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(Box::new(error))
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Plain(text)
    }
}

/// Runs one subcommand.
pub fn run(arguments: Arguments) -> ExitCode {
    start_logging(arguments.verbose);
    ahoy_transport::install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ahoy: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = runtime.block_on(async {
        let tracker = TaskTracker::new();
        let stop = stop_on_signal(&tracker);
        let status = dispatch(arguments, &stop).await;
        stop.cancel();
        status
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match status {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(&failure);
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(arguments: Arguments, stop: &CancellationToken) -> Result<u8, Failure> {
    if let Command::Name(command) = arguments.command {
        return name::run(command);
    }
    let home = Home::open(arguments.home)?;
    match arguments.command {
        Command::Signup(command) => signup::run(&home, command).await,
        Command::Send(command) => send::run(&home, command, stop).await,
        Command::Read(command) => read::run(&home, command, stop).await,
        Command::Call(command) => call::call(&home, command, stop).await,
        Command::Answer(command) => call::answer(&home, command, stop).await,
        Command::Explain(command) => explain::explain(&home, command).await,
        Command::Peers(command) => explain::peers(&home, command).await,
        Command::Bot(command) => bot::run(&home, command, stop).await,
        Command::Name(_) => unreachable!("handled above"),
    }
}

fn report(failure: &Failure) {
    match failure {
        Failure::Client(error) => {
            eprintln!("ahoy: {error}");
            if let Some(wait) = error.fault.retry_after {
                eprintln!("  the other side asks to wait {:.1} s", wait.as_secs_f32());
            }
            eprintln!("  {}", error.advice());
        }
        Failure::Plain(text) => eprintln!("ahoy: {text}"),
    }
}

/// A failure as scripts see it.
pub fn failure_json(error: &ClientError) -> serde_json::Value {
    serde_json::json!({
        "error": code_name(error.code()),
        "while": error.stage.phrase(),
        "about": error.subject,
        "message": error.fault.message,
        "advice": error.advice(),
    })
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => {
            "warn,hickory_net=error,hickory_proto=error,ahoy_client=info,ahoy_transport=info,ahoy_resolver=info"
        }
        _ => "info,ahoy_client=debug,ahoy_transport=debug,ahoy_resolver=debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}

/// A token that ends with the first SIGINT or SIGTERM; the second one ends the process as usual.
fn stop_on_signal(tracker: &TaskTracker) -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tracker.spawn(async move {
        let mut term = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(term) => term,
            Err(_) => return,
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = term.recv() => {}
            () = token.cancelled() => return,
        }
        token.cancel();
        tokio::signal::ctrl_c().await.ok();
        std::process::exit(130);
    });
    stop
}
