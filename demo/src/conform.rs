//! Runs the conformance suite against our own homeserver, set up as any other subject would be.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::{process::Command, time::timeout};

use crate::layout::{Addresses, BANK, Layout};

/// How long the suite may take as a whole.
const SUITE: Duration = Duration::from_secs(900);
/// How long `ahoyd init` and `ahoyd invite` may take.
const TOOL: Duration = Duration::from_secs(20);
/// The line that the suite's service answers for.
const LINE: &str = "support";
/// A line that rings at the suite's service and at its second person.
const TEAM: &str = "team";

/// Starts a homeserver for the suite, runs it, and gives its exit status.
pub async fn run() -> ExitCode {
    match judge().await {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("the suite could not run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Subject {
    layout: Layout,
    addresses: Addresses,
}

async fn judge() -> anyhow::Result<u8> {
    let process = std::process::id();
    let layout = Layout::new(std::env::temp_dir().join(format!("ahoy-conform-{process}")))?;
    println!("-- conform (run folder {})", layout.root.display());
    let subject = Subject { layout, addresses: Addresses::loopback(process) };
    let anchor = subject.init().await?;
    let mut suite = Command::new(subject.layout.program("ahoy-conform"));
    suite.arg("run").args(subject.arguments(&anchor).await?).kill_on_drop(true);
    let mut suite = suite.spawn().context("cannot start ahoy-conform; is it built?")?;
    let status = timeout(SUITE, suite.wait()).await;
    let status = status.with_context(|| format!("the suite does not end within {SUITE:?}"))??;
    let status = status.code().and_then(|code| u8::try_from(code).ok()).context("the suite was killed")?;
    if status == 0 {
        // What is left of a good run is of no use, and a folder that stays does no harm.
        let _ = std::fs::remove_dir_all(&subject.layout.root);
    }
    Ok(status)
}

impl Subject {
    fn config(&self) -> String {
        self.layout.text("bank/ahoyd.toml")
    }

    fn address(&self) -> SocketAddr {
        (self.addresses.bank, 2469).into()
    }

    fn dns(&self) -> SocketAddr {
        (self.addresses.dns, 5300).into()
    }

    fn trust_anchor(&self) -> String {
        self.layout.text("bank/anchor.key")
    }

    /// Sets the homeserver up and gives its anchor.
    async fn init(&self) -> anyhow::Result<String> {
        let http: SocketAddr = (self.addresses.bank, 2470).into();
        let output = self
            .ahoyd(&[
                "init",
                "--name",
                BANK,
                "--endpoint",
                &format!("hs.{BANK}"),
                "--listen",
                &self.address().to_string(),
                "--http-listen",
                &http.to_string(),
                "--special-use-allowed",
                "example",
                "--dns-server",
                &self.dns().to_string(),
                "--trust-anchor",
                &self.trust_anchor(),
            ])
            .await?;
        let anchor = output.split(['"', '\n']).map(str::trim).find(|word| word.starts_with("v=ahoy1;"));
        let anchor = anchor.with_context(|| format!("`ahoyd init` printed no anchor:\n{output}"))?.to_owned();
        let text = std::fs::read_to_string(self.config())?;
        // People who refuse strangers must look like people who do not exist.
        let line = |local: &str, service: &str| {
            format!(
                "\n[[line]]\nlocal = \"{local}\"\nlabel = \"{local}\"\ntargets = [\"service:{service}\"]\n"
            )
        };
        let team = format!(
            "\n[[line]]\nlocal = \"{TEAM}\"\nlabel = \"{TEAM}\"\ntargets = [\"service:desk\", \"account:bob\"]\n"
        );
        let lines = line(LINE, "desk") + &line("", "desk") + &team;
        std::fs::write(self.config(), format!("first_contact = \"known\"\n{text}{lines}"))?;
        Ok(anchor)
    }

    async fn arguments(&self, anchor: &str) -> anyhow::Result<Vec<String>> {
        let peer: IpAddr = self.addresses.home;
        let line = format!("{LINE}@{BANK}");
        let addresses = [line.clone(), format!("{TEAM}@{BANK}"), BANK.to_owned()];
        let mut what = vec!["--service", "desk"];
        addresses.iter().for_each(|address| what.extend(["--address", address]));
        let desk = self.invite(&what).await?;
        let log = self.layout.logs().join("ahoyd.log");
        let start =
            format!("'{}' --config '{}' 2>'{}'", self.layout.program("ahoyd"), self.config(), log.display());
        let mut arguments: Vec<(&str, String)> = vec![
            ("--name", BANK.to_owned()),
            ("--endpoint", format!("hs.{BANK}")),
            ("--address", self.address().to_string()),
            ("--anchor", anchor.to_owned()),
            ("--dns-listen", self.dns().to_string()),
            ("--trust-anchor", self.trust_anchor()),
            ("--peer-address", peer.to_string()),
            ("--service-invite", format!("desk:{}={desk}", addresses.join(","))),
            ("--start", start),
        ];
        for local in ["ann", "bob", LINE] {
            let account = format!("{local}@{BANK}");
            arguments.push(("--invite", format!("{account}={}", self.invite(&[&account]).await?)));
        }
        if let Ok(junit) = std::env::var("JUNIT") {
            arguments.push(("--junit", junit));
        }
        Ok(arguments.into_iter().flat_map(|(key, value)| [key.to_owned(), value]).collect())
    }

    async fn invite(&self, what: &[&str]) -> anyhow::Result<String> {
        let output = self.ahoyd(&[&["invite"], what].concat()).await?;
        Ok(output.split_whitespace().last().context("`ahoyd invite` printed nothing")?.to_owned())
    }

    async fn ahoyd(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut ahoyd = Command::new(self.layout.program("ahoyd"));
        ahoyd.args(arguments).args(["--config", &self.config()]).kill_on_drop(true);
        let what = format!("`ahoyd {}`", arguments.first().unwrap_or(&""));
        let output = timeout(TOOL, ahoyd.output()).await;
        let output = output.with_context(|| format!("{what} does not end"))?.with_context(|| what.clone())?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{what} failed: {words}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
