//! The main job, step by step: a name is resolved, a message gets its reply, a call goes in and one comes out.

use std::{path::PathBuf, time::Duration};

use ahoy_testkit::{
    phone::{Command, Event},
    tone,
};
use anyhow::{Context, ensure};

use crate::{
    layout::BANK,
    process::{Process, Spec},
    talk::{self, Seen},
    world::{PHONE_HZ, Pbx, World},
};

/// The tone that the caller plays, in hertz.
pub const CALLER_HZ: u32 = 440;
/// Audio in one RTP packet, in milliseconds.
const PACKET_MS: u64 = 20;
/// What of the first words may be missing, in milliseconds.
const CLIPPED_MS: u64 = 100;
/// How long the whole of one call may take.
const CALL: Duration = Duration::from_secs(40);
/// What the bot is told to answer.
const REPLY: &str = "Yes, somebody is: you said {text}";

/// What a call proved.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The steps at the caller's or callee's client.
    pub client: Seen,
    /// The share of the phone's tone in the client's recording.
    pub heard_by_client: f64,
    /// The share of the client's tone in the phone's recording.
    pub heard_by_phone: f64,
    /// The two recordings, the client's first.
    pub recordings: [PathBuf; 2],
    /// Where in the client's recording the phone's tone begins, in milliseconds.
    pub onset_ms: u32,
}

/// Resolves the company's name and gives the printed steps.
///
/// # Errors
/// When the name is not `Secure`.
pub async fn explain(world: &World) -> anyhow::Result<String> {
    let text = world.output(world.ahoy("caller", &["explain", BANK])).await?;
    ensure!(text.contains("Secure"), "{BANK} is not Secure:\n{text}");
    Ok(text)
}

/// Enrols `caller@home.example` and `ann@bank.example`.
///
/// # Errors
/// When an account cannot be made.
pub async fn sign_up(world: &World) -> anyhow::Result<()> {
    for (folder, home, address) in
        [("home", "caller", "caller@home.example"), ("bank", "support", "ann@bank.example")]
    {
        let token = world.invite(folder, &[address]).await?;
        world.output(world.ahoy(home, &["signup", address, "--invite", &token])).await?;
    }
    Ok(())
}

/// Starts the bot on the support line.
///
/// # Errors
/// When it cannot sign in.
pub async fn start_bot(world: &mut World) -> anyhow::Result<()> {
    let line = format!("support@{BANK}");
    let token = world.invite("bank", &["--service", "bot", "--address", &line]).await?;
    std::fs::create_dir_all(world.layout.path("bot"))?;
    std::fs::copy(world.layout.path("support/config.toml"), world.layout.path("bot/config.toml"))?;
    let arguments =
        ["bot", "--service", "bot", "--name", BANK, "--invite", &token, "--address", &line, "--reply", REPLY];
    let mut spec = world.ahoy("bot", &arguments);
    spec.name = "bot".to_owned();
    let bot = world.run(spec).await?;
    bot.expect("sign-in", Duration::from_secs(10), |line| line.contains("answering").then_some(())).await
}

/// Sends a message to the line and waits for the bot's reply.
///
/// # Errors
/// When it is not placed or no reply comes.
pub async fn message(world: &World) -> anyhow::Result<String> {
    let text = "Is anybody there?";
    let line = format!("support@{BANK}");
    let mut reader =
        Process::start(world.ahoy("caller", &["read", "--follow", "--json"]), &world.layout.logs()).await?;
    let sent = world.output(world.ahoy("caller", &["send", &line, text, "--wait", "20"])).await?;
    ensure!(sent.contains("Placed"), "the message was not placed: {sent}");
    let wanted = REPLY.replace("{text}", text);
    let reply = reader
        .expect("the bot's reply", Duration::from_secs(20), |line| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            (value["text"] == wanted.as_str()).then(|| value["from"].as_str().unwrap_or_default().to_owned())
        })
        .await;
    reader.stop(Duration::from_secs(5)).await;
    ensure!(reply? == line, "the reply came from somebody else");
    Ok(wanted)
}

