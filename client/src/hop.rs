//! The task below a [`Call`]: one hop of a call, from stream to stream while connections come and go
//! (spec section 6.4).

use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::address::Address;
use ahoy_proto::call::{Change, HopBuffer, HopError, hangup, hangup_for};
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::time::{Timestamp, random};
use ahoy_proto::v1::open::Open as Kind;
use ahoy_proto::v1::{self, ErrorCode, Hangup, HangupReason, call_frame::Message};
use ahoy_transport::Stream;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::call::{Call, QUEUE};
use crate::rules::Rules;
use crate::session::Shared;

/// How long a hung-up call waits for the other side to close its stream.
const LINGER: Duration = Duration::from_secs(2);
/// Longest wait for frames to be taken by the connection: after it the stream counts as lost.
const SEND_TIME: Duration = Duration::from_secs(5);
/// Between two attempts to resume.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// A stream on which the homeserver resumes a call that it opened.
pub(crate) struct Arrival {
    pub(crate) resume: v1::Resume,
    pub(crate) stream: Stream,
}

/// Which end of the hop this is: the side that opened it resumes it ([CALL-RESUME-04]).
pub(crate) enum Side {
    /// Opened here.
    Opener,
    /// Opened by the homeserver, which may come back.
    Acceptor(mpsc::Receiver<Arrival>),
}

/// How an exchange on one stream ended.
enum Exit {
    Ended,
    Lost,
    Superseded(Box<Arrival>),
}

/// The hop cannot be resumed.
struct Unresumable;

pub(crate) struct Hop {
    shared: Arc<Shared>,
    id: Bytes,
    from: Address,
    to: Address,
    side: Side,
    rules: Rules,
    buffer: HopBuffer,
    stream: Stream,
    wires: Wires,
    /// After a hang-up: until when the other side may confirm it.
    linger: Option<Instant>,
}

/// The ends of a hop that its [`Call`] does not hold.
struct Wires {
    outbound: mpsc::Receiver<Message>,
    inbound: mpsc::Sender<Message>,
    end: watch::Sender<Option<Hangup>>,
    resumptions: watch::Sender<u32>,
}

fn wires(id: &Bytes, from: &Address, to: &Address) -> (Call, Wires) {
    let (outbound_in, outbound) = mpsc::channel(QUEUE);
    let (inbound, inbound_out) = mpsc::channel(QUEUE);
    let (end, resumptions) = (watch::Sender::new(None), watch::Sender::new(0));
    let parties = (id.clone(), from.clone(), to.clone());
    let call = Call::new(parties, outbound_in, inbound_out, end.subscribe(), resumptions.subscribe());
    (call, Wires { outbound, inbound, end, resumptions })
}

