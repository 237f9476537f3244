//! Decides what a delivery pipe may have in flight, and what an acknowledgement may say. `[EVENT-DELIVER-02]`

use std::collections::VecDeque;

use crate::fault::Fault;
use crate::limit;
use crate::v1::{self, ErrorCode};

/// The sending half. The items themselves stay in the sender's store until they are acknowledged.
#[derive(Clone, Debug)]
pub struct PipeSender {
    window: usize,
    in_flight: VecDeque<u64>,
    /// Everything up to here is sent, or was durable at the other side when the pipe opened.
    sent: u64,
}

/// What an acknowledgement settles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Items that are durable at the other side: forget them.
    pub delivered: Vec<u64>,
    /// Items that the other side will never take: report them. One of them does not block the others.
    pub refused: Vec<(u64, Fault)>,
}

impl PipeSender {
    /// After the other side's `PipeAccept`: what it has, and how much it takes in at once (0 = the default).
    pub fn new(received: u64, window: u32) -> Self {
        let window = if window == 0 { limit::PIPE_WINDOW } else { window };
        Self { window: window as usize, in_flight: VecDeque::new(), sent: received }
    }

    /// The next item to send is the first in the queue above this.
    pub fn position(&self) -> u64 {
        self.sent
    }

    /// How many items may be sent now.
    pub fn room(&self) -> usize {
        self.window.saturating_sub(self.in_flight.len())
    }

    /// How many items wait for an acknowledgement.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Item `seq` is being sent.
    ///
    /// # Errors
    /// [`PipeError::Window`] without room, [`PipeError::Order`] when it does not rise.
    pub fn send(&mut self, seq: u64) -> Result<(), PipeError> {
        if self.room() == 0 {
            return Err(PipeError::Window);
        }
        if seq <= self.sent {
            return Err(PipeError::Order);
        }
        self.sent = seq;
        self.in_flight.push_back(seq);
        Ok(())
    }

    /// The other side acknowledges.
    ///
    /// # Errors
    /// [`PipeError::Ack`] when it covers what was not sent, or refuses what it does not cover.
    pub fn acknowledge(&mut self, ack: v1::PipeAck) -> Result<Acknowledged, PipeError> {
        if ack.up_to > self.sent || ack.refused.len() > self.in_flight.len() {
            return Err(PipeError::Ack);
        }
        let count = self.in_flight.partition_point(|seq| *seq <= ack.up_to);
        let mut settled = Acknowledged::default();
        let mut refused = ack.refused.into_iter().peekable();
        for seq in self.in_flight.drain(..count) {
            match refused.next_if(|r| r.seq == seq) {
                Some(refusal) => settled.refused.push((seq, refusal.error.unwrap_or_default().into())),
                None => settled.delivered.push(seq),
            }
        }
        if refused.next().is_some() { Err(PipeError::Ack) } else { Ok(settled) }
    }
}

/// The receiving half: what came, and what of it is durable.
#[derive(Clone, Debug)]
pub struct PipeReceiver {
    window: usize,
    /// Received and not acknowledged, in order, with the outcome once there is one.
    open: VecDeque<(u64, Option<Result<(), Fault>>)>,
    received: u64,
}

impl PipeReceiver {
    /// With everything up to `durable` taken in before, and at most `window` items at once (0 = the default).
    pub fn new(durable: u64, window: u32) -> Self {
        let window = if window == 0 { limit::PIPE_WINDOW } else { window };
        Self { window: window as usize, open: VecDeque::new(), received: durable }
    }

    /// Item `seq` arrived. `false`: it was received before, in this pipe or an earlier one, and is to be ignored.
    ///
    /// # Errors
    /// [`PipeError::Window`] when the sender does not keep to the window: the pipe is reset.
    pub fn receive(&mut self, seq: u64) -> Result<bool, PipeError> {
        if seq <= self.received {
            return Ok(false);
        }
        if self.open.len() >= self.window {
            return Err(PipeError::Window);
        }
        self.received = seq;
        self.open.push_back((seq, None));
        Ok(true)
    }

    /// Item `seq` is durable, or refused for good. A fault that may pass (class retry) is no outcome: reset the
    /// pipe instead.
    pub fn settle(&mut self, seq: u64, outcome: Result<(), Fault>) {
        if let Ok(at) = self.open.binary_search_by_key(&seq, |(seq, _)| *seq) {
            self.open[at].1 = Some(outcome);
        }
    }

    /// The acknowledgement that is due: for every settled item before the first unsettled one.
    pub fn poll_ack(&mut self) -> Option<v1::PipeAck> {
        let settled = self.open.iter().take_while(|(_, outcome)| outcome.is_some()).count();
        let mut ack = v1::PipeAck::default();
        for (seq, outcome) in self.open.drain(..settled) {
            ack.up_to = seq;
            if let Some(Err(fault)) = outcome {
                ack.refused.push(v1::PipeRefusal { seq, error: Some(fault.to_wire()) });
            }
        }
        (settled > 0).then_some(ack)
    }

