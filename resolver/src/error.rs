//! The closed list of refusals of a resolution, and their wire codes.

use ahoy_proto::fault::Fault;
use ahoy_proto::v1::ErrorCode;

/// Why a name is not believed, or not reachable. There is no "proceed anyway".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The zone holds no Ahoy record at `_ahoy.<name>`.
    #[error("{name} is not on the network: no Ahoy record at _ahoy.{name}{}", note(.detail))]
    NotOnNetwork {
        /// As asked.
        name: String,
        /// What was found instead.
        detail: String,
    },
    /// DNSSEC validation failed; the name may be fine, its DNS is not.
    #[error("DNS of {name} does not validate, try again later{}", note(.detail))]
    DnsBogus {
        /// As asked.
        name: String,
        /// What failed.
        detail: String,
    },
    /// DNS did not answer within the deadline.
    #[error("DNS of {name} does not answer, try again later{}", note(.detail))]
    DnsUnavailable {
        /// As asked.
        name: String,
        /// What failed.
        detail: String,
    },
    /// The record is malformed or wrongly signed: its owner has to publish it anew.
    #[error("the Ahoy record of {name} is not valid{}", note(.detail))]
    BadRecord {
        /// As asked.
        name: String,
        /// The rule that it breaks.
        detail: String,
    },
    /// The record is past its date: its owner has to sign it anew.
    #[error("the Ahoy record of {name} has expired{}", note(.detail))]
    AnchorExpired {
        /// As asked.
        name: String,
        /// Since when.
        detail: String,
    },
    /// The published key is not the one known for this name.
    #[error("{name} shows another identity than the one known here{}", note(.detail))]
    KeyMismatch {
        /// As asked.
        name: String,
        /// Both keys.
        detail: String,
    },
    /// Several views of DNS disagree.
    #[error("DNS views of {name} disagree{}", note(.detail))]
    Conflict {
        /// As asked.
        name: String,
        /// What they said.
        detail: String,
    },
    /// The zone is not signed, and the name is not known here yet.
    #[error("{name} cannot be verified: its DNS zone is not signed with DNSSEC{}", note(.detail))]
    NotSecure {
        /// As asked.
        name: String,
        /// Which hop is unsigned.
        detail: String,
    },
    /// Whoever answers at the endpoints cannot prove to be this name.
    #[error("the server that answers for {name} cannot prove it{}", note(.detail))]
    PeerNotAuthentic {
        /// As asked.
        name: String,
        /// What it showed.
        detail: String,
    },
    /// No endpoint answers.
    #[error("no server of {name} answers{}", note(.detail))]
    PeerUnreachable {
        /// As asked.
        name: String,
        /// What was tried.
        detail: String,
    },
    /// The owner says that the name is not in service.
    #[error("{name} is not in service{}", note(.detail))]
    NotInService {
        /// As asked.
        name: String,
        /// How it is said.
        detail: String,
    },
}

fn note(detail: &str) -> String {
    match detail {
        "" => String::new(),
        detail => format!(" ({detail})"),
    }
}

impl ResolveError {
    /// The wire code; each refusal has its own `[NAME-LEVEL-10]`.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotOnNetwork { .. } => ErrorCode::NotOnNetwork,
            Self::DnsBogus { .. } => ErrorCode::DnsBogus,
            Self::DnsUnavailable { .. } => ErrorCode::DnsUnavailable,
            Self::BadRecord { .. } => ErrorCode::BadRecord,
            Self::AnchorExpired { .. } => ErrorCode::AnchorExpired,
            Self::KeyMismatch { .. } => ErrorCode::KeyMismatch,
            Self::Conflict { .. } => ErrorCode::Conflict,
            Self::NotSecure { .. } => ErrorCode::NotSecure,
            Self::PeerNotAuthentic { .. } => ErrorCode::PeerNotAuthentic,
            Self::PeerUnreachable { .. } => ErrorCode::PeerUnreachable,
            Self::NotInService { .. } => ErrorCode::NotInService,
        }
    }

    /// The refusal as it goes over the wire; the one place that maps it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::new(self.code(), self.to_string())
    }
}

impl From<ResolveError> for Fault {
    fn from(error: ResolveError) -> Self {
        error.fault()
    }
}
