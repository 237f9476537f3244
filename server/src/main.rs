//! `ahoyd`: the homeserver, and the few commands that an operator needs beside it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ahoy_resolver::{FilePins, HickoryView, Resolver, ResolverLimits};
use ahoy_transport::clock::{OsEntropy, SystemClock};
use ahoy_transport::identity::TlsIdentity;
use ahoy_transport::{Endpoint, EndpointConfig};
use ahoyd::card_book::CardBook;
use ahoyd::config::Config;
use ahoyd::homeserver::{self, Parts};
use ahoyd::http::{self, Pages};
use ahoyd::init::{self, Choices};
use ahoyd::invite::{self, Grant, InviteKey};
use ahoyd::lifecycle::{Lifecycle, OsSignals};
use ahoyd::metrics::Metrics;
use ahoyd::name_folder::NameFolder;
use ahoyd::{logging, store};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;

/// The Ahoy homeserver. Without a command: serve.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The configuration file.
    #[arg(long, global = true, default_value = "ahoyd.toml", env = "AHOYD_CONFIG")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Write a configuration, make the keys, and print the DNS record to publish.
    Init(InitArgs),
    /// Print the DNS record to publish; sign it anew when the configuration says something else by now.
    Anchor(AnchorArgs),
    /// Print an invite token: for one account, or for a service. Works while ahoyd runs.
    Invite(InviteArgs),
}

#[derive(Args)]
struct InitArgs {
    /// The name to serve; may be repeated.
    #[arg(long, required = true)]
    name: Vec<String>,
    /// The host at which this homeserver is reached, with or without `:port`.
    #[arg(long)]
    endpoint: String,
    /// Folder of keys and store [default: data, beside the configuration].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// UDP address to listen at [default: 0.0.0.0:2469].
    #[arg(long)]
    listen: Option<std::net::SocketAddr>,
    /// TCP address of metrics and health [default: 127.0.0.1:2470].
    #[arg(long)]
    http_listen: Option<std::net::SocketAddr>,
    /// A special-use domain, such as `example`, in which names are allowed: for tests. May be repeated.
    #[arg(long)]
    special_use_allowed: Vec<String>,
    /// A DNS server to ask, `address:port`; may be repeated [default: those of /etc/resolv.conf].
    #[arg(long)]
    dns_server: Vec<std::net::SocketAddr>,
    /// A file with the DNSKEY or DS lines from which DNSSEC validation starts [default: the root keys].
    #[arg(long)]
    trust_anchor: Option<PathBuf>,
}

#[derive(Args)]
struct AnchorArgs {
    /// Only this name, if several are served.
    #[arg(long)]
    name: Option<String>,
    /// Sign it anew even if nothing has changed: an anchor lives for 400 days.
    #[arg(long)]
    renew: bool,
    /// Print the one-line value alone.
    #[arg(long, conflicts_with = "zone_line")]
    value: bool,
    /// Print the zone-file form alone.
    #[arg(long)]
    zone_line: bool,
}