    /// How many items wait for their outcome or acknowledgement.
    pub fn open(&self) -> usize {
        self.open.len()
    }
}

/// How a pipe is misused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipeError {
    /// More items than the window.
    #[error("more items are in flight than the pipe's window allows")]
    Window,
    /// Numbers that do not rise.
    #[error("the pipe's items do not rise")]
    Order,
    /// An acknowledgement of something else.
    #[error("the acknowledgement does not match what was sent")]
    Ack,
}

impl From<PipeError> for Fault {
    fn from(e: PipeError) -> Self {
        let code = match e {
            PipeError::Window => ErrorCode::Limit,
            PipeError::Order | PipeError::Ack => ErrorCode::OutOfOrder,
        };
        Fault::new(code, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn no() -> Fault {
        Fault::new(ErrorCode::NotReachable, "")
    }

    #[test]
    fn a_window_fills_and_an_acknowledgement_opens_it() {
        let mut sender = PipeSender::new(10, 2);
        assert_eq!(sender.send(10), Err(PipeError::Order));
        assert_eq!(
            [sender.send(12), sender.send(15), sender.send(16)],
            [Ok(()), Ok(()), Err(PipeError::Window)]
        );
        let settled = sender.acknowledge(v1::PipeAck { up_to: 12, refused: vec![] }).expect("sent");
        assert_eq!((settled.delivered, sender.room(), sender.position()), (vec![12], 1, 15));
    }

    #[test]
    fn an_acknowledgement_of_what_was_not_sent_is_refused() {
        let refusal = |seq| v1::PipeRefusal { seq, error: Some(no().to_wire()) };
        let mut sender = PipeSender::new(0, 0);
        sender.send(5).expect("room");
        assert_eq!(sender.acknowledge(v1::PipeAck { up_to: 6, refused: vec![] }), Err(PipeError::Ack));
        let other = v1::PipeAck { up_to: 5, refused: vec![refusal(4)] };
        assert_eq!(sender.clone().acknowledge(other), Err(PipeError::Ack));
        let good = v1::PipeAck { up_to: 5, refused: vec![refusal(5)] };
        assert_eq!(sender.acknowledge(good).map(|a| a.refused), Ok(vec![(5, no())]));
    }

    #[test]
    fn an_unsettled_item_holds_the_acknowledgement_of_those_behind_it() {
        let mut receiver = PipeReceiver::new(0, 3);
        assert!([1, 2, 3].into_iter().all(|seq| receiver.receive(seq) == Ok(true)));
        assert_eq!(receiver.receive(4), Err(PipeError::Window));
        assert_eq!(receiver.receive(2), Ok(false));
        receiver.settle(2, Err(no()));
        receiver.settle(3, Ok(()));
        assert_eq!(receiver.poll_ack(), None);
        receiver.settle(1, Ok(()));
        let ack = receiver.poll_ack().expect("all settled");
        assert_eq!((ack.up_to, ack.refused.len(), ack.refused[0].seq), (3, 1, 2));
        assert_eq!((receiver.poll_ack(), receiver.open()), (None, 0));
    }

    proptest! {
        /// A sender whose pipe breaks at any moment and opens again loses nothing and delivers nothing twice.
        #[test]
        fn everything_arrives_once_in_order_over_pipes_that_break(
            steps in proptest::collection::vec((1..6usize, 0..6usize, any::<bool>()), 1..60),
        ) {
            let queue: Vec<u64> = (1..=40).map(|i| i * 3).collect();
            let (mut stored, mut durable, mut reported) = (Vec::new(), 0, Vec::new());
            let (mut sender, mut receiver) = (PipeSender::new(0, 4), PipeReceiver::new(0, 4));
            let complete = std::iter::repeat_n((4, 4, false), 40);
            for (sends, settles, breaks) in steps.into_iter().chain(complete) {
                for _ in 0..sends.min(sender.room()) {
                    let Some(seq) = queue.iter().find(|s| **s > sender.position()) else { break };
                    sender.send(*seq)?;
                    prop_assert!(receiver.receive(*seq)?);
                }
                let open: Vec<u64> = queue.iter().copied().filter(|s| *s > durable && *s <= sender.position()).collect();
                for seq in open.into_iter().take(settles) {
                    stored.push(seq);
                    durable = seq;
                    receiver.settle(seq, Ok(()));
                }
                if breaks {
                    // What was durable and not acknowledged is told by the next `PipeAccept`.
                    reported = queue.iter().copied().filter(|s| *s <= durable).collect();
                    sender = PipeSender::new(durable, 4);
                    receiver = PipeReceiver::new(durable, 4);
                } else if let Some(ack) = receiver.poll_ack() {
                    reported.extend(sender.acknowledge(ack)?.delivered);
                }
            }
            prop_assert_eq!(&stored, &queue);
            prop_assert_eq!(&reported, &queue);
        }
    }
}
