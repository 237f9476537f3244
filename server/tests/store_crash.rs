//! What the store holds after its process was killed, or its disk refused a write, in the middle of commits.
//!
//! The tests start their own binary again as the process that dies: with `CHILD` in its environment, a test is that
//! process instead.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use ahoyd::store::{self, Batch, CommitError, KeyRange, Order, Partition, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

/// Folder of the store, for the child; what it resumes from follows after `:`, one number per writer.
const CHILD: &str = "AHOY_STORE_CRASH_CHILD";
const WRITERS: usize = 8;
/// Commits that a writer hands over before it awaits the first of them.
const PIPELINE: u64 = 4;
const KILLS: usize = 60;

/// The next id of each writer that has not been reported as acknowledged.
type Next = [u64; WRITERS];

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kill_minus_nine() {
    if let Ok(child) = std::env::var(CHILD) {
        return write_until_killed(&child);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut rng = StdRng::seed_from_u64(20_260_101);
    let mut next: Next = [0; WRITERS];
    for round in 0..KILLS {
        // Some die while they open the store, most in the middle of commits.
        let acks = if round % 6 == 5 { rng.random_range(0..3) } else { rng.random_range(3..3000) };
        kill_after(acks, dir.path(), &mut next);
        if round % 10 == 9 {
            verify(dir.path(), &next);
        }
    }
    verify(dir.path(), &next);
    assert!(next.iter().all(|&acknowledged| acknowledged > 1000), "every writer got somewhere: {next:?}");
}

#[test]
fn a_write_that_the_disk_refuses_ends_the_process_and_loses_nothing_acknowledged() {
    if let Ok(child) = std::env::var(CHILD) {
        return write_until_killed(&child);
    }
    let dir = tempfile::tempdir().expect("a folder");
    drop(store::open(dir.path(), 8 << 20).expect("opens"));
    let mut next: Next = [0; WRITERS];
    // No file of the child may grow beyond 4096 blocks; the ignored signal makes that an error of the write.
    let name = "a_write_that_the_disk_refuses_ends_the_process_and_loses_nothing_acknowledged";
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"trap "" XFSZ; ulimit -f 4096; exec "$0" "$@""#]).arg(own_binary());
    let mut child = start(limited, name, dir.path(), &next);
    let acknowledged = read_acks(&mut child, usize::MAX, &mut next);
    let output = child.wait_with_output().expect("the child ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(acknowledged > 100, "it worked until the disk was full: {acknowledged}, {said}");
    assert_eq!(output.status.signal(), Some(6), "it aborts: {said}");
    assert!(said.contains("a commit cannot be made durable"), "and says why: {said}");
    verify(dir.path(), &next);
}

fn own_binary() -> std::path::PathBuf {
    std::env::current_exe().expect("the test binary has a path")
}

fn start(mut command: Command, test: &str, dir: &Path, next: &Next) -> Child {
    let resume = next.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{}:{resume}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the child starts")
}

fn kill_after(acks: usize, dir: &Path, next: &mut Next) {
    let name = "nothing_acknowledged_is_lost_or_doubled_by_kill_minus_nine";
    let mut child = start(Command::new(own_binary()), name, dir, next);
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    take_acks(&mut output, acks, next);
    child.kill().expect("the child can be killed");
    // What it had reported when it died counts as acknowledged too.
    take_acks(&mut output, usize::MAX, next);
    let ended = child.wait_with_output().expect("the child ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(9), "the child died before it was killed: {said}");
}

fn read_acks(child: &mut Child, acks: usize, next: &mut Next) -> usize {
    take_acks(&mut BufReader::new(child.stdout.take().expect("piped")), acks, next)
}

/// Reads whole lines `ack WRITER ID` until there were `acks` of them or the pipe ends.
fn take_acks(output: &mut impl BufRead, acks: usize, next: &mut Next) -> usize {
    let mut taken = 0;
    let mut line = String::new();
    while taken < acks {
        line.clear();
        if output.read_line(&mut line).expect("the pipe can be read") == 0 {
            break;
        }
        let Some(ack) = line.strip_suffix('\n').and_then(|line| line.strip_prefix("ack ")) else { continue };
        let (writer, id) = ack.split_once(' ').expect("two numbers");
        let (writer, id): (usize, u64) = (writer.parse().expect("a number"), id.parse().expect("a number"));
        assert_eq!(next[writer], id, "writer {writer} acknowledges in order");
        next[writer] = id + 1;
        taken += 1;
    }
    taken
}

/// Every acknowledged id is in its writer's log, none twice, in order, and the log has no holes.
fn verify(dir: &Path, next: &Next) {
    let store = store::open(dir, 8 << 20).expect("the store opens after a crash");
    for (writer, &acknowledged) in next.iter().enumerate() {
        let ids = log_of(&*store, writer);
        let distinct: HashSet<u64> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "writer {writer}: an id is visible twice");
        let missing = (0..acknowledged).find(|id| !distinct.contains(id));
        assert_eq!(missing, None, "writer {writer}: an acknowledged write is missing");
        assert!(ids.is_sorted(), "writer {writer}: out of order");
        let unreported = ids.len() as u64 - acknowledged;
        assert!(unreported <= PIPELINE, "writer {writer}: {unreported} writes came from nowhere");
    }
}

fn log_of(store: &dyn Store, writer: usize) -> Vec<u64> {
    let partition = Partition::new("log", [writer as u8]);
    let mut ids = Vec::new();
    let mut range = KeyRange::prefix("at/");
    loop {
        let rows = store.scan(&partition, &range, 1000, Order::Ascending).expect("scans");
        let Some((last, _)) = rows.last() else { return ids };
        range = KeyRange::after(last.to_vec()).below("at0");
        for (key, value) in &rows {
            assert_eq!(key[..], at(ids.len() as u64), "the log has no holes");
            ids.push(id_of(value));
        }
    }
}

fn at(position: u64) -> Vec<u8> {
    [b"at/".as_slice(), &position.to_be_bytes()].concat()
}

fn seen(id: u64) -> Vec<u8> {
    [b"seen/".as_slice(), &id.to_be_bytes()].concat()
}

/// 1 KiB that begins with the id and repeats it.
fn value_of(id: u64) -> Vec<u8> {
    id.to_be_bytes().repeat(128)
}

fn id_of(value: &[u8]) -> u64 {
    let id = u64::from_be_bytes(value[..8].try_into().expect("eight bytes"));
    assert_eq!(value, value_of(id), "a torn value");
    id
}

fn write_until_killed(child: &str) {
    println!(); // Ends the line that the test harness began.
    let (dir, resume) = child.rsplit_once(':').expect("a folder and numbers");
    let next: Vec<u64> = resume.split(',').map(|id| id.parse().expect("a number")).collect();
    let store = store::open(Path::new(dir), 8 << 20).expect("the store opens after a crash");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    runtime.block_on(async {
        let mut writers = JoinSet::new();
        for (writer, id) in next.into_iter().enumerate() {
            writers.spawn(write(store.clone(), writer, id));
        }
        while let Some(ended) = writers.join_next().await {
            ended.expect("a writer does not panic");
        }
    });
}

/// Writes ids from `id` on, for ever, as a client would that got no answer to `id` and what it sent after it: it
/// sends them again, and a conflict on `seen` is an acknowledgement.
async fn write(store: Arc<dyn Store>, writer: usize, mut id: u64) {
    let partition = Partition::new("log", [writer as u8]);
    let newest = store.scan(&partition, &KeyRange::prefix("at/"), 1, Order::Descending).expect("scans");
    let mut position = match newest.first() {
        Some((key, _)) => u64::from_be_bytes(key[3..].try_into().expect("eight bytes")) + 1,
        None => 0,
    };
    let commit = |id: u64, position: u64| {
        let batch = Batch::new(&partition).require_absent(seen(id)).require_absent(at(position));
        store.commit(batch.put(seen(id), "").put(at(position), value_of(id)))
    };
    for _ in 0..PIPELINE {
        match commit(id, position).await {
            Ok(()) => position += 1,
            Err(CommitError::Conflict { key }) => assert_eq!(key[..], seen(id), "the position is free"),
            Err(other) => panic!("unexpected: {other}"),
        }
        report(writer, id);
        id += 1;
    }
    loop {
        let pending: Vec<_> = (0..PIPELINE).map(|ahead| commit(id + ahead, position + ahead)).collect();
        for commit in pending {
            commit.await.expect("a new id does not conflict");
            report(writer, id);
            id += 1;
            position += 1;
        }
    }
}

fn report(writer: usize, id: u64) {
    let line = format!("ack {writer} {id}\n");
    std::io::stdout().write_all(line.as_bytes()).expect("the parent reads the pipe");
}
