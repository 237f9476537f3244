//! Decides what counts as the expected refusal: the code, and the class that goes with it.

use std::fmt;

use anyhow::bail;

use ahoy_proto::v1::{self, ErrorClass, ErrorCode};

use crate::frame::End;

/// The subject said no, and why.
#[derive(Debug, Clone)]
pub struct Refused(pub v1::Error);

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused with {} ({:?})", code_name(self.0.code), self.0.message)
    }
}

/// The subject does not implement what a case needs; the run's exit status says so.
#[derive(Debug)]
pub struct Unsupported(pub String);

impl std::error::Error for Unsupported {}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not supported by the subject: {}", self.0)
    }
}

/// The case cannot be asked of this subject as it was started.
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::error::Error for Skipped {}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A code as the schema spells it, without its prefix.
pub fn code_name(code: i32) -> String {
    match ErrorCode::try_from(code) {
        Ok(code) => code.as_str_name().trim_start_matches("ERROR_CODE_").to_owned(),
        Err(_) => format!("code {code}"),
    }
}

/// The class that the schema gives each code [WIRE-ERR-02].
fn class_of(code: ErrorCode) -> ErrorClass {
    use ErrorCode as C;
    match code {
        C::Internal | C::Unavailable | C::RateLimited | C::QueueFull | C::Timeout | C::Limit => {
            ErrorClass::Retry
        }
        C::DnsBogus | C::DnsUnavailable | C::Conflict | C::PeerNotAuthentic | C::PeerUnreachable => {
            ErrorClass::Retry
        }
        C::SlowReader => ErrorClass::Retry,
        C::Unsupported | C::Version => ErrorClass::Unsupported,
        C::NotAuthenticated | C::BadProof | C::BadInvite | C::ClaimRefused | C::NotAllowed => {
            ErrorClass::Auth
        }
        C::UnknownDevice | C::BadAttestation | C::BadResumeToken => ErrorClass::Auth,
        _ => ErrorClass::Permanent,
    }
}

/// Whether an error is of this code, well formed, and of the code's class.
///
/// # Errors
/// What is wrong with it; [`Unsupported`] when the subject does not implement what was asked.
pub fn check_error(error: &v1::Error, wanted: ErrorCode) -> anyhow::Result<String> {
    let name = code_name(wanted.into());
    if error.code() != wanted {
        if error.code() == ErrorCode::Unsupported {
            bail!(Unsupported(error.message.clone()));
        }
        bail!("expected {name}, got {} ({:?})", code_name(error.code), error.message);
    }
    if error.class() != class_of(wanted) && error.class() != ErrorClass::Unspecified {
        bail!("{name} came with class {:?} instead of {:?}", error.class(), class_of(wanted));
    }
    if error.message.len() > 512 || error.message.chars().any(char::is_control) {
        bail!("WIRE-ERR-03: the message of {name} is too long or has control characters");
    }
    Ok(format!("{name} ({})", error.message))
}

/// Whether an attempt was refused with this code, by an error message or by the code of a reset or close
/// [WIRE-ERR-04].
///
/// # Errors
/// What happened instead.
pub fn expect_refusal<T>(attempt: anyhow::Result<T>, wanted: ErrorCode) -> anyhow::Result<String> {
    let name = code_name(wanted.into());
    let error = match attempt {
        Ok(_) => bail!("expected {name}, but it was accepted"),
        Err(error) => error,
    };
    if let Some(Refused(said)) = error.downcast_ref::<Refused>() {
        return check_error(said, wanted);
    }
    match error.downcast_ref::<End>() {
        Some(End::Reset(code) | End::Closed(code, _)) if *code == wanted as u64 => {
            Ok(format!("{name}, by the code of the end"))
        }
        Some(End::Reset(code) | End::Closed(code, _)) if *code == ErrorCode::Unsupported as u64 => {
            bail!(Unsupported(format!("expected {name}")))
        }
        _ => Err(error.context(format!("expected {name}"))),
    }
}
