//! Decides how a child process is started, watched and stopped: its lines go to a log file and to whoever waits.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

/// How to start a program.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// What it is called in logs and messages.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment on top of our own.
    pub environment: Vec<(String, String)>,
    /// A command to run it under, e.g. `ip netns exec NAME`.
    pub under: Vec<String>,
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    log: PathBuf,
    readers: JoinSet<()>,
}

impl Spec {
    /// A program with arguments.
    pub fn new<S: Into<String>>(name: &str, command: impl IntoIterator<Item = S>) -> Self {
        Self {
            name: name.to_owned(),
            command: command.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn with_environment(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Runs it under another command.
    #[must_use]
    pub fn under(mut self, command: &[String]) -> Self {
        self.under = command.to_vec();
        self
    }

    fn into_command(self) -> Command {
        let words: Vec<String> = self.under.into_iter().chain(self.command).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

impl Process {
    /// Starts a program; its output is appended to `logs/NAME.log`.
    ///
    /// # Errors
    /// When the program or the log file cannot be opened; the message names both.
    pub async fn start(spec: Spec, logs: &Path) -> anyhow::Result<Self> {
        let name = spec.name.clone();
        let program = spec.command.first().cloned().unwrap_or_default();
        let log = logs.join(format!("{name}.log"));
        let mut child = spec
            .into_command()
            .spawn()
            .with_context(|| format!("cannot start {name} ({program}); is it built?"))?;
        let (to_reader, lines) = mpsc::channel(4096);
        let mut readers = JoinSet::new();
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        readers.spawn(copy_lines(stdout, open_log(&log).await?, to_reader.clone()));
        readers.spawn(copy_lines(stderr, open_log(&log).await?, to_reader));
        let stdin = child.stdin.take();
        Ok(Self { name, child, stdin, lines, log, readers })
    }

    /// The operating system's number for it.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where its output is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// When it has closed it.
    pub async fn write_line(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().with_context(|| format!("{} has no standard input", self.name))?;
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(stdin.flush().await?)
    }

    /// The next line of its output for which `wanted` gives a value.
    ///
    /// # Errors
    /// When it does not come within `deadline`, or the program ends first; the message says what was awaited and
    /// where the log is.
    pub async fn expect<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let until = Instant::now() + deadline;
        loop {
            match tokio::time::timeout_at(until, self.lines.recv()).await {
                Ok(Some(line)) => {
                    if let Some(value) = wanted(&line) {
                        return Ok(value);
                    }
                }
                Ok(None) => bail!("{} ended before {what}{}", self.name, self.last_words().await),
                Err(_) => bail!("{}: no {what} within {deadline:?}{}", self.name, self.last_words().await),
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let status = tokio::time::timeout(deadline, self.child.wait())
            .await
            .with_context(|| format!("{} does not end within {deadline:?}", self.name))??;
        while self.readers.join_next().await.is_some() {}
        Ok(status)
    }

    /// Asks it to stop, as an operator's service manager would, and kills it after `deadline`.
    pub async fn stop(mut self, deadline: Duration) {
        self.signal("TERM").await;
        if tokio::time::timeout(deadline, self.child.wait()).await.is_err() {
            eprintln!("{} did not stop within {deadline:?}; killed", self.name);
            // It is gone either way.
            let _ = self.child.kill().await;
        }
    }

    /// Kills it without warning, as `kill -9` does.
    pub async fn kill(mut self) {
        // Already dead is as good.
        let _ = self.child.kill().await;
    }

    /// Sends a signal by name.
    pub async fn signal(&self, signal: &str) {
        if let Some(id) = self.child.id() {
            // A process that is gone cannot be signalled: nothing is lost.
            let _ = Command::new("kill").arg(format!("-{signal}")).arg(id.to_string()).status().await;
        }
    }

    async fn last_words(&self) -> String {
        let text = tokio::fs::read_to_string(&self.log).await.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n    ");
        format!(". Its log is {}, which ends:\n    {tail}", self.log.display())
    }
}

async fn open_log(path: &Path) -> anyhow::Result<tokio::fs::File> {
    let open = tokio::fs::OpenOptions::new().create(true).append(true).open(path).await;
    open.with_context(|| format!("cannot write the log {}", path.display()))
}

async fn copy_lines(from: impl AsyncRead + Unpin, mut log: tokio::fs::File, to: mpsc::Sender<String>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A full disk must not stop the program that is watched.
        let _ = log.write_all(format!("{line}\n").as_bytes()).await;
        let _ = log.flush().await;
        // At 4,096 unread lines the rest is in the log alone.
        let _ = to.try_send(line);
    }
}
