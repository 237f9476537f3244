//! Decides the order in which a name's data changes: one task per name takes what waits, builds one page of it,
//! commits the page, and only then answers.
//!
//! Nothing is acknowledged before it is durable, and whoever waits together shares one commit. `[EVENT-DELIVER-06]`

use std::sync::Arc;

use ahoy_proto::fault::Fault;
use ahoy_proto::v1::ErrorCode;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;
use crate::layout;
use crate::page::{Memory, Page, Woken};
use crate::store::{CommitError, Store, StoreError};

/// Jobs that may wait; more make their senders wait.
const WAITING: usize = 4096;
/// A page is closed after so many jobs.
const PAGE_JOBS: usize = 2048;

/// What a job does to the page: `Ok(Err(..))` refuses, having written nothing.
pub type Outcome<T> = Result<Result<T, Fault>, StoreError>;

type Answer = Box<dyn FnOnce(Result<(), Fault>) + Send>;
type Job = Box<dyn FnOnce(&mut Page<'_>) -> Result<Answer, StoreError> + Send>;

/// Where changes of one name's data are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    jobs: mpsc::Sender<Job>,
}

/// What happens when a page is durable.
pub type Wake = Box<dyn Fn(Woken) + Send>;

impl Ledger {
    /// A ledger and the loop that the caller runs on its tracker.
    pub fn new(
        desk: Arc<Desk>,
        store: Arc<dyn Store>,
        wake: Wake,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, waiting) = mpsc::channel(WAITING);
        (Self { jobs }, run(desk, store, wake, waiting, stop))
    }

    /// Runs `job` on the next page and returns its result once that is durable.
    pub async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Page<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |page| {
            let result = job(page)?;
            Ok(Box::new(move |committed| {
                // Whoever asked may have gone; the change stands all the same.
                let _ = answer.send(committed.and(result));
            }))
        });
        let closed = || Fault::new(ErrorCode::Unavailable, "the homeserver is stopping; try again shortly");
        self.jobs.send(job).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

async fn run(
    desk: Arc<Desk>,
    store: Arc<dyn Store>,
    wake: Wake,
    mut waiting: mpsc::Receiver<Job>,
    stop: CancellationToken,
) {
    let partition = layout::partition(&desk.name);
    let mut memory = Memory::default();
    loop {
        let first = tokio::select! {
            job = waiting.recv() => job,
            () = stop.cancelled() => waiting.try_recv().ok(),
        };
        let Some(first) = first else { return };
        let mut answers = Vec::new();
        let mut page = Page::new(&desk, &*store, &partition, &mut memory);
        let written = fill(&mut page, first, &mut waiting, &mut answers).and_then(|()| page.close());
        let outcome = match written {
            Ok((batch, woken)) if batch.is_empty() => Ok(woken),
            Ok((batch, woken)) => store.commit(batch).await.map(|()| woken),
            Err(error) => Err(CommitError::Read(error)),
        };
        match outcome {
            Ok(woken) => {
                wake(woken);
                answers.into_iter().for_each(|answer| answer(Ok(())));
            }
            Err(error) => {
                tracing::error!(name = %desk.name, %error, "a commit failed");
                memory = Memory::default();
                let fault =
                    Fault::new(ErrorCode::Internal, "the store of this homeserver failed; try again later");
                answers.into_iter().for_each(|answer| answer(Err(fault.clone())));
            }
        }
    }
}

fn fill(
    page: &mut Page<'_>,
    first: Job,
    waiting: &mut mpsc::Receiver<Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    answers.push(first(page)?);
    while answers.len() < PAGE_JOBS && !page.is_full() {
        let Ok(job) = waiting.try_recv() else { break };
        answers.push(job(page)?);
    }
    Ok(())
}
