//! Decides how call messages travel over one hop: counted, replayed when their connection died, never waiting for a
//! slow reader.

use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::call::{HopBuffer, HopError, hangup, hangup_for};
use ahoy_proto::fault::Fault;
use ahoy_proto::invite::CallId;
use ahoy_proto::limit;
use ahoy_proto::name::Name;
use ahoy_proto::time::random;
use ahoy_proto::v1::call_frame::Message;
use ahoy_proto::v1::{self, ErrorCode, Hangup, HangupReason, open};
use ahoy_transport::{Connection, RecvHalf, SendHalf, Stream, StreamError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::house::House;
use crate::peer::Class;
use crate::session::spawn;
use crate::wake::lock;

/// How long the other side has to answer an `Open`.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long a message may wait for credit before its connection counts as lost.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long the last message may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Pause between tries to reach the other side again.
const AGAIN: Duration = Duration::from_millis(300);

/// Who opened a hop; only they may resume it. `[CALL-RESUME-04]`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Opener {
    /// A device or service, by owner and key.
    Client(String, [u8; 8]),
    /// A homeserver, by the caller's name.
    Peer(Name),
}

/// Where a hop of ours leads.
#[derive(Clone, Debug)]
pub enum Reach {
    /// To a name's homeserver, for one of our names.
    Peer {
        /// Ours.
        source: Name,
        /// Theirs.
        destination: Name,
    },
    /// To one of our own clients.
    Client {
        /// The name that it signed in at.
        name: Name,
        /// Its owner.
        owner: String,
        /// Its key.
        device: [u8; 8],
    },
}

/// What a hop tells its call.
#[derive(Debug)]
pub enum Event {
    /// A message came.
    Message(Message),
    /// Nothing more will.
    Lost(Hangup),
}

/// The call's handle of a hop.
pub struct Ends {
    outgoing: mpsc::Sender<Message>,
    events: mpsc::Sender<(usize, Event)>,
}

impl Ends {
    /// Sends a message, unless 64 wait already: then the hop is given up. `[CALL-RESUME-06]`
    pub fn send(&self, message: Message) -> Result<(), Hangup> {
        self.outgoing.try_send(message).map_err(|_| {
            let fault = Fault::new(ErrorCode::SlowReader, "the other side reads too slowly");
            hangup_for(&fault)
        })
    }

    /// Sends a hang-up; the hop ends when it has arrived.
    pub fn hang_up(&self, hangup: Hangup) {
        // A hop that cannot take it is over anyway.
        let _ = self.outgoing.try_send(Message::Hangup(hangup));
    }

    /// Where further hops of the same call tell their events.
    pub fn events(&self) -> mpsc::Sender<(usize, Event)> {
        self.events.clone()
    }
}

/// A stream on which the opener resumes its hop.
pub struct Return {
    /// What it brings.
    pub resume: v1::Resume,
    /// The stream.
    pub stream: Stream,
}

enum End {
    Accepted { resumed: mpsc::Receiver<Box<Return>> },
    Opened { reach: Reach, open: v1::CallOpen },
}

struct Hop {
    house: Arc<House>,
    number: usize,
    buffer: HopBuffer,
    end: End,
    is_over: bool,
}

/// How a stream of a hop ended.
enum Talk {
    /// Everything was said.
    Over,
    /// The connection died.
    Lost,
    /// The opener is back on another stream.
    Superseded(Box<Return>),
    /// The other side broke the rules, or refused.
    Broken(Fault),
}

/// Takes a call's stream from its opener, or tells them that the call is in progress. Its events have number 0.
pub async fn accept(
    house: &Arc<House>,
    call: CallId,
    opener: Opener,
    stream: Stream,
) -> Option<(Ends, mpsc::Receiver<(usize, Event)>)> {
    let (resume, resumed) = mpsc::channel(1);
    let key = (call, opener);
    if !house.calls.accept(&key, resume) {
        let fault = Fault::new(ErrorCode::OutOfOrder, "this call is in progress; resume it");
        refuse(stream, &fault).await;
        return None;
    }
    let (events, told) = mpsc::channel(limit::CALL_BUFFER);
    let (outgoing, waiting) = mpsc::channel(limit::CALL_BUFFER);
    let end = End::Accepted { resumed };
    let mut hop = Hop { house: house.clone(), number: 0, buffer: HopBuffer::new(), end, is_over: false };
    let (house2, tell, counted) = (house.clone(), events.clone(), house.calls.hop());
    spawn(house, async move {
        hop.run(Some(stream), waiting, tell).await;
        lock(&house2.calls.accepted).remove(&key);
        hop.dismiss().await;
        drop(counted);
    });
    Some((Ends { outgoing, events }, told))
}

