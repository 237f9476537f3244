//! Decides how the main job's parts are set up: the files that an operator would write, and the order of starting.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::Context;

use crate::{
    layout::{Addresses, BANK, HOME, Layout},
    process::{Process, Spec},
};

/// How long a program may take until it says that it is ready.
const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(10);
const DNS_PORT: u16 = 5300;
/// The tone that the desk phone plays, in hertz.
pub const PHONE_HZ: u32 = 620;

/// Which telephone system stands behind the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pbx {
    /// Our desk phone alone, which is its own PBX.
    Phone,
    /// Asterisk 22, with our desk phone as one of its phones.
    Asterisk,
}

/// Who serves DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dns {
    /// Our own signed zones.
    Own,
    /// NSD, serving zones that BIND's tools signed.
    Nsd,
}

/// What differs between one run and another.
#[derive(Debug, Clone)]
pub struct Options {
    /// The telephone system.
    pub pbx: Pbx,
    /// The name server.
    pub dns: Dns,
    /// Asterisk's own defaults: `direct_media=yes`, qualify on.
    pub asterisk_defaults: bool,
    /// The bridge talks TCP to the PBX.
    pub tcp: bool,
    /// Commands that put a part into a network namespace, by part: `bridge`, `phone`, `caller`; all others by `""`.
    pub under: BTreeMap<String, Vec<String>>,
    /// Write line targets with the bot too (off: the bridge alone).
    pub bot: bool,
    /// Lines of the homeservers' `[limits]`, instead of their defaults.
    pub limits: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pbx: Pbx::Phone,
            dns: Dns::Own,
            asterisk_defaults: false,
            tcp: false,
            under: BTreeMap::new(),
            bot: true,
            limits: String::new(),
        }
    }
}

/// Everything that runs.
#[derive(Debug)]
pub struct World {
    /// Folders and programs.
    pub layout: Layout,
    /// Who is where.
    pub addresses: Addresses,
    /// What differs.
    pub options: Options,
    processes: Vec<(String, Process)>,
    anchors: BTreeMap<&'static str, String>,
}

impl World {
    /// A world in which nothing runs yet.
    pub fn new(layout: Layout, addresses: Addresses, options: Options) -> Self {
        Self { layout, addresses, options, processes: Vec::new(), anchors: BTreeMap::new() }
    }

