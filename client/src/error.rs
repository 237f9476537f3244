//! What went wrong, where, and what to do about it: the one error type of the SDK.
//!
//! The *what* is the closed error code of spec section 3.8, the *where* is the stage that failed and
//! its subject, the *what to do* is the table in [`advice`].

use std::fmt;

use ahoy_proto::fault::Fault;
use ahoy_proto::v1::{ErrorClass, ErrorCode};

/// The step of the SDK that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Something on this machine: configuration, files, sockets, media.
    Local,
    /// From the name to its verified card.
    Resolve,
    /// From the card to a greeted, verified homeserver.
    Connect,
    /// Proving the device or service key.
    SignIn,
    /// A request to the homeserver.
    Request,
    /// Signalling of a call.
    Call,
}

impl Stage {
    /// A phrase that completes "while ...".
    pub fn phrase(self) -> &'static str {
        match self {
            Stage::Local => "working on this machine",
            Stage::Resolve => "looking up the name",
            Stage::Connect => "connecting to the homeserver",
            Stage::SignIn => "signing in",
            Stage::Request => "asking the homeserver",
            Stage::Call => "calling",
        }
    }
}

/// A failure of the SDK: the stage, what it was about (a name, an address, a file), and the fault.
#[derive(Clone, Debug)]
pub struct ClientError {
    /// Where it happened.
    pub stage: Stage,
    /// The name, address or path that it is about.
    pub subject: String,
    /// The closed code, its class and a message for people.
    pub fault: Fault,
}

impl ClientError {
    /// Puts a fault in its place.
    pub fn new(stage: Stage, subject: impl Into<String>, fault: Fault) -> Self {
        Self { stage, subject: subject.into(), fault }
    }

    /// A fault found by this side, with its code.
    pub fn of(stage: Stage, subject: impl Into<String>, code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(stage, subject, Fault::new(code, message))
    }

    /// Something wrong on this machine: a file, a socket, a configuration value.
    pub fn local(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::of(Stage::Local, subject, ErrorCode::Malformed, message)
    }

    /// The closed code.
    pub fn code(&self) -> ErrorCode {
        self.fault.code
    }

    /// Whether the same attempt may succeed later without a change by a person.
    pub fn is_retryable(&self) -> bool {
        self.fault.class == ErrorClass::Retry
    }

