//! What real peers have to show: Asterisk's extensions, a phone that is not ours, a router in between.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use ahoy_testkit::tone;
use anyhow::{Context, ensure};

use crate::{
    layout::{Addresses, BANK, Layout},
    process::{Process, Spec},
    talk::{self, Seen},
    world::World,
};

const CALL: Duration = Duration::from_secs(40);

async fn call(world: &World, local: &str, record: &str, more: &[&str]) -> anyhow::Result<Seen> {
    let (line, record) = (format!("{local}@{BANK}"), world.layout.text(record));
    let mut arguments = vec!["call", &line, "--play", "tone:440", "--record", &record, "--json"];
    arguments.extend(more);
    let mut ahoy = Process::start(world.ahoy("caller", &arguments), &world.layout.logs()).await?;
    let seen = talk::follow(&mut ahoy, CALL).await?;
    ahoy.wait(Duration::from_secs(10)).await?;
    Ok(seen)
}

/// The echo extension gives the caller's own tone back.
///
/// # Errors
/// When it does not.
pub async fn echo(world: &World) -> anyhow::Result<String> {
    let seen = call(world, "echo", "echo.wav", &["--duration", "7"]).await?;
    ensure!(seen.report.answered, "not answered: {}", seen.report.report);
    let share =
        talk::prove_tone("the caller", &world.layout.path("echo.wav"), 440, Duration::from_millis(500))?;
    Ok(format!("share {share:.3}"))
}

/// An announcement is heard before any answer, and then the call is declined.
///
/// # Errors
/// When it is not heard, or the call ends otherwise.
pub async fn announcement(world: &World) -> anyhow::Result<String> {
    let seen = call(world, "announcement", "announcement.wav", &[]).await?;
    ensure!(!seen.report.answered, "the announcement was answered");
    ensure!(seen.ms("early").is_some(), "no early media: {:?}", seen.steps);
    let wanted = ["declined", "forbidden"];
    ensure!(wanted.contains(&seen.report.report.as_str()), "it ended with {:?}", seen.report.report);
    let samples = tone::read_wav(&world.layout.path("announcement.wav"))?;
    let onset = tone::onset_ms(&samples).context("the announcement was not heard")?;
    let from = onset as usize * tone::RATE as usize / 1000;
    let share =
        tone::share(samples.get(from..from + 2 * tone::RATE as usize).context("below 2 s of it")?, 425);
    ensure!(share > 0.9, "the share of the announcement's 425 Hz is {share:.2}");
    Ok(format!("share {share:.3}, ended with {}", seen.report.report))
}

/// Key 1 leads from the menu's 440 Hz to 620 Hz.
///
/// # Errors
/// When the second tone is not heard.
pub async fn menu(world: &World) -> anyhow::Result<String> {
    let seen = call(world, "menu", "menu.wav", &["--dtmf", "1", "--duration", "8"]).await?;
    ensure!(seen.report.answered, "not answered: {}", seen.report.report);
    let samples = tone::read_wav(&world.layout.path("menu.wav"))?;
    let tail = samples.len().saturating_sub(4 * tone::RATE as usize);
    let share = tone::share(&samples[tail..], 620);
    ensure!(share > 0.9, "after key 1 the share of 620 Hz is {share:.2}");
    Ok(format!("share {share:.3}"))
}

