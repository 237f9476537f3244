//! Group commit: one thread takes whatever batches wait, judges their preconditions in order, and lets them share one
//! sync of the disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::watch::Watches;
use super::{Batch, Change, CommitError, Engine, EngineError, Pending};

/// Batches that may wait, by weight: each weighs its size in KiB, at least 1. So 32 MiB or 32,768 batches.
const QUEUE_KIB: u32 = 32 * 1024;
/// Batches in one group; more wait for the next, so that the first of them is not kept waiting for long.
const GROUP: usize = 4096;

/// Figures of a store since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches that became durable.
    pub commits: u64,
    /// Batches refused with `Conflict`.
    pub conflicts: u64,
    /// Groups written, each with one sync of the disk.
    pub groups: u64,
    /// Time spent writing and syncing groups, in microseconds.
    pub write_micros: u64,
    /// Bytes of keys and values in durable batches.
    pub bytes: u64,
    /// KiB that wait to be committed.
    pub waiting_kib: u64,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    conflicts: AtomicU64,
    groups: AtomicU64,
    write_micros: AtomicU64,
    bytes: AtomicU64,
}

enum Message {
    Commit(Waiting),
    /// Commit what was handed over before this, then end.
    Close,
}

struct Waiting {
    batch: Batch,
    reply: oneshot::Sender<Result<(), CommitError>>,
    _room: OwnedSemaphorePermit,
}

/// The queue in front of the committer thread.
pub(super) struct Committer {
    queue: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start<E: Engine>(engine: Arc<E>, watches: Arc<Watches>) -> Result<Self, EngineError> {
        let (queue, waiting) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let work = Work { engine, watches, counters: counters.clone() };
        let thread = std::thread::Builder::new()
            .name("store-committer".into())
            .spawn(move || work.run(waiting))
            .map_err(EngineError::new)?;
        let room = Arc::new(Semaphore::new(QUEUE_KIB as usize));
        Ok(Self { queue, room, counters, thread: Some(thread) })
    }

    pub(super) fn commit(&self, batch: Batch) -> Pending<()> {
        if let Err(error) = batch.check_size() {
            return Box::pin(std::future::ready(Err(error)));
        }
        let weight = u32::try_from(batch.bytes().div_ceil(1024).max(1)).expect("a batch is at most 4 MiB");
        let (queue, room) = (self.queue.clone(), self.room.clone());
        match room.clone().try_acquire_many_owned(weight) {
            Ok(permit) => {
                let answer = hand_over(&queue, batch, permit);
                Box::pin(async move { answer?.await.unwrap_or(Err(CommitError::Unknown)) })
            }
            Err(_) => Box::pin(async move {
                let permit = room.acquire_many_owned(weight).await.map_err(|_| CommitError::Closed)?;
                hand_over(&queue, batch, permit)?.await.unwrap_or(Err(CommitError::Unknown))
            }),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: read(&self.counters.commits),
            conflicts: read(&self.counters.conflicts),
            groups: read(&self.counters.groups),
            write_micros: read(&self.counters.write_micros),
            bytes: read(&self.counters.bytes),
            waiting_kib: u64::from(QUEUE_KIB) - self.room.available_permits() as u64,
        }
    }
}

impl Drop for Committer {
    /// Commits what was handed over, then ends the thread, so that the folder is free when the store is dropped.
    fn drop(&mut self) {
        self.room.close();
        // Futures that wait for room still hold senders: the end has to be said.
        let _ = self.queue.send(Message::Close);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

type Answer = oneshot::Receiver<Result<(), CommitError>>;

fn hand_over(
    queue: &mpsc::UnboundedSender<Message>,
    batch: Batch,
    room: OwnedSemaphorePermit,
) -> Result<Answer, CommitError> {
    let (reply, answer) = oneshot::channel();
    queue.send(Message::Commit(Waiting { batch, reply, _room: room })).map_err(|_| CommitError::Closed)?;
    Ok(answer)
}

struct Work<E> {
    engine: Arc<E>,
    watches: Arc<Watches>,
    counters: Arc<Counters>,
}

/// Values that a group has set or removed so far, by flat key. The engine gets each key once.
type Overlay = HashMap<Vec<u8>, Option<Bytes>>;

impl<E: Engine> Work<E> {
    fn run(self, mut queue: mpsc::UnboundedReceiver<Message>) {
        let _guard = AbortOnPanic;
        let mut messages = Vec::with_capacity(GROUP);
        let mut closing = false;
        while !closing && queue.blocking_recv_many(&mut messages, GROUP) > 0 {
            closing = messages.iter().any(|message| matches!(message, Message::Close));
            let handed_over = messages.drain(..).map_while(|message| match message {
                Message::Commit(waiting) => Some(waiting),
                Message::Close => None,
            });
            self.commit_group(handed_over.collect());
        }
    }

    fn commit_group(&self, group: Vec<Waiting>) {
        let mut overlay = Overlay::with_capacity(group.len());
        let mut outcomes = Vec::with_capacity(group.len());
        for waiting in &group {
            match self.stage(&waiting.batch, &mut overlay) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => die("a value cannot be read", &error),
            }
        }
        if !overlay.is_empty() {
            self.write(overlay);
        }
        // Conflicts are answered after the write too: the batch that they lost against may be in this group.
        for (waiting, outcome) in group.into_iter().zip(outcomes) {
            self.count(&waiting.batch, &outcome);
            if outcome.is_ok() && !waiting.batch.is_empty() {
                self.watches.tell(waiting.batch.partition());
            }
            let _ = waiting.reply.send(outcome);
        }
    }

    /// Puts the changes of `batch` on top of `overlay` if its preconditions hold there.
    fn stage(&self, batch: &Batch, overlay: &mut Overlay) -> Result<Result<(), CommitError>, EngineError> {
        for precondition in &batch.preconditions {
            let flat = batch.partition.flat(precondition.key());
            let value = match overlay.get(&flat) {
                Some(value) => value.clone(),
                None => self.engine.latest(&flat)?,
            };
            if !precondition.holds(value.as_ref()) {
                return Ok(Err(CommitError::Conflict { key: precondition.key().clone() }));
            }
        }
        for change in &batch.changes {
            let (key, value) = match change {
                Change::Put(key, value) => (key, Some(value.clone())),
                Change::Delete(key) => (key, None),
            };
            overlay.insert(batch.partition.flat(key), value);
        }
        Ok(Ok(()))
    }

    fn write(&self, overlay: Overlay) {
        let begun = tokio::time::Instant::now();
        if let Err(error) = self.engine.write(overlay.into_iter().collect()) {
            // After a failed sync the kernel may have dropped the pages: what the disk holds is anybody's guess, and
            // only a restart, which reads it, can tell. Nothing of the group was acknowledged.
            die("a commit cannot be made durable", &error);
        }
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.write_micros.fetch_add(micros, Ordering::Relaxed);
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, batch: &Batch, outcome: &Result<(), CommitError>) {
        if outcome.is_ok() {
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
            self.counters.bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        } else {
            self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Without its committer the homeserver could only pretend to work.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn die(what: &str, error: &EngineError) -> ! {
    tracing::error!(%error, "the store failed: {what}; ending the process");
    eprintln!("the store failed: {what}: {error}");
    std::process::abort();
}
