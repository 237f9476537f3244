//! `ahoy-bridge --config bridge.toml`.

use std::path::PathBuf;
use std::process::ExitCode;

use ahoy_bridge::config::BridgeConfig;
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// SIP and RTP on one side, an ordinary Ahoy service on the other.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file; relative paths in it start at its folder.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    match start(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ahoy-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let config = BridgeConfig::load(&arguments.config)?;
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(quiet(&config.log)))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(ahoy_bridge::lifecycle::run(config))
}

/// hickory warns with whole DNS messages about every zone of somebody else that is broken.
fn quiet(filter: &str) -> String {
    let more = if filter.contains("hickory") { "" } else { ",hickory_net=error,hickory_proto=error" };
    format!("{filter}{more}")
}