/// Calls the support line: ringing, answer, a tone each way, the keys `12#`, hang-up.
///
/// # Errors
/// When anything of this does not hold; the message says what and where the recordings are.
pub async fn call_in(world: &mut World) -> anyhow::Result<Proof> {
    let line = format!("support@{BANK}");
    let (hello, answer) = (world.layout.path("hello.wav"), world.layout.path("answer.wav"));
    tone::write_wav(&hello, &tone::Tone::new(CALLER_HZ).take(30 * tone::RATE as usize).collect::<Vec<_>>())?;
    let (play, record) = (hello.display().to_string(), answer.display().to_string());
    let arguments =
        ["call", &line, "--play", &play, "--record", &record, "--dtmf", "12#", "--duration", "9", "--json"];
    let mut ahoy = Process::start(world.ahoy("caller", &arguments), &world.layout.logs()).await?;
    let client = talk::follow(&mut ahoy, CALL).await?;
    ahoy.wait(Duration::from_secs(10)).await?;
    ensure!(client.report.answered, "nobody picked up: {}", client.report.report);
    ensure!(client.ms("ringing").is_some(), "the phone did not ring: {:?}", client.steps);
    let phone = talk::phone_side(world.process("phone")?, Duration::from_secs(10)).await?;
    ensure!(phone.digits == "12#", "the phone heard the keys {:?} instead of 12#", phone.digits);
    // The phone's tone starts with its 200 OK: nothing of it may be cut off at pick-up.
    let lost = phone.sent.saturating_sub(client.report.packets_received) * PACKET_MS;
    ensure!(lost <= CLIPPED_MS, "{lost} ms of what the phone said from its 200 OK on did not arrive");
    let proof = prove(client, answer, phone.recording, Duration::from_millis(2500))?;
    ensure!(
        u64::from(proof.onset_ms) <= CLIPPED_MS,
        "the phone's tone begins {} ms into the recording",
        proof.onset_ms
    );
    Ok(proof)
}

/// Lets the phone call the caller's client.
///
/// # Errors
/// When anything of this does not hold.
pub async fn call_out(world: &mut World) -> anyhow::Result<Proof> {
    let record = world.layout.path("caller.wav");
    let (play, recording) = (format!("tone:{CALLER_HZ}"), record.display().to_string());
    let arguments =
        ["answer", "--once", "--play", &play, "--record", &recording, "--duration", "7", "--json"];
    let mut ahoy = Process::start(world.ahoy("caller", &arguments), &world.layout.logs()).await?;
    ahoy.expect("sign-in", Duration::from_secs(10), |line| line.contains("waiting").then_some(())).await?;
    let (uri, to) = match world.options.pbx {
        Pbx::Phone => {
            (format!("sip:caller%40home.example@{}:5060", world.addresses.bridge), world.addresses.bridge)
        }
        Pbx::Asterisk => (format!("sip:9001@{}:5060", world.addresses.pbx), world.addresses.pbx),
    };
    let command = Command::Call { uri, to: (to, 5060).into() };
    let phone = world.process("phone")?;
    phone.write_line(&serde_json::to_string(&command)?).await?;
    talk::phone_event(phone, "the answer of the caller's client", CALL, |e| {
        matches!(e, Event::Answered { .. } | Event::Rejected { .. })
    })
    .await
    .and_then(|e| match e {
        Event::Rejected { status, .. } => Err(anyhow::anyhow!("the phone's call was refused with {status}")),
        _ => Ok(()),
    })?;
    let client = talk::follow(&mut ahoy, CALL).await?;
    ahoy.wait(Duration::from_secs(10)).await?;
    let phone = talk::phone_side(world.process("phone")?, Duration::from_secs(10)).await?;
    prove(client, record, phone.recording, Duration::from_millis(500))
}

fn prove(client: Seen, heard: PathBuf, phone: PathBuf, skip: Duration) -> anyhow::Result<Proof> {
    let heard_by_client = talk::prove_tone("the client", &heard, PHONE_HZ, skip)?;
    let heard_by_phone = talk::prove_tone("the phone", &phone, CALLER_HZ, skip)?;
    let onset_ms = tone::onset_ms(&tone::read_wav(&heard)?).context("the client heard nothing")?;
    Ok(Proof { client, heard_by_client, heard_by_phone, recordings: [heard, phone], onset_ms })
}

/// A call that is expected to fail, and how.
///
/// # Errors
/// When it ends otherwise.
pub async fn refused(world: &World, local: &str, reason: &str, deadline: Duration) -> anyhow::Result<Seen> {
    let line = format!("{local}@{BANK}");
    let spec: Spec = world.ahoy("caller", &["call", &line, "--duration", "5", "--json"]);
    let mut ahoy = Process::start(spec, &world.layout.logs()).await?;
    let seen = talk::follow(&mut ahoy, deadline).await?;
    ahoy.wait(Duration::from_secs(10)).await?;
    ensure!(
        seen.report.report == reason,
        "a call to {line} ended with {:?}, not {reason:?}",
        seen.report.report
    );
    Ok(seen)
}