/// Opens a further hop of a call. Its events have this number.
pub fn open(
    house: &Arc<House>,
    number: usize,
    reach: Reach,
    open: v1::CallOpen,
    events: mpsc::Sender<(usize, Event)>,
) -> Ends {
    let (outgoing, waiting) = mpsc::channel(limit::CALL_BUFFER);
    let end = End::Opened { reach, open };
    let mut hop = Hop { house: house.clone(), number, buffer: HopBuffer::new(), end, is_over: false };
    let (tell, counted) = (events.clone(), house.calls.hop());
    spawn(house, async move {
        hop.run(None, waiting, tell).await;
        drop(counted);
    });
    Ends { outgoing, events }
}

/// Tells the opener why its stream is not taken.
pub async fn refuse(mut stream: Stream, fault: &Fault) {
    let frame = v1::CallFrame { counter: 0, message: Some(Message::Error(fault.to_wire())) };
    // Whoever opened it may have gone, or may not read.
    if let Ok(Ok(())) = timeout(LAST_WORDS, stream.send(&frame)).await {
        stream.finish();
    }
}

impl Hop {
    async fn run(
        &mut self,
        first: Option<Stream>,
        mut waiting: mpsc::Receiver<Message>,
        events: mpsc::Sender<(usize, Event)>,
    ) {
        let begun = match first {
            Some(stream) => self.welcome(stream).await,
            None => tokio::select! {
                opened = self.first_open() => opened,
                // The call is over before anybody was reached: nobody is to hear of it now.
                () = events.closed() => return,
            },
        };
        let mut stream = match begun {
            Ok(stream) => stream,
            Err(fault) => return self.tell(&events, Event::Lost(hangup_for(&fault))).await,
        };
        loop {
            let why = match self.talk(&mut stream, &mut waiting, &events).await {
                Talk::Over => return,
                Talk::Superseded(back) => match self.accept_resume(*back).await {
                    Ok(next) => Ok(next),
                    Err(fault) => {
                        // Only a valid one takes over. [CALL-RESUME-04]
                        tracing::debug!(%fault, "a call was not resumed");
                        continue;
                    }
                },
                Talk::Lost => {
                    self.buffer.lost(self.house.clock.now());
                    self.recover(&mut waiting).await
                }
                Talk::Broken(fault) => {
                    self.tell(&events, Event::Lost(hangup_for(&fault))).await;
                    return farewell(&mut stream.0, &fault).await;
                }
            };
            match why {
                Ok(next) => stream = next,
                Err(hangup) => return self.tell(&events, Event::Lost(hangup)).await,
            }
        }
    }

    async fn tell(&self, events: &mpsc::Sender<(usize, Event)>, event: Event) {
        // The call may be over already.
        let _ = events.send((self.number, event)).await;
    }

    async fn welcome(&mut self, stream: Stream) -> Result<(SendHalf, RecvHalf), Fault> {
        let (mut send, recv) = stream.split();
        let token = self.buffer.give_token(random(&*self.house.entropy));
        within(WRITE_TIME, send.send(&token)).await?;
        Ok((send, recv))
    }

    async fn first_open(&mut self) -> Result<(SendHalf, RecvHalf), Fault> {
        let End::Opened { reach, open } = &self.end else {
            return Err(Fault::new(ErrorCode::Internal, "an accepted hop has its stream"));
        };
        let connection = connect(&self.house, reach).await?;
        let stream = within(ANSWER_TIME, connection.open(open::Open::Call(open.clone()))).await?;
        Ok(stream.split())
    }

