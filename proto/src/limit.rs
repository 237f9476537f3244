//! Decides every default limit of the protocol: each has a name here and is advertised where a peer needs it.

use std::time::Duration;

/// UDP port of a homeserver: AHOY on a keypad.
pub const PORT: u16 = 2469;
/// ALPN of native connections.
pub const ALPN: &[u8] = b"ahoy/1";
/// The protocol version that this crate speaks.
pub const VERSION: u32 = 1;

/// Largest frame, without its length prefix, in bytes. `[WIRE-FRAME-02]`
pub const FRAME_BYTES: usize = 256 * 1024;
/// Frames of a peer that has not authenticated, together, in bytes. `[WIRE-HELLO-02]`
pub const HANDSHAKE_BYTES: usize = 32 * 1024;
/// Time from the first packet to `Ready`. `[WIRE-HELLO-03]`
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Claims that may wait for their resolution at once, per connection. `[WIRE-AUTH-02]`
pub const PENDING_CLAIMS: usize = 64;
/// Connections between two homeservers.
pub const PEER_CONNECTIONS: usize = 4;
/// Request streams at once, per connection.
pub const REQUEST_STREAMS: u32 = 64;
/// Call streams at once, per connection.
pub const CALL_STREAMS: u32 = 256;
/// A connection that is silent for so long is dead. `[WIRE-STREAM-04]`
pub const IDLE_TIME: Duration = Duration::from_secs(10);
/// Deadline of one request.
pub const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Clock difference that is forgiven. `[WIRE-HELLO-04]`
pub const CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);

/// Longest name, so that `_ahoy.<name>` is a DNS name too. `[NAME-ADDR-05]`
pub const NAME_BYTES: usize = 247;
/// Longest local part of an address. `[NAME-ADDR-07]`
pub const LOCAL_BYTES: usize = 64;

/// Longest anchor, in characters. `[NAME-ANCHOR-02]`
pub const ANCHOR_CHARS: usize = 1000;
/// Endpoints in an anchor.
pub const ANCHOR_ENDPOINTS: usize = 4;
/// Lines in an anchor.
pub const ANCHOR_LINES: usize = 16;
/// Records of one answer whose signature is checked: bounds the work that one zone can ask for.
pub const ANCHOR_CANDIDATES: usize = 16;
/// Life of an anchor without `x`.
pub const ANCHOR_LIFE: Duration = Duration::from_secs(400 * DAY_S);
/// How far in the future `s` may be.
pub const ANCHOR_AHEAD: Duration = Duration::from_secs(DAY_S);

/// Largest card body, in bytes. `[NAME-CARD-02]`
pub const CARD_BYTES: usize = 16 * 1024;
/// Longest life of a card. `[NAME-CARD-05]`
pub const CARD_LIFE: Duration = Duration::from_secs(7 * DAY_S);
/// TLS keys in a card.
pub const CARD_TLS_KEYS: usize = 16;
/// Message keys in a card, retired ones included.
pub const CARD_MESSAGE_KEYS: usize = 64;
/// Endpoints in a card.
pub const CARD_ENDPOINTS: usize = 16;
/// Lines in a card.
pub const CARD_LINES: usize = 256;
/// Anchors in a card's rotation chain.
pub const CARD_CHAIN: usize = 16;
/// Longest life of a delegation. `[NAME-CARD-09]`
pub const DELEGATION_LIFE: Duration = Duration::from_secs(400 * DAY_S);

/// Largest encoded content of an event, in bytes.
pub const CONTENT_BYTES: usize = 64 * 1024;
/// Longest fallback text, in bytes.
pub const FALLBACK_BYTES: usize = 4096;
/// Leaves under one attested root. `[EVENT-ATTEST-03]`
pub const ATTESTED_LEAVES: usize = 64;
/// Events older than this are refused, and undelivered ones fail. `[EVENT-DELIVER-05]`
pub const EVENT_LIFE: Duration = Duration::from_secs(30 * DAY_S);
/// How long ids are remembered so that a repeat is recognised.
pub const DEDUPLICATION_LIFE: Duration = Duration::from_secs(32 * DAY_S);
/// Unacknowledged items in a delivery pipe. `[EVENT-DELIVER-02]`
pub const PIPE_WINDOW: u32 = 1024;
/// Positions exchanged when a pipe opens.
pub const PIPE_POSITIONS: usize = 256;
/// Events in one answer to `Fetch`.
pub const FETCH_EVENTS: u32 = 256;
/// First delay of a retry. `[EVENT-DELIVER-03]`
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest delay of a retry that the sender chooses itself.
pub const RETRY_LONGEST: Duration = Duration::from_secs(5 * 60);
/// Longest `retry_after` that is honoured.
pub const RETRY_AFTER_LONGEST: Duration = Duration::from_secs(DAY_S);

/// Time to an answer when the Invite does not say. `[CALL-BRANCH-05]`
pub const RING_TIME: Duration = Duration::from_secs(90);
/// Time to an answer once early media flows. `[CALL-BRANCH-06]`
pub const EARLY_TIME: Duration = Duration::from_secs(180);
/// Longest configurable time of early media.
pub const EARLY_LONGEST: Duration = Duration::from_secs(30 * 60);
/// How long a hop without connection waits for `Resume`. `[CALL-RESUME-05]`
pub const RESUME_TIME: Duration = Duration::from_secs(15);
/// Call messages kept for a replay, per direction of a hop. `[CALL-RESUME-02]`
pub const CALL_BUFFER: usize = 64;
/// Branches of one call.
pub const CALL_BRANCHES: usize = 16;
/// Largest SDP, in bytes.
pub const SDP_BYTES: usize = 16 * 1024;
/// Diversions that an Invite may carry. `[CALL-INVITE-05]`
pub const DIVERSIONS: usize = 5;
/// Longest unverified caller display, in bytes.
pub const CALLER_DISPLAY_BYTES: usize = 64;
/// Longest message of an error, in bytes. `[WIRE-ERR-03]`
pub const ERROR_MESSAGE_BYTES: usize = 512;
/// Longest message of a hang-up, in bytes.
pub const HANGUP_MESSAGE_BYTES: usize = 256;

const DAY_S: u64 = 24 * 60 * 60;
