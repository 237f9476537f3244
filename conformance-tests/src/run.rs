//! Decides the order of a run: DNS and the suite's homeserver first, then the subject, then the cases one by one.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::cases::{self, Case};
use crate::report::{self, Line};
use crate::world::{Settings, World};

/// How long the subject has to stop.
const STOP: Duration = Duration::from_secs(5);

/// What is run, and on what.
#[derive(Debug)]
pub struct Plan {
    /// The world.
    pub settings: Settings,
    /// A shell command that starts the subject.
    pub start: Option<String>,
    /// Ids of cases; none stands for all.
    pub selected: Vec<String>,
    /// Where the JUnit file goes.
    pub junit: Option<PathBuf>,
}

/// Runs the plan and gives the exit status.
///
/// # Errors
/// When the suite itself cannot run.
pub async fn run(plan: Plan) -> anyhow::Result<u8> {
    let cases = select(&plan.selected)?;
    let mut world = World::prepare(&plan.settings).await?;
    println!("ready: DNS at {}, homeserver at {}", world.dns.address(), world.net.address()?);
    let subject = plan.start.as_deref().map(start).transpose()?;
    world.process = subject.as_ref().and_then(Child::id);
    let judged = judge(&world, &cases).await;
    if let Some(subject) = subject {
        stop(subject).await;
    }
    let lines = judged?;
    println!("{}", report::summary(&lines));
    if let Some(path) = &plan.junit {
        report::write_junit(path, &lines)?;
    }
    Ok(report::status(&lines))
}

async fn judge(world: &World, cases: &[Case]) -> anyhow::Result<Vec<Line>> {
    world.await_subject().await?;
    let mut lines = Vec::with_capacity(cases.len());
    for case in cases {
        let line = case.run(world).await;
        println!("{}", line.text());
        lines.push(line);
    }
    Ok(lines)
}

fn select(wanted: &[String]) -> anyhow::Result<Vec<Case>> {
    let all = cases::all();
    if let Some(unknown) = wanted.iter().find(|id| all.iter().all(|case| case.id != **id)) {
        bail!("there is no case {unknown:?}: `ahoy-conform list` names them");
    }
    Ok(all.into_iter().filter(|case| wanted.is_empty() || wanted.iter().any(|id| id == case.id)).collect())
}

fn start(command: &str) -> anyhow::Result<Child> {
    let mut shell = Command::new("sh");
    // `exec`: the signal that stops the shell stops the subject.
    shell.args(["-c", &format!("exec {command}")]).stdin(Stdio::null()).stdout(Stdio::null());
    shell.kill_on_drop(true).spawn().with_context(|| format!("cannot start the subject with {command:?}"))
}

/// Asks the subject to stop, and kills it if it does not.
async fn stop(mut subject: Child) {
    if let Some(id) = subject.id() {
        // A subject that is gone cannot be signalled, which is as good.
        let _ = Command::new("kill").args(["-TERM", &id.to_string()]).status().await;
    }
    if timeout(STOP, subject.wait()).await.is_err() {
        // It is gone either way.
        let _ = subject.kill().await;
    }
}