    /// Carries messages both ways until the stream or the call ends.
    async fn talk(
        &mut self,
        (send, recv): &mut (SendHalf, RecvHalf),
        waiting: &mut mpsc::Receiver<Message>,
        events: &mpsc::Sender<(usize, Event)>,
    ) -> Talk {
        let mut is_heard = matches!(self.end, End::Accepted { .. });
        let answered_by = Instant::now() + ANSWER_TIME;
        loop {
            if self.is_over {
                return self.last_words(send).await;
            }
            tokio::select! {
                message = waiting.recv() => {
                    let Some(message) = message else { return self.last_words(send).await };
                    if let Err(talk) = self.say(send, message).await {
                        return talk;
                    }
                }
                frame = recv.recv::<v1::CallFrame>() => {
                    is_heard = true;
                    match self.hear(frame, events).await {
                        Ok(()) => {}
                        Err(talk) => return talk,
                    }
                }
                back = resumed(&mut self.end) => return Talk::Superseded(back),
                () = sleep_until(answered_by), if !is_heard => {
                    return Talk::Broken(Fault::new(ErrorCode::PeerUnreachable, "the other side does not answer"));
                }
            }
        }
    }

    /// Waits until the last message has arrived, on this stream or on one that resumes it.
    async fn last_words(&mut self, send: &mut SendHalf) -> Talk {
        send.finish();
        tokio::select! {
            // Whoever is gone hears nothing.
            _ = timeout(LAST_WORDS, send.delivered()) => Talk::Over,
            back = resumed(&mut self.end) => Talk::Superseded(back),
        }
    }

    /// Whoever comes back when the hop is over is told so.
    async fn dismiss(&mut self) {
        let End::Accepted { resumed } = &mut self.end else { return };
        resumed.close();
        while let Ok(back) = resumed.try_recv() {
            refuse(back.stream, &Fault::new(ErrorCode::UnknownCall, "the call is over")).await;
        }
    }

