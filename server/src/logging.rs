//! How the process logs: structured lines to standard error, as text or as JSON.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Installs the process's logger. `filter` is in the syntax of `RUST_LOG`: `info`, or `info,ahoyd::call=debug`.
///
/// Fails when `filter` cannot be read, or a logger is already installed.
pub fn install(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    // hickory warns with whole DNS messages about every zone of somebody else that is broken.
    let quiet = if filter.contains("hickory") { "" } else { ",hickory_net=error,hickory_proto=error" };
    let filter = EnvFilter::try_new(format!("{filter}{quiet}"))
        .map_err(|error| anyhow::anyhow!("`log = \"{filter}\"`: {error}; write for example \"info\""))?;
    let colours = std::io::stderr().is_terminal();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let installed = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("the logger cannot be installed: {error}"))
}