#[derive(Args)]
struct InviteArgs {
    /// The account to enrol a device of, for example `caller@home.example`.
    account: Option<String>,
    /// The service to enrol, for example `bridge`.
    #[arg(long)]
    service: Option<String>,
    /// An address that the service may answer for; may be repeated.
    #[arg(long)]
    address: Vec<String>,
    /// How many days the token is good for.
    #[arg(long, default_value_t = invite::VALID_FOR.as_secs() / 86_400, value_parser = clap::value_parser!(u64).range(1..=366))]
    days: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    ahoy_transport::install_crypto_provider();
    let done = match cli.command {
        None => serve(&cli.config),
        Some(Command::Init(args)) => init(&cli.config, args),
        Some(Command::Anchor(args)) => anchor(&cli.config, &args),
        Some(Command::Invite(args)) => issue_invite(&cli.config, &args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ahoyd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn init(file: &Path, args: InitArgs) -> anyhow::Result<()> {
    let choices = Choices {
        names: args.name,
        endpoint: args.endpoint,
        listen: args.listen,
        http_listen: args.http_listen,
        data_dir: args.data_dir,
        special_use_allowed: args.special_use_allowed,
        dns_servers: args.dns_server,
        trust_anchor: args.trust_anchor,
    };
    let (config, names) = init::init(file, &choices, &SystemClock, &OsEntropy)?;
    println!("Wrote {} and the keys in {}.", file.display(), config.data_dir.display());
    println!("Keep a copy of the keys in a safe place: whoever has them is {}.\n", config.names[0]);
    for folder in &names {
        println!("{}\n", folder.publication());
    }
    println!("Then start it: ahoyd --config {}", file.display());
    Ok(())
}

fn anchor(file: &Path, args: &AnchorArgs) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let wanted =
        args.name.as_ref().map(|name| ahoy_proto::name::Name::parse(name, &config.policy)).transpose()?;
    if let Some(name) = wanted.as_ref().filter(|name| !config.names.contains(name)) {
        anyhow::bail!("{name} is not served: see `name` in {}", file.display());
    }
    let names = init::set_up(&config, args.renew, &SystemClock, &OsEntropy)?;
    for folder in names.iter().filter(|folder| wanted.as_ref().is_none_or(|name| *name == folder.name)) {
        let publication = folder.publication();
        match (args.value, args.zone_line) {
            (true, _) => println!("{}", publication.value()),
            (_, true) => println!("{}", publication.zone_line()),
            _ => println!("{publication}\n"),
        }
    }
    Ok(())
}

fn issue_invite(file: &Path, args: &InviteArgs) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let (account, service) = (args.account.as_deref(), args.service.as_deref());
    let grant = Grant::parse(account, service, &args.address, &config.names, &config.policy)?;
    let key = InviteKey::load_or_create(&config.data_dir, &OsEntropy)?;
    let valid_for = Duration::from_secs(args.days * 86_400);
    println!("{}", key.issue(&grant, valid_for, &SystemClock, &OsEntropy));
    Ok(())
}

fn serve(file: &Path) -> anyhow::Result<()> {
    let config = Arc::new(Config::load(file)?);
    logging::install(&config.log, config.log_format)?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot be started")?;
    runtime.block_on(run(config))
}

/// Assembles the homeserver from its parts and lives until it is told to stop.
async fn run(config: Arc<Config>) -> anyhow::Result<()> {
    let signals = OsSignals::install()?;
    let lifecycle = Lifecycle::default();
    let tasks = lifecycle.tasks();
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(OsEntropy));
    let names = open_names(&config)?;
    let identity = TlsIdentity::load_or_create(&config.data_dir, &OsEntropy)?;
    let store = store::open(&config.store_dir(), config.cache_bytes)?;
    let spki = identity.spki();
    let cards = CardBook::open(names, config.clone(), spki, store.clone(), clock.clone()).await?;
    let cards = Arc::new(cards);
    cards.keep_fresh(&tasks);

    let endpoint =
        EndpointConfig::new(config.listen, identity).accepting().with_policy(config.policy.clone());
    let endpoint = Endpoint::bind(endpoint)?;
    let view = Arc::new(HickoryView::new(&config.dns)?);
    let pins = FilePins::open(config.data_dir.join("pins")).context("the folder of pinned names")?;
    let source = Arc::new(endpoint.clone());
    let resolver = Resolver::new(view, Arc::new(pins), source, clock.clone(), ResolverLimits::default());

    let udp = endpoint.local_addr();
    let names: Vec<String> = config.names.iter().map(ToString::to_string).collect();
    let metrics = Metrics::default();
    let listener = TcpListener::bind(config.http_listen)
        .await
        .with_context(|| format!("http_listen {} cannot be used", config.http_listen))?;
    let http = listener.local_addr()?;
    http::serve(
        listener,
        Pages { registry: metrics.registry(store.clone()), store: store.clone(), tasks: tasks.clone() },
    );
    let homeserver = homeserver::start(Parts {
        invites: InviteKey::load_or_create(&config.data_dir, &OsEntropy)?,
        config: config.clone(),
        store,
        endpoint,
        resolver: Arc::new(resolver),
        cards,
        clock,
        entropy,
        tasks,
        metrics,
    })
    .await?;
    tracing::info!(
        %udp,
        %http,
        names = ?names,
        "ready: ahoyd {}", env!("CARGO_PKG_VERSION"),
    );
    let deadline = config.drain + homeserver::CUT_TIME;
    lifecycle.run(signals, || homeserver.idle(config.drain), deadline).await?;
    homeserver.close().await;
    tracing::info!("stopped");
    Ok(())
}

fn open_names(config: &Config) -> anyhow::Result<Vec<NameFolder>> {
    let mut names = Vec::with_capacity(config.names.len());
    for name in &config.names {
        let folder = NameFolder::open(config, name)?;
        if !folder.is_current(config) {
            tracing::warn!(%name, "the anchor says something else than the configuration: run `ahoyd anchor` and publish");
        }
        names.push(folder);
    }
    Ok(names)
}