    async fn say(&mut self, send: &mut SendHalf, message: Message) -> Result<(), Talk> {
        self.is_over |= matches!(message, Message::Hangup(_));
        let frame = self.buffer.send(message).map_err(|error| Talk::Broken(error.into()))?;
        match timeout(WRITE_TIME, send.send(&frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(talk_of(&error)),
            Err(_) => Err(Talk::Lost),
        }
    }

    async fn hear(
        &mut self,
        frame: Result<Option<v1::CallFrame>, StreamError>,
        events: &mpsc::Sender<(usize, Event)>,
    ) -> Result<(), Talk> {
        let frame = match frame {
            Ok(Some(frame)) => frame,
            // Without a hang-up, an end of the stream is a lost connection.
            Ok(None) => return Err(Talk::Lost),
            Err(error) => return Err(talk_of(&error)),
        };
        if let Some(Message::Error(error)) = frame.message {
            return Err(Talk::Broken(error.into()));
        }
        match self.buffer.receive(frame) {
            Ok(Some(message)) => {
                // Whatever becomes of the stream now, there is nothing to resume.
                self.is_over |= matches!(message, Message::Hangup(_));
                self.tell(events, Event::Message(message)).await;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => Err(Talk::Broken(error.into())),
        }
    }

    /// Waits until the hop has a stream again, for at most 15 s. `[CALL-RESUME-05]`
    async fn recover(
        &mut self,
        waiting: &mut mpsc::Receiver<Message>,
    ) -> Result<(SendHalf, RecvHalf), Hangup> {
        let lost = || hangup(HangupReason::ConnectionLost);
        let again = timeout(limit::RESUME_TIME, self.regain()).await.map_err(|_| lost())?;
        let next = again.map_err(|fault| match fault.code {
            ErrorCode::UnknownCall | ErrorCode::BadResumeToken => lost(),
            _ => hangup_for(&fault),
        })?;
        let (mut send, recv) = next;
        // What was said meanwhile follows what is replayed.
        while let Ok(message) = waiting.try_recv() {
            self.is_over |= matches!(message, Message::Hangup(_));
            let frame = self.buffer.send(message).map_err(|error| hangup_for(&error.into()))?;
            send.feed(&frame).map_err(|error| hangup_for(&error.fault()))?;
        }
        // A connection that is lost again is found out by the next read.
        let _ = timeout(WRITE_TIME, send.flush()).await;
        Ok((send, recv))
    }

    async fn regain(&mut self) -> Result<(SendHalf, RecvHalf), Fault> {
        loop {
            if matches!(self.end, End::Accepted { .. }) {
                let back = resumed(&mut self.end).await;
                match self.accept_resume(*back).await {
                    Ok(next) => return Ok(next),
                    Err(fault) => tracing::debug!(%fault, "a call was not resumed"),
                }
                continue;
            }
            match self.reopen().await {
                Err(fault) if fault.is_retry() => sleep(AGAIN).await,
                other => return other,
            }
        }
    }

    async fn accept_resume(&mut self, back: Return) -> Result<(SendHalf, RecvHalf), Fault> {
        let Return { resume, stream } = back;
        match self.buffer.accept(&resume, random(&*self.house.entropy)) {
            Ok(resumption) => {
                let (mut send, recv) = stream.split();
                within(WRITE_TIME, send.send_batch(&resumption.frames)).await?;
                Ok((send, recv))
            }
            Err(error) => {
                let fault = Fault::from(error);
                refuse(stream, &fault).await;
                Err(fault)
            }
        }
    }

    async fn reopen(&mut self) -> Result<(SendHalf, RecvHalf), Fault> {
        let End::Opened { reach, open } = &self.end else { return Err(HopError::Gone.into()) };
        let resume = self.buffer.resume().ok_or(HopError::Gone)?;
        let open = v1::CallOpen { resume: Some(resume), ..open.clone() };
        let connection = connect(&self.house, reach).await?;
        let stream = connection.open(open::Open::Call(open)).await.map_err(|error| error.fault())?;
        let (mut send, mut recv) = stream.split();
        let frames = timeout(ANSWER_TIME, self.await_resumed(&mut recv)).await;
        let frames =
            frames.map_err(|_| Fault::new(ErrorCode::Timeout, "the call was not resumed in time"))??;
        send.send_batch(&frames).await.map_err(|error| error.fault())?;
        Ok((send, recv))
    }

    async fn await_resumed(&mut self, recv: &mut RecvHalf) -> Result<Vec<v1::CallFrame>, Fault> {
        loop {
            let frame = recv.recv::<v1::CallFrame>().await.map_err(|error| error.fault())?;
            let frame = frame.ok_or_else(|| Fault::new(ErrorCode::Unavailable, "the stream ended"))?;
            match frame.message {
                Some(Message::Resumed(resumed)) => return Ok(self.buffer.resumed(&resumed)?.frames),
                Some(Message::Error(error)) => return Err(error.into()),
                _ => self.buffer.receive(frame)?,
            };
        }
    }
}

/// A resumed stream of an accepted hop; never for an opened one.
async fn resumed(end: &mut End) -> Box<Return> {
    if let End::Accepted { resumed } = end
        && let Some(next) = resumed.recv().await
    {
        return next;
    }
    std::future::pending().await
}

/// A step of the wire, with a deadline: whoever gives no credit must not hold a hop for ever.
async fn within<T>(time: Duration, step: impl Future<Output = Result<T, StreamError>>) -> Result<T, Fault> {
    let done = timeout(time, step).await.unwrap_or(Err(StreamError::Deadline(time)));
    done.map_err(|error| error.fault())
}

/// Says why the hop ends here; a stream that just ended would look like one that was lost.
async fn farewell(send: &mut SendHalf, fault: &Fault) {
    let frame = v1::CallFrame { counter: 0, message: Some(Message::Error(fault.to_wire())) };
    let told = async {
        if send.send(&frame).await.is_ok() {
            send.finish();
            send.delivered().await;
        }
    };
    // Whoever does not read it has broken the rules, or is gone.
    let _ = timeout(LAST_WORDS, told).await;
}

fn talk_of(error: &StreamError) -> Talk {
    if error.is_connection_lost() { Talk::Lost } else { Talk::Broken(error.fault()) }
}

async fn connect(house: &House, reach: &Reach) -> Result<Connection, Fault> {
    match reach {
        Reach::Peer { source, destination } => house.peer(source, destination, Class::Live).await,
        Reach::Client { name, owner, device } => {
            let client = house.online.device(name, owner, device);
            let gone = || Fault::new(ErrorCode::Unavailable, "the callee is not connected");
            client.map(|client| client.connection.clone()).ok_or_else(gone)
        }
    }
}
