//! Decides whether what the logs show is what was handed in: everything, once, in order, with one place each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use anyhow::{Context, ensure};

/// Which message: the lane it was handed in by, and its number there. The number after a lane's last marks its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// Lane, over all addressees.
    pub lane: u32,
    /// From 0.
    pub number: u32,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lane, self.number)
    }
}

impl FromStr for Label {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (lane, number) = text.split_once('/').with_context(|| format!("{text:?} was never sent"))?;
        Ok(Self { lane: lane.parse()?, number: number.parse()? })
    }
}

impl Label {
    /// The client id under which it is handed in.
    pub fn client_id(self) -> [u8; 16] {
        let mut id = [0xa0; 16];
        id[..4].copy_from_slice(&self.lane.to_be_bytes());
        id[4..8].copy_from_slice(&self.number.to_be_bytes());
        id
    }

    /// The message of a client id.
    ///
    /// # Errors
    /// When no message has it.
    pub fn of(client_id: &[u8]) -> anyhow::Result<Self> {
        let number = |at: usize| client_id.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let label = number(0).zip(number(4)).map(|(lane, number)| Self { lane, number });
        let label = label.filter(|l| l.client_id() == *client_id);
        label.with_context(|| format!("nothing was handed in under {client_id:02x?}"))
    }
}

/// A message in an addressee's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Which.
    pub label: Label,
    /// In the log.
    pub position: u64,
    /// Of its conversation.
    pub epoch: u64,
    /// In the epoch.
    pub seq: u64,
    /// Event id.
    pub event: Vec<u8>,
}

/// What became of a message, in the sender's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Taken.
    Pending(Label),
    /// Has its place.
    Placed {
        /// Which.
        label: Label,
        /// Of its conversation.
        epoch: u64,
        /// In the epoch.
        seq: u64,
        /// Event id.
        event: Vec<u8>,
    },
}

/// Epoch, sequence number and event id.
type Place<'a> = (u64, u64, &'a [u8]);

/// Holds all logs against each other; gives how many messages there were, end marks not counted.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn prove(logs: &[&[Arrival]], fates: &[Fate], lanes: u32, per_lane: u32) -> anyhow::Result<u32> {
    let mut placed = places(fates)?;
    let mut count = 0;
    for (log, first) in logs.iter().zip((0..).step_by(lanes as usize)) {
        in_order(log, first..first + lanes, per_lane)?;
        for arrival in *log {
            let label = arrival.label;
            let place = placed.remove(&label).with_context(|| format!("{label} was never placed"))?;
            let seen = (arrival.epoch, arrival.seq, arrival.event.as_slice());
            ensure!(place == seen, "{label} was placed at {place:02x?} and arrived as {seen:02x?}");
            count += u32::from(label.number < per_lane);
        }
    }
    ensure!(placed.is_empty(), "placed and never arrived: {:?}", placed.keys().collect::<Vec<_>>());
    Ok(count)
}

/// Where each message was placed: taken exactly once before, and placed exactly once.
fn places(fates: &[Fate]) -> anyhow::Result<BTreeMap<Label, Place<'_>>> {
    let (mut pending, mut placed) = (BTreeSet::new(), BTreeMap::new());
    for fate in fates {
        match fate {
            Fate::Pending(label) => ensure!(pending.insert(*label), "{label} is pending twice"),
            Fate::Placed { label, epoch, seq, event } => {
                ensure!(pending.contains(label), "{label} was placed before it was pending");
                let before = placed.insert(*label, (*epoch, *seq, event.as_slice()));
                ensure!(before.is_none(), "{label} was placed twice");
            }
        }
    }
    ensure!(pending.len() == placed.len(), "{} taken, {} placed", pending.len(), placed.len());
    Ok(placed)
}