    /// What a person can do about it.
    pub fn advice(&self) -> &'static str {
        if self.stage == Stage::Local {
            return "correct the value or the file named above and run the command again";
        }
        advice(self.fault.code)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stage == Stage::Local {
            return write!(f, "{}: {}", self.subject, self.fault.message);
        }
        write!(f, "{} {}: {}", self.stage.phrase(), self.subject, code_name(self.fault.code))?;
        if !self.fault.message.is_empty() {
            write!(f, ": {}", self.fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ClientError {}

/// The code as people and logs see it: `NotOnNetwork`, `BadInvite`.
pub fn code_name(code: ErrorCode) -> String {
    let long = code.as_str_name().trim_start_matches("ERROR_CODE_");
    long.split('_')
        .map(|word| {
            let mut chars = word.chars();
            chars
                .next()
                .map_or_else(String::new, |first| first.to_string() + &chars.as_str().to_ascii_lowercase())
        })
        .collect()
}

/// What a person can do about each closed code. Exhaustive: a new code does not compile without its line.
pub fn advice(code: ErrorCode) -> &'static str {
    use ErrorCode as E;
    match code {
        E::Unspecified => "update this program: the other side sent a code that it does not know",
        E::Internal => "try again; if it stays, tell the operator of the homeserver the time of this message",
        E::Unavailable => "the homeserver is restarting or a part of it is away: try again in a minute",
        E::RateLimited => "too many attempts: wait the time shown, then try again",
        E::QueueFull => "the homeserver's queue for this destination is full: try again later",
        E::Timeout => "no answer in time: check the network, then try again",
        E::Malformed => "correct the value named above; if you did not type it, update this program",
        E::FrameTooLarge => "the message is too large: shorten it or send it in parts",
        E::Unsupported => "the other side does not implement this: use another way, or update one of the two",
        E::OutOfOrder => "the two programs disagree about the protocol: update both",
        E::Version => "no protocol version in common: update the older side",
        E::Limit => "too many things at once on this connection: finish some, then try again",
        E::NotAuthenticated => "sign in first: `ahoy signup ADDRESS --invite TOKEN`",
        E::BadProof => "the key does not match: check that --home holds the key of this account",
        E::BadInvite => {
            "the invite is unknown, expired or used: ask the operator for a new one (`ahoyd invite`)"
        }
        E::NameNotServed => {
            "this homeserver does not serve that name: check the address and the name's endpoint"
        }
        E::ClaimRefused => {
            "the connecting homeserver's card does not list its TLS key: its operator must publish it"
        }
        E::AddressTaken => "another account holds this address: choose another, or ask the operator",
        E::NotAllowed => "this account or service may not do that: ask the operator to allow it",
        E::UnknownDevice => {
            "this device is not enrolled: `ahoy signup ADDRESS --invite TOKEN` with a new invite"
        }
        E::NameInvalid => "check the spelling: an address is `name.example` or `local@name.example`",
        E::NotOnNetwork => {
            "the name has no Ahoy record: check the spelling, or use another way to reach them"
        }
        E::DnsBogus => {
            "DNSSEC validation failed for this name: try again later; its owner must repair the zone"
        }
        E::DnsUnavailable => "DNS did not answer: check the network and [dns] servers in config.toml",
        E::BadRecord => {
            "the record at _ahoy.NAME is malformed or wrongly signed: its owner must publish it anew"
        }
        E::AnchorExpired => "the name's record has expired: its owner must sign it anew",
        E::KeyMismatch => {
            "the name's key is not the one known from before: ask its owner by another way first"
        }
        E::Conflict => "different DNS servers disagree about this name: try again later",
        E::NotSecure => {
            "the zone is not signed with DNSSEC and the name is not known yet: its owner must sign it"
        }
        E::PeerNotAuthentic => {
            "the server that answered could not prove that it speaks for the name: try later"
        }
        E::PeerUnreachable => {
            "no server of this name answers: try again later; check that UDP is not blocked"
        }
        E::NotInService => "the name says that it is not in service",
        E::NotReachable => "the address does not exist or does not take this from you: check the spelling",
        E::BadAttestation => "the sender's proof does not verify: the sender's operator must look into it",
        E::TooOld => "older than 30 days: send it again as a new message",
        E::WrongHub => "another homeserver orders this conversation: start the conversation anew",
        E::UnknownConversation => "no such conversation: write to the address instead",
        E::Epoch => "the conversation was restored from an older state: read it again",
        E::StalePipe => "another connection has taken over: nothing to do",
        E::ClientIdReused => "a different message was sent under this id before: send it again with a new id",
        E::UnknownCall => "the call is over: place it again",
        E::BadResumeToken => "the call could not be resumed: place it again",
        E::SlowReader => "this program did not keep up with the call: place it again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_advice() {
        let mut seen = std::collections::BTreeMap::new();
        for number in 0..200 {
            let Ok(code) = ErrorCode::try_from(number) else { continue };
            let line = advice(code);
            assert!(line.len() > 10, "{code:?}");
            if let Some(other) = seen.insert(line, code) {
                panic!("{code:?} and {other:?} give the same advice");
            }
        }
        assert!(seen.len() >= 40);
    }

    #[test]
    fn an_error_says_where_about_what_and_which() {
        let error = ClientError::of(Stage::Resolve, "bank.example", ErrorCode::NotOnNetwork, "no record");
        assert_eq!(error.to_string(), "looking up the name bank.example: NotOnNetwork: no record");
    }
}
