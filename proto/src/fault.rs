//! Decides what an error on the wire means: the one table from code to class, and what may be done about it.

use std::fmt;
use std::time::Duration;

use crate::limit;
use crate::v1::{self, ErrorClass, ErrorCode};

/// The typed form of `v1.Error`. `[WIRE-ERR-01]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why; `Unspecified` when the sender's code is not known here.
    pub code: ErrorCode,
    /// What may be done about it.
    pub class: ErrorClass,
    /// When the sender asks to try again, if it says so.
    pub retry_after: Option<Duration>,
    /// For people, in English, at most 512 bytes, nothing internal.
    pub message: String,
}

impl Fault {
    /// A fault whose class is that of its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, class: class_of(code), retry_after: None, message: clip(message.into()) }
    }

    /// With a time to wait before the next try.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// `unsupported`: what this implementation does not do, it refuses by name.
    pub fn unsupported(what: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Unsupported, format!("{what} is not supported here"))
    }

    /// Whether the same request may succeed later.
    pub fn is_retry(&self) -> bool {
        self.class == ErrorClass::Retry
    }

    /// The wire form.
    pub fn to_wire(&self) -> v1::Error {
        v1::Error {
            code: self.code.into(),
            class: self.class.into(),
            retry_after_ms: self.retry_after.map_or(0, |d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX)),
            message: self.message.clone(),
        }
    }
}

/// The class of each code. A code from the future has the class that its sender gives it. `[WIRE-ERR-02]`
pub fn class_of(code: ErrorCode) -> ErrorClass {
    use ErrorCode::*;
    match code {
        Internal | Unavailable | RateLimited | QueueFull | Timeout | Limit | DnsBogus | DnsUnavailable
        | Conflict | PeerNotAuthentic | PeerUnreachable | SlowReader => ErrorClass::Retry,
        Unspecified | Malformed | FrameTooLarge | OutOfOrder | NameNotServed | AddressTaken | NameInvalid
        | NotOnNetwork | BadRecord | AnchorExpired | KeyMismatch | NotSecure | NotInService
        | NotReachable | TooOld | WrongHub | UnknownConversation | Epoch | StalePipe | ClientIdReused
        | UnknownCall => ErrorClass::Permanent,
        NotAuthenticated | BadProof | BadInvite | ClaimRefused | NotAllowed | UnknownDevice
        | BadAttestation | BadResumeToken => ErrorClass::Auth,
        Unsupported | Version => ErrorClass::Unsupported,
    }
}

impl From<v1::Error> for Fault {
    /// An unknown class is permanent; an unspecified one is that of its code. `[WIRE-ERR-02]`
    fn from(e: v1::Error) -> Self {
        let code = ErrorCode::try_from(e.code).unwrap_or(ErrorCode::Unspecified);
        let class = match ErrorClass::try_from(e.class) {
            Ok(ErrorClass::Unspecified) => class_of(code),
            Ok(class) => class,
            Err(_) => ErrorClass::Permanent,
        };
        let retry_after = (e.retry_after_ms != 0).then(|| Duration::from_millis(e.retry_after_ms.into()));
        Self { code, class, retry_after, message: clip(e.message) }
    }
}

impl From<Fault> for v1::Error {
    fn from(fault: Fault) -> Self {
        fault.to_wire()
    }
}

impl From<&Fault> for v1::Error {
    fn from(fault: &Fault) -> Self {
        fault.to_wire()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.as_str_name().trim_start_matches("ERROR_CODE_");
        write!(f, "{}", code.to_ascii_lowercase().replace('_', " "))?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match self.retry_after {
            Some(wait) => write!(f, " (try again in {:.1} s)", wait.as_secs_f32()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}

/// A message that fits its field and cannot disturb a terminal or a log. `[WIRE-ERR-03]`
fn clip(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(limit::ERROR_MESSAGE_BYTES));
    message.retain(|c| !c.is_control());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_code_from_the_future_acts_by_its_class() {
        let wire = v1::Error { code: 9999, class: ErrorClass::Retry.into(), ..Default::default() };
        let fault = Fault::from(wire);
        assert_eq!((fault.code, fault.is_retry()), (ErrorCode::Unspecified, true));
    }

    #[test]
    fn a_class_from_the_future_is_permanent() {
        let wire = v1::Error { code: ErrorCode::Timeout.into(), class: 77, ..Default::default() };
        assert_eq!(Fault::from(wire).class, ErrorClass::Permanent);
    }

    #[test]
    fn every_code_of_the_schema_has_the_class_that_the_schema_states() {
        let schema = include_str!("../schema/ahoy/v1/errors.proto");
        let mut seen = 0;
        for line in schema.lines().filter(|l| l.trim_start().starts_with("ERROR_CODE_")) {
            let name = line.split_whitespace().next().expect("has a word");
            let Some((_, comment)) = line.split_once("//") else { continue };
            let class = comment.trim().split([':', ' ']).next().expect("has a class").to_uppercase();
            let code = ErrorCode::from_str_name(name).expect("generated from this file");
            assert_eq!(class_of(code).as_str_name(), format!("ERROR_CLASS_{class}"), "{name}");
            seen += 1;
        }
        assert!(seen > 35, "{seen} codes read");
    }

    #[test]
    fn a_message_is_clipped_at_a_character_and_loses_control_characters() {
        let fault = Fault::new(ErrorCode::Internal, format!("\u{1b}[31m{}", "é".repeat(400)));
        assert!(fault.message.len() <= 512 && fault.message.starts_with("[31m"));
    }

    proptest! {
        #[test]
        fn a_fault_is_read_back_from_its_wire_form(code in 0..100i32, wait in 0..100_000u64, message in "[a-z ]{0,512}") {
            let Ok(code) = ErrorCode::try_from(code) else { return Ok(()) };
            let mut fault = Fault::new(code, message);
            if wait > 0 {
                fault = fault.with_retry_after(Duration::from_millis(wait));
            }
            prop_assert_eq!(Fault::from(fault.to_wire()), fault);
        }
    }
}