/// baresip, registered at the PBX, dials the short code of `caller@home.example`.
///
/// # Errors
/// When the caller's client does not ring or either tone is missing.
pub async fn registered_phone(world: &mut World, client_hz: u32) -> anyhow::Result<String> {
    const BARESIP_HZ: u32 = 350;
    install(&world.layout, "baresip").await?;
    let play = world.layout.path("baresip-in.wav");
    tone::write_wav(&play, &tone::Tone::new(BARESIP_HZ).take(30 * tone::RATE as usize).collect::<Vec<_>>())?;
    let record = world.layout.path("registered.wav");
    let (tone_argument, recording) = (format!("tone:{client_hz}"), record.display().to_string());
    let arguments =
        ["answer", "--once", "--play", &tone_argument, "--record", &recording, "--duration", "7", "--json"];
    let mut ahoy = Process::start(world.ahoy("caller", &arguments), &world.layout.logs()).await?;
    ahoy.expect("sign-in", Duration::from_secs(10), |line| line.contains("waiting").then_some(())).await?;
    let address = world.addresses.pbx.to_string();
    let own = own_address(&address);
    let script = world.layout.interop.join("baresip.sh").display().to_string();
    let folder = world.layout.text("baresip");
    let words = ["bash", &script, &folder, &own, &address, "9001", &play.display().to_string()];
    let baresip = Process::start(Spec::new("baresip", words), &world.layout.logs()).await?;
    let seen = talk::follow(&mut ahoy, CALL).await;
    ahoy.wait(Duration::from_secs(10)).await?;
    baresip.stop(Duration::from_secs(5)).await;
    let seen = seen?;
    ensure!(seen.report.answered, "not answered: {}", seen.report.report);
    let skip = Duration::from_millis(500);
    let client = talk::prove_tone("the client", &record, BARESIP_HZ, skip)?;
    let hear = heard(&world.layout.path("baresip/heard")).context("baresip wrote no recording")?;
    let phone = talk::prove_tone("baresip", &hear, client_hz, skip)?;
    Ok(format!("shares {client:.3} and {phone:.3}"))
}

/// baresip's recording of the decoded direction.
fn heard(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?;
    files.flatten().map(|f| f.path()).find(|p| p.to_string_lossy().ends_with("-dec.wav"))
}

/// The fourth address of the PBX's block.
fn own_address(pbx: &str) -> String {
    match pbx.rsplit_once('.') {
        Some((block, _)) => format!("{block}.4"),
        None => pbx.to_owned(),
    }
}

/// Runs the project's own installer.
///
/// # Errors
/// When it fails; its log says why.
pub async fn install(layout: &Layout, peer: &str) -> anyhow::Result<()> {
    let script = layout.interop.join("install.sh").display().to_string();
    let mut install = Process::start(Spec::new("install", ["bash", &script, peer]), &layout.logs()).await?;
    let status = install.wait(Duration::from_secs(300)).await?;
    ensure!(status.success(), "{peer} could not be installed; see {}", install.log().display());
    Ok(())
}

/// The bridge and its PBX behind a router that masquerades and forwards nothing.
#[derive(Debug)]
pub struct Nat {
    prefix: String,
}

impl Nat {
    /// Namespaces named after this process.
    pub fn new(process: u32) -> Self {
        Self { prefix: format!("ahoy{process}") }
    }

    /// Which part runs where.
    pub fn under(&self) -> BTreeMap<String, Vec<String>> {
        let inside =
            |n: &str| ["ip", "netns", "exec", &format!("{}-{n}", self.prefix)].map(str::to_owned).to_vec();
        ["", "caller"]
            .map(|part| (part.to_owned(), inside("net")))
            .into_iter()
            .chain(["bridge", "phone", "asterisk"].map(|part| (part.to_owned(), inside("office"))))
            .collect()
    }

    /// The addresses that `interop/nat.sh` sets up.
    pub fn addresses(&self) -> Addresses {
        let net = |d: u8| [198, 51, 100, d].into();
        let office = |d: u8| [192, 168, 77, d].into();
        Addresses {
            dns: net(53),
            home: net(11),
            bank: net(12),
            client: net(21),
            pbx: office(101),
            bridge: office(102),
            bridge_media: office(102),
            phone: office(103),
        }
    }

    /// Makes the namespaces.
    ///
    /// # Errors
    /// When that is not possible here, e.g. without root.
    pub async fn up(&self, layout: &Layout) -> anyhow::Result<String> {
        install(layout, "netns").await?;
        let mut up = self.script(layout, "up").await?;
        let status = up.wait(Duration::from_secs(30)).await?;
        ensure!(
            status.success(),
            "the namespaces could not be made (root is needed); see {}",
            up.log().display()
        );
        Ok(String::new())
    }

    /// Removes them.
    pub async fn down(&self, layout: &Layout) {
        if let Ok(mut down) = self.script(layout, "down").await {
            // What is left goes with the next run of the same number.
            let _ = down.wait(Duration::from_secs(30)).await;
        }
    }

    async fn script(&self, layout: &Layout, action: &str) -> anyhow::Result<Process> {
        let script = layout.interop.join("nat.sh").display().to_string();
        Process::start(Spec::new("nat", ["bash", &script, action, &self.prefix]), &layout.logs()).await
    }
}
