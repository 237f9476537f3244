//! Start, drain and stop: which signals end the process, in which order, and what a crashed task does to it.
//!
//! Two tokens. The *soft* one: take on nothing new (calls are refused with a retry hint, peers get `GoAway`). The
//! *hard* one: stop now. Between them lies the drain deadline. Queues are on disk and need neither.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take to end after the hard token.
const STOP: Duration = Duration::from_secs(5);

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// A task returned an error.
    #[error("the task `{task}` failed: {error:#}")]
    Failed {
        /// Which.
        task: &'static str,
        /// Why.
        error: anyhow::Error,
    },
    /// A task panicked.
    #[error("the task `{task}` crashed: {message}")]
    Crashed {
        /// Which.
        task: &'static str,
        /// The panic's message.
        message: String,
    },
    /// Tasks did not end in time.
    #[error("{count} tasks did not end within {} s of the stop", STOP.as_secs())]
    Stuck {
        /// How many.
        count: usize,
    },
}

/// Spawns tasks that the process waits for, and tells them when to end. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    soft: CancellationToken,
    hard: CancellationToken,
    tracker: TaskTracker,
    failures: mpsc::Sender<LifecycleError>,
}

impl Tasks {
    /// Cancelled when nothing new may begin.
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when everything has to end.
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Runs `task` until it ends. It has to watch [`hard`](Self::hard) itself. If it returns an error or panics, the
    /// whole process stops with that error: a homeserver without one of its parts could only pretend to work.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let failures = self.failures.clone();
        self.tracker.spawn(async move {
            let failure = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => LifecycleError::Failed { task: name, error },
                Err(panic) => LifecycleError::Crashed { task: name, message: panic_message(&*panic) },
            };
            // One failure ends the process; those that find the channel full came later.
            let _ = failures.try_send(failure);
        });
    }
}

/// The life of the process, held by `main`.
pub struct Lifecycle {
    tasks: Tasks,
    failures: mpsc::Receiver<LifecycleError>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        let (sender, failures) = mpsc::channel(1);
        let tasks = Tasks {
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
            tracker: TaskTracker::new(),
            failures: sender,
        };
        Self { tasks, failures }
    }
}

impl Lifecycle {
    /// What tasks are spawned on.
    pub fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    /// Lives until `signal` yields once, or a task fails; then drains until `idle` returns, `drain` has passed,
    /// another signal comes or a task fails; then stops. The error is that of the first task that failed.
    pub async fn run<S, I>(
        mut self,
        mut signal: S,
        idle: impl FnOnce() -> I,
        drain: Duration,
    ) -> Result<(), LifecycleError>
    where
        S: Signal,
        I: Future<Output = ()>,
    {
        let mut failure = tokio::select! {
            () = signal.next() => None,
            failure = self.failures.recv() => failure,
        };
        self.tasks.soft.cancel();
        if failure.is_none() {
            tracing::info!(seconds = drain.as_secs(), "draining: live calls may finish");
            failure = tokio::select! {
                () = idle() => None,
                () = tokio::time::sleep(drain) => { tracing::warn!("the drain deadline has passed"); None }
                () = signal.next() => { tracing::warn!("a second signal: stopping now"); None }
                failure = self.failures.recv() => failure,
            };
        }
        self.tasks.hard.cancel();
        self.tasks.tracker.close();
        let stopped = tokio::time::timeout(STOP, self.tasks.tracker.wait()).await;
        let failure = failure.or_else(|| self.failures.try_recv().ok());
        match (failure, stopped) {
            (Some(failure), _) => Err(failure),
            (None, Err(_)) => Err(LifecycleError::Stuck { count: self.tasks.tracker.len() }),
            (None, Ok(())) => Ok(()),
        }
    }
}

/// Where the wish to stop comes from.
pub trait Signal {
    /// Returns when somebody asks the process to stop.
    fn next(&mut self) -> impl Future<Output = ()>;
}

/// SIGTERM and SIGINT.
pub struct OsSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl OsSignals {
    /// From now on the two signals no longer kill the process.
    pub fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

impl Signal for OsSignals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT"),
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Asks to stop `self.0` times, at once.
    struct Asks(u32);

    impl Signal for Asks {
        async fn next(&mut self) {
            if self.0 == 0 {
                pending::<()>().await;
            }
            self.0 -= 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_the_last_call_does() {
        let lifecycle = Lifecycle::default();
        let tasks = lifecycle.tasks();
        let saw_soft_first = Arc::new(AtomicBool::new(false));
        let (watched, seen) = (tasks.clone(), saw_soft_first.clone());
        tasks.spawn("watcher", async move {
            watched.soft().cancelled().await;
            seen.store(!watched.hard().is_cancelled(), Ordering::Relaxed);
            watched.hard().cancelled().await;
            Ok(())
        });
        let begun = tokio::time::Instant::now();
        let last_call = || tokio::time::sleep(Duration::from_secs(20));
        lifecycle.run(Asks(1), last_call, Duration::from_secs(60)).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 20);
        assert!(saw_soft_first.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_at_its_deadline_or_at_a_second_signal() {
        for (asks, seconds) in [(1, 60), (2, 0)] {
            let begun = tokio::time::Instant::now();
            Lifecycle::default().run(Asks(asks), pending, Duration::from_secs(60)).await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), seconds);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crashed_task_ends_the_process_with_its_message() {
        let lifecycle = Lifecycle::default();
        lifecycle.tasks().spawn("sweeper", async { panic!("a broom broke") });
        let ended = lifecycle.run(Asks(0), pending, Duration::from_secs(60)).await;
        assert_eq!(ended.unwrap_err().to_string(), "the task `sweeper` crashed: a broom broke");
        let lifecycle = Lifecycle::default();
        lifecycle.tasks().spawn("sweeper", async { anyhow::bail!("no broom") });
        let ended = lifecycle.run(Asks(0), pending, Duration::from_secs(60)).await;
        assert_eq!(ended.unwrap_err().to_string(), "the task `sweeper` failed: no broom");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_an_error_and_not_a_hang() {
        let lifecycle = Lifecycle::default();
        lifecycle.tasks().spawn("deaf", pending());
        let ended = lifecycle.run(Asks(1), || async {}, Duration::from_secs(60)).await;
        assert!(matches!(ended, Err(LifecycleError::Stuck { count: 1 })), "{ended:?}");
    }
}