impl Hop {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        (id, from, to): (Bytes, Address, Address),
        (side, rules): (Side, Rules),
        (stream, buffer): (Stream, HopBuffer),
    ) -> (Call, Self) {
        let (call, wires) = wires(&id, &from, &to);
        let shared = shared.clone();
        (call, Self { shared, id, from, to, side, rules, buffer, stream, wires, linger: None })
    }

    /// Until the call is over and its end is told; `invite` is sent before anything else.
    pub(crate) async fn run(mut self, invite: Option<v1::Invite>) {
        let mut begun = match invite {
            Some(invite) => self.transmit(Message::Invite(invite)).await,
            None => Ok(()),
        };
        loop {
            let exit = match std::mem::replace(&mut begun, Ok(())) {
                Ok(()) => self.exchange().await,
                Err(exit) => exit,
            };
            let regained = match exit {
                Exit::Ended => break,
                Exit::Superseded(arrival) => self.adopt(*arrival).await,
                Exit::Lost => self.regain_in_time().await,
            };
            if regained.is_err() {
                self.over(hangup(HangupReason::ConnectionLost));
                break;
            }
        }
        if matches!(self.side, Side::Acceptor(_)) {
            self.shared.calls.lock().expect("no holder panics").remove(&self.id);
        }
    }

    /// Carries messages both ways on the present stream.
    async fn exchange(&mut self) -> Exit {
        loop {
            let timer = self.timer();
            let live = self.linger.is_none();
            let step = tokio::select! {
                biased;
                arrival = next_arrival(&mut self.side) => return Exit::Superseded(Box::new(arrival)),
                message = self.wires.outbound.recv(), if live => match message {
                    Some(message) => self.send(message).await,
                    None => self.part().await,
                },
                () = self.wires.inbound.closed(), if live => self.part().await,
                () = self.shared.stop.cancelled(), if live => self.part().await,
                frame = self.stream.recv::<v1::CallFrame>() => match frame {
                    Ok(Some(frame)) => self.take(frame),
                    Ok(None) | Err(_) if !live => Err(Exit::Ended),
                    Ok(None) | Err(_) => Err(Exit::Lost),
                },
                () = sleep_until(timer) => self.late().await,
            };
            if let Err(exit) = step {
                return exit;
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.network.clock().now()
    }

    /// The next deadline: an hour away when there is none.
    fn timer(&self) -> Instant {
        let left = self.rules.deadline().map_or(Duration::from_secs(3600), |at| at.since(self.now()));
        self.linger.unwrap_or_else(|| Instant::now() + left)
    }

    /// A deadline passed: nobody answered, or nobody confirmed the hang-up.
    async fn late(&mut self) -> Result<(), Exit> {
        if self.linger.is_some() {
            return Err(Exit::Ended);
        }
        match self.rules.timed_out(self.now()) {
            Some(ended) => self.hang_up(ended).await,
            None => Ok(()),
        }
    }

    /// The program dropped the call, or its session.
    async fn part(&mut self) -> Result<(), Exit> {
        self.hang_up(self.rules.parting()).await
    }

    async fn hang_up(&mut self, ended: Hangup) -> Result<(), Exit> {
        self.over(ended.clone());
        self.linger = Some(Instant::now() + LINGER);
        let sent = self.transmit(Message::Hangup(ended)).await;
        self.stream.finish();
        sent
    }

    /// A message of the program. What the rules forbid is not sent.
    async fn send(&mut self, message: Message) -> Result<(), Exit> {
        match self.rules.sending(&message) {
            Ok(Change::Ended(ended)) => self.hang_up(ended).await,
            Ok(Change::Late) => Ok(()),
            Ok(_) => self.transmit(message).await,
            Err(error) => {
                tracing::warn!(call = %hex(&self.id), %error, "a message of this program was not sent");
                Ok(())
            }
        }
    }

    async fn transmit(&mut self, message: Message) -> Result<(), Exit> {
        match self.buffer.send(message) {
            Ok(frame) => self.write(&[frame]).await.map_err(|Unsent| Exit::Lost),
            Err(error) => self.broken(error.into()),
        }
    }

    /// What is not sent stays in the buffer, and is replayed when the call resumes.
    async fn write(&mut self, frames: &[v1::CallFrame]) -> Result<(), Unsent> {
        match timeout(SEND_TIME, self.stream.send_batch(frames)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Unsent),
        }
    }

    /// One frame of the other side.
    fn take(&mut self, frame: v1::CallFrame) -> Result<(), Exit> {
        if let Some(Message::Error(error)) = frame.message {
            return self.refused(Fault::from(error));
        }
        match self.buffer.receive(frame) {
            Ok(Some(message)) => self.deliver(message),
            Ok(None) => Ok(()),
            Err(error) => self.broken(error.into()),
        }
    }

    /// Hands a message to the program, which must keep up: 64 may wait ([CALL-RESUME-20]).
    fn deliver(&mut self, message: Message) -> Result<(), Exit> {
        match self.rules.receiving(&message, self.now()) {
            Ok(Change::Ended(ended)) => {
                self.over(ended);
                self.stream.finish();
                return Err(Exit::Ended);
            }
            Ok(Change::Late) => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(call = %hex(&self.id), %error, "a message of the other side was ignored");
                return Ok(());
            }
        }
        match self.wires.inbound.try_send(message) {
            // The program is gone: the next turn hangs up.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.broken(Fault::new(ErrorCode::SlowReader, "this program reads its call too slowly"))
            }
        }
    }

    /// The homeserver ends the stream with an error: the call may be resumed if its class says so.
    fn refused(&mut self, fault: Fault) -> Result<(), Exit> {
        if fault.is_retry() && self.buffer.resume().is_some() {
            return Err(Exit::Lost);
        }
        self.over(hangup_for(&fault));
        Err(Exit::Ended)
    }

    /// The call cannot go on, for a reason that the homeserver is told by the stream's code.
    fn broken(&mut self, fault: Fault) -> Result<(), Exit> {
        self.stream.reset(fault.code);
        let message = crate::error::code_name(fault.code);
        self.over(Hangup { message, ..hangup(HangupReason::Failed) });
        Err(Exit::Ended)
    }

    /// Tells the program how the call ended; the first end counts.
    fn over(&self, ended: Hangup) {
        self.wires.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(ended);
            first
        });
    }

    async fn regain_in_time(&mut self) -> Result<(), Unresumable> {
        tracing::debug!(call = %hex(&self.id), "the call's stream was lost");
        self.buffer.lost(self.now());
        timeout(limit::RESUME_TIME, self.regain()).await.unwrap_or(Err(Unresumable))
    }

    /// Until the call is on a new stream. The side that opened the hop asks, the other waits.
    async fn regain(&mut self) -> Result<(), Unresumable> {
        loop {
            if let Side::Acceptor(arrivals) = &mut self.side {
                let arrival = arrivals.recv().await.ok_or(Unresumable)?;
                self.adopt(arrival).await?;
                if !self.buffer.is_lost() {
                    return Ok(());
                }
                continue;
            }
            match self.resume().await {
                Ok(()) => {
                    self.wires.resumptions.send_modify(|count| *count += 1);
                    return Ok(());
                }
                Err(Again::Never) => return Err(Unresumable),
                Err(Again::Later) => sleep(RESUME_PAUSE).await,
            }
        }
    }

    /// One attempt to resume what was opened here.
    async fn resume(&mut self) -> Result<(), Again> {
        let resume = self.buffer.resume().ok_or(Again::Never)?;
        let link = self.shared.link_after(0).await.map_err(|_| Again::Never)?;
        let open = call_open(&self.id, &self.from, &self.to, Some(resume));
        self.stream = link.connection.open(open).await.map_err(|_| Again::Later)?;
        let resumed = timeout(SEND_TIME, self.await_resumed()).await.unwrap_or(Err(Again::Later))?;
        let replay = self.buffer.resumed(&resumed).map_err(|_| Again::Never)?;
        self.write(&replay.frames).await.map_err(|Unsent| Again::Later)
    }

    async fn await_resumed(&mut self) -> Result<v1::Resumed, Again> {
        loop {
            let frame = self.stream.recv::<v1::CallFrame>().await.map_err(|_| Again::Later)?;
            let frame = frame.ok_or(Again::Later)?;
            match &frame.message {
                Some(Message::Resumed(resumed)) => {
                    return Ok(v1::Resumed { last_received: resumed.last_received });
                }
                Some(Message::Error(error)) if Fault::from(error.clone()).is_retry() => {
                    return Err(Again::Later);
                }
                Some(Message::Token(_)) => {
                    self.buffer.receive(frame).map_err(|_| Again::Never)?;
                }
                _ => return Err(Again::Never),
            }
        }
    }

    /// A stream of the homeserver that resumes this call. One with a wrong token changes nothing.
    async fn adopt(&mut self, arrival: Arrival) -> Result<(), Unresumable> {
        let Arrival { resume, mut stream } = arrival;
        let next = random::<16>(&*self.shared.network.entropy());
        match self.buffer.accept(&resume, next) {
            Ok(resumption) => {
                self.stream = stream;
                self.wires.resumptions.send_modify(|count| *count += 1);
                if self.write(&resumption.frames).await.is_err() {
                    self.buffer.lost(self.now());
                }
                Ok(())
            }
            Err(error) => {
                refuse(&mut stream, &error.into()).await;
                if error == HopError::Gone { Err(Unresumable) } else { Ok(()) }
            }
        }
    }
}

/// Whether another attempt to resume makes sense.
enum Again {
    Later,
    Never,
}

/// Frames did not leave in time.
struct Unsent;

async fn next_arrival(side: &mut Side) -> Arrival {
    if let Side::Acceptor(arrivals) = side
        && let Some(arrival) = arrivals.recv().await
    {
        return arrival;
    }
    std::future::pending().await
}

pub(crate) fn call_open(id: &Bytes, from: &Address, to: &Address, resume: Option<v1::Resume>) -> Kind {
    Kind::Call(v1::CallOpen { call: id.clone(), to: to.to_string(), from: from.to_string(), resume })
}

/// Ends a call stream with an error.
pub(crate) async fn refuse(stream: &mut Stream, fault: &Fault) {
    let error = v1::CallFrame { counter: 0, message: Some(Message::Error(fault.to_wire())) };
    // Whoever is gone needs no reason.
    let _ = timeout(SEND_TIME, stream.send(&error)).await;
    stream.finish();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