/// Every message of these lanes, in each lane's order, at rising positions, with places 1, 2, 3 and so on.
fn in_order(log: &[Arrival], lanes: std::ops::Range<u32>, per_lane: u32) -> anyhow::Result<()> {
    let mut next: BTreeMap<u32, u32> = lanes.map(|lane| (lane, 0)).collect();
    let (mut position, mut events) = (0, BTreeSet::new());
    for (arrival, seq) in log.iter().zip(1..) {
        let label = arrival.label;
        let wanted = next.get_mut(&label.lane).with_context(|| format!("{label} is for somebody else"))?;
        ensure!(label.number == *wanted, "{label} arrived where {}/{wanted} was due", label.lane);
        *wanted += 1;
        ensure!(arrival.position > position, "{label} is at {} after {position}", arrival.position);
        position = arrival.position;
        ensure!(arrival.epoch == log[0].epoch, "{label} is of another epoch");
        ensure!(arrival.seq == seq, "{label} has place {} where {seq} was due", arrival.seq);
        ensure!(events.insert(&arrival.event), "{label} repeats an event id");
    }
    for (lane, next) in next {
        ensure!(next == per_lane + 1, "lane {lane} ended before {lane}/{next}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two addressees, one lane each, two messages and the end mark each.
    fn logs() -> ([Vec<Arrival>; 2], Vec<Fate>) {
        let arrivals = [0, 1].map(|lane| {
            let arrival = |number: u32| {
                let label = Label { lane, number };
                let seq = u64::from(number) + 1;
                Arrival { label, position: seq * 3, epoch: 7, seq, event: label.client_id().to_vec() }
            };
            (0..3).map(arrival).collect::<Vec<_>>()
        });
        let mut fates: Vec<Fate> = arrivals.iter().flatten().map(|a| Fate::Pending(a.label)).collect();
        fates.extend(arrivals.iter().flatten().map(placed));
        (arrivals, fates)
    }

    fn placed(a: &Arrival) -> Fate {
        Fate::Placed { label: a.label, epoch: a.epoch, seq: a.seq, event: a.event.clone() }
    }

    fn judge(logs: &[Vec<Arrival>; 2], fates: &[Fate]) -> anyhow::Result<u32> {
        prove(&[&logs[0], &logs[1]], fates, 1, 2)
    }

    #[test]
    fn whole_logs_pass() {
        let (logs, fates) = logs();
        assert_eq!(judge(&logs, &fates).expect("whole"), 4);
    }

    #[test]
    fn a_missing_a_doubled_and_a_swapped_arrival_are_each_found() {
        let (whole, fates) = logs();
        let mut missing = whole.clone();
        missing[0].remove(1);
        assert!(judge(&missing, &fates).is_err());
        let mut last_missing = whole.clone();
        last_missing[1].pop();
        assert!(judge(&last_missing, &fates).is_err());
        let mut doubled = whole.clone();
        let again = doubled[0][0].clone();
        doubled[0].insert(1, again);
        assert!(judge(&doubled, &fates).is_err());
        let mut swapped = whole;
        let (first, second) = (swapped[0][0].label, swapped[0][1].label);
        (swapped[0][0].label, swapped[0][1].label) = (second, first);
        assert!(judge(&swapped, &fates).is_err());
    }

    #[test]
    fn a_second_placement_and_a_placement_elsewhere_are_found() {
        let (logs, fates) = logs();
        let mut twice = fates.clone();
        twice.push(placed(&logs[0][0]));
        assert!(judge(&logs, &twice).is_err());
        let mut elsewhere = fates;
        if let Some(Fate::Placed { seq, .. }) = elsewhere.last_mut() {
            *seq += 1;
        }
        assert!(judge(&logs, &elsewhere).is_err());
    }

    #[test]
    fn a_label_is_read_back_from_its_text_and_its_id() {
        let label = Label { lane: 3, number: 2499 };
        assert_eq!(label.to_string().parse::<Label>().expect("a label"), label);
        assert_eq!(Label::of(&label.client_id()).expect("a label"), label);
        assert!(Label::of(&[0; 16]).is_err());
    }
}