    /// Starts everything but the bot and the phone's owner.
    ///
    /// # Errors
    /// When a part does not start; the message names it and its log.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.start_homeservers().await?;
        self.start_pbx().await?;
        self.start_edge().await
    }

    /// Writes the clients' files and starts the bridge, once the homeservers run.
    ///
    /// # Errors
    /// As [`World::start`].
    pub async fn start_edge(&mut self) -> anyhow::Result<()> {
        self.write_client("caller", self.addresses.client)?;
        self.write_client("support", self.addresses.client)?;
        let lines = self.bank_lines();
        self.write_bridge(&lines).await?;
        self.start_bridge().await
    }

    /// Starts DNS and the two homeservers alone.
    ///
    /// # Errors
    /// As [`World::start`].
    pub async fn start_homeservers(&mut self) -> anyhow::Result<()> {
        self.initialise(HOME, "home", self.addresses.home).await?;
        self.initialise(BANK, "bank", self.addresses.bank).await?;
        self.start_dns().await?;
        self.start_homeserver("home").await?;
        self.start_homeserver("bank").await
    }

    /// A part that runs.
    ///
    /// # Errors
    /// When no such part runs.
    pub fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        let found = self.processes.iter_mut().find(|(n, _)| n == name);
        found.map(|(_, p)| p).with_context(|| format!("{name} does not run"))
    }

    /// Takes a part out, to stop or kill it.
    ///
    /// # Errors
    /// When no such part runs.
    pub fn take(&mut self, name: &str) -> anyhow::Result<Process> {
        let index = self.processes.iter().position(|(n, _)| n == name);
        Ok(self.processes.remove(index.with_context(|| format!("{name} does not run"))?).1)
    }

    /// Stops everything, the last started first.
    pub async fn stop(&mut self) {
        while let Some((_, process)) = self.processes.pop() {
            process.stop(STOP).await;
        }
    }

    /// Starts a program and keeps it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&mut self, spec: Spec) -> anyhow::Result<&mut Process> {
        let name = spec.name.clone();
        let part = if self.options.under.contains_key(&name) { name.as_str() } else { "" };
        let under = self.options.under.get(part).cloned().unwrap_or_default();
        let process = Process::start(spec.under(&under), &self.layout.logs()).await?;
        self.processes.push((name.clone(), process));
        self.process(&name)
    }

    /// An `ahoy` command of an account's home folder.
    pub fn ahoy(&self, home: &str, arguments: &[&str]) -> Spec {
        let mut command = vec![self.layout.program("ahoy"), "--home".to_owned(), self.layout.text(home)];
        command.extend(arguments.iter().map(|a| (*a).to_owned()));
        let spec = Spec::new(&format!("ahoy-{home}"), command);
        let under = self.options.under.get("caller").or_else(|| self.options.under.get("")).cloned();
        spec.under(&under.unwrap_or_default())
    }

    async fn initialise(&mut self, name: &'static str, folder: &str, address: IpAddr) -> anyhow::Result<()> {
        let config = self.layout.text(&format!("{folder}/ahoyd.toml"));
        let output = self
            .output(Spec::new(
                "ahoyd-init",
                [
                    self.layout.program("ahoyd"),
                    "init".into(),
                    "--name".into(),
                    name.into(),
                    "--endpoint".into(),
                    format!("hs.{name}"),
                    "--config".into(),
                    config.clone(),
                    "--listen".into(),
                    format!("{address}:2469"),
                    "--http-listen".into(),
                    format!("{address}:2470"),
                    "--special-use-allowed".into(),
                    "example".into(),
                    "--dns-server".into(),
                    format!("{}:{DNS_PORT}", self.addresses.dns),
                    "--trust-anchor".into(),
                    self.layout.text("dns/anchor.key"),
                ],
            ))
            .await?;
        let anchor = output.split(['"', '\n']).map(str::trim).find(|w| w.starts_with("v=ahoy1;"));
        let anchor = anchor.with_context(|| format!("`ahoyd init` printed no anchor:\n{output}"))?;
        self.anchors.insert(name, anchor.to_owned());
        let mut text = std::fs::read_to_string(&config)?;
        if !self.options.limits.is_empty() {
            write!(text, "\n[limits]\n{}\n", self.options.limits)?;
        }
        if name == BANK {
            let bot = if self.options.bot { ", \"service:bot\"" } else { "" };
            for (local, _) in self.bank_lines() {
                write!(
                    text,
                    "\n[[line]]\nlocal = \"{local}\"\nlabel = \"{local}\"\nkind = \"pbx\"\ntargets = [\"service:bridge\"{bot}]\n"
                )?;
            }
        }
        Ok(std::fs::write(&config, text)?)
    }

    /// The company's lines and the extensions behind them.
    fn bank_lines(&self) -> Vec<(&'static str, &'static str)> {
        let mut lines = vec![("support", "200"), ("busy", "201"), ("unknown", "799"), ("ringing", "202")];
        if self.options.pbx == Pbx::Asterisk {
            lines = vec![
                ("support", "200"),
                ("busy", "605"),
                ("unknown", "799"),
                ("ringing", "608"),
                ("echo", "600"),
                ("announcement", "603"),
                ("menu", "700"),
            ];
        }
        lines
    }

    fn dns_section(&self) -> String {
        format!("\n[dns]\n{}", self.dns_values())
    }

    /// The lines of every program's `[dns]` section.
    pub fn dns_values(&self) -> String {
        format!(
            "servers = [\"{}:{}\"]\ntrust_anchor = \"{}\"\n",
            self.addresses.dns,
            DNS_PORT,
            self.layout.text("dns/anchor.key")
        )
    }

    async fn start_dns(&mut self) -> anyhow::Result<()> {
        match self.options.dns {
            Dns::Own => self.start_own_dns().await,
            Dns::Nsd => self.start_nsd().await,
        }
    }

    async fn start_own_dns(&mut self) -> anyhow::Result<()> {
        let mut text = format!("listen = \"{}:5300\"\ntrust_anchor = \"anchor.key\"\n", self.addresses.dns);
        for (name, host) in [(HOME, self.addresses.home), (BANK, self.addresses.bank)] {
            let anchor = &self.anchors[name];
            write!(
                text,
                "\n[[zone]]\nname = \"{name}\"\n\
                 record = [\n  {{ owner = \"_ahoy.{name}\", type = \"TXT\", value = \"{anchor}\" }},\n  \
                 {{ owner = \"hs.{name}\", type = \"A\", value = \"{host}\" }},\n]\n"
            )?;
        }
        std::fs::write(self.layout.path("dns/dns.toml"), text)?;
        let command =
            [self.layout.program("testkit-dns"), "--config".into(), self.layout.text("dns/dns.toml")];
        let dns = self.run(Spec::new("dns", command)).await?;
        dns.expect("ready line", START, |line| line.contains("ready").then_some(())).await
    }

    async fn start_nsd(&mut self) -> anyhow::Result<()> {
        let mut command = vec!["bash".to_owned(), self.layout.interop.join("nsd.sh").display().to_string()];
        command.extend([self.layout.text("dns"), self.addresses.dns.to_string()]);
        for (name, host) in [(HOME, self.addresses.home), (BANK, self.addresses.bank)] {
            command.extend([name.to_owned(), host.to_string(), self.anchors[name].clone()]);
        }
        let nsd = self.run(Spec::new("nsd", command)).await?;
        nsd.expect("ready line", START, |line| line.contains("ready").then_some(())).await
    }

    /// Starts (again) one of the homeservers, `home` or `bank`.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_homeserver(&mut self, folder: &str) -> anyhow::Result<()> {
        let config = self.layout.text(&format!("{folder}/ahoyd.toml"));
        let spec =
            Spec::new(&format!("ahoyd-{folder}"), [self.layout.program("ahoyd"), "--config".into(), config]);
        let homeserver = self.run(spec).await?;
        homeserver.expect("ready line", START, |line| line.contains("ready").then_some(())).await
    }

    /// An invite token of `home` or `bank`.
    ///
    /// # Errors
    /// When `ahoyd invite` fails.
    pub async fn invite(&self, folder: &str, what: &[&str]) -> anyhow::Result<String> {
        let config = self.layout.text(&format!("{folder}/ahoyd.toml"));
        let mut command =
            vec![self.layout.program("ahoyd"), "invite".to_owned(), "--config".to_owned(), config];
        command.extend(what.iter().map(|w| (*w).to_owned()));
        let output = self.output(Spec::new("ahoyd-invite", command)).await?;
        Ok(output.split_whitespace().last().context("`ahoyd invite` printed nothing")?.to_owned())
    }

    fn write_client(&self, home: &str, address: IpAddr) -> anyhow::Result<()> {
        let text = format!(
            "bind = \"{address}:0\"\nmedia_bind = [\"{address}\"]\nspecial_use_allowed = [\"example\"]\n{}",
            self.dns_section()
        );
        Ok(std::fs::write(self.layout.path(&format!("{home}/config.toml")), text)?)
    }

    async fn write_bridge(&self, lines: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut what = vec!["--service", "bridge"];
        let addresses: Vec<String> = lines.iter().map(|(local, _)| format!("{local}@{BANK}")).collect();
        for address in &addresses {
            what.extend(["--address", address]);
        }
        let invite = self.invite("bank", &what).await?;
        let text = format!(
            "name = \"{BANK}\"\nservice = \"bridge\"\ninvite = \"{invite}\"\ndata_dir = \"data\"\ntrunks = \"trunks.d\"\n\
             cdr = \"cdr.jsonl\"\nmedia_bind = \"{}:0\"\nbind = \"{}:0\"\nspecial_use_allowed = [\"example\"]\n{}",
            self.addresses.bridge_media,
            self.addresses.bridge_media,
            self.dns_section()
        );
        std::fs::write(self.layout.path("bridge/bridge.toml"), text)?;
        let pbx = match self.options.pbx {
            Pbx::Phone => self.addresses.phone,
            Pbx::Asterisk => self.addresses.pbx,
        };
        let mut trunk = format!(
            "bind = \"{}:5060\"\npeer = \"{pbx}:5060\"\ntransport = \"{}\"\nrtp_ports = [30000, 30999]\n\
             outbound_line = \"support\"\n\n[lines]\n",
            self.addresses.bridge,
            if self.options.tcp { "tcp" } else { "udp" },
        );
        for (local, extension) in lines {
            writeln!(trunk, "{local} = \"sip:{extension}@{pbx}:5060\"")?;
        }
        trunk.push_str("\n[short_codes]\n9001 = \"caller@home.example\"\n");
        Ok(std::fs::write(self.layout.path("bridge/trunks.d/pbx.toml"), trunk)?)
    }

    /// Starts (again) the bridge.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_bridge(&mut self) -> anyhow::Result<()> {
        let command = [
            self.layout.program("ahoy-bridge"),
            "--config".to_owned(),
            self.layout.text("bridge/bridge.toml"),
        ];
        let bridge = self.run(Spec::new("bridge", command)).await?;
        bridge.expect("sign-in", START, |line| line.contains("is ready").then_some(())).await
    }

    async fn start_pbx(&mut self) -> anyhow::Result<()> {
        self.start_phone().await?;
        if self.options.pbx == Pbx::Phone {
            return Ok(());
        }
        let script = self.layout.interop.join("asterisk.sh").display().to_string();
        let mut spec = Spec::new("asterisk", ["bash".to_owned(), script, self.layout.text("pbx")])
            .with_environment("IP", &self.addresses.pbx.to_string())
            .with_environment("BRIDGE", &self.addresses.bridge.to_string())
            .with_environment("PHONE", &self.addresses.phone.to_string())
            .with_environment("TRANSPORT", if self.options.tcp { "tcp" } else { "udp" });
        if self.options.asterisk_defaults {
            spec = spec.with_environment("DIRECT_MEDIA", "yes").with_environment("QUALIFY", "5");
        }
        let asterisk = self.run(spec).await?;
        asterisk.expect("`Asterisk Ready`", START, |line| line.contains("Asterisk Ready").then_some(())).await
    }

    async fn start_phone(&mut self) -> anyhow::Result<()> {
        let text = format!(
            "bind = \"{}:5060\"\nuser = \"200\"\nring_ms = 800\ntone_hz = {PHONE_HZ}\nrecord_dir = \"{}\"\n\n\
             [extensions]\n200 = \"answer\"\n201 = \"busy\"\n202 = \"ring\"\n203 = \"early-then-unavailable\"\n",
            self.addresses.phone,
            self.layout.text("phone"),
        );
        let path: PathBuf = self.layout.path("phone/phone.toml");
        std::fs::write(&path, text)?;
        let command =
            [self.layout.program("testkit-phone"), "--config".to_owned(), path.display().to_string()];
        let phone = self.run(Spec::new("phone", command)).await?;
        phone.expect("ready event", START, |line| line.contains("\"ready\"").then_some(())).await
    }

    /// Runs a program to its end and gives its output.
    ///
    /// # Errors
    /// When it fails; the message has what it printed.
    pub async fn output(&self, spec: Spec) -> anyhow::Result<String> {
        let name = spec.name.clone();
        let mut process = Process::start(spec, &self.layout.logs()).await?;
        let mut text = String::new();
        let collect = process.expect("its end", Duration::from_secs(60), |line| {
            text.push_str(line);
            text.push('\n');
            None::<()>
        });
        // It has ended, or failed to within the time: the status tells.
        let ended = collect.await;
        let status = process.wait(Duration::from_secs(5)).await?;
        if !status.success() {
            let why = ended.err().map(|e| e.to_string()).unwrap_or_default();
            anyhow::bail!("{name} failed ({status}):\n{text}{why}");
        }
        Ok(text)
    }
}
