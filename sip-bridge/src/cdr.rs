//! One JSON line per call: what an operator needs to bill, to count, and to find out why there
//! was no sound. Times are milliseconds of Unix time. [BRIDGE-SIP-12]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use crate::rtp::Traffic;
use crate::sip::EndCause;

/// Which side placed the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From the network to the PBX.
    ToTrunk,
    /// From the PBX to the network.
    FromTrunk,
}

/// One call.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The call id, hexadecimal; empty when the call never reached the network.
    pub call: String,
    /// Who placed it.
    pub way: Way,
    /// The trunk's id.
    pub trunk: String,
    /// The caller.
    pub from: String,
    /// The callee.
    pub to: String,
    /// When the bridge saw it first.
    pub start_ms: u64,
    /// When it rang.
    pub ringing_ms: Option<u64>,
    /// When it was answered.
    pub answered_ms: Option<u64>,
    /// When it was over.
    pub end_ms: u64,
    /// The hang-up reason, as its name on the wire without the prefix.
    pub reason: String,
    /// What ended the SIP leg.
    pub sip_end: Option<EndCause>,
    /// The SIP status, where one ended it.
    pub sip_status: Option<u16>,
    /// The Q.850 cause, where one was given.
    pub q850: Option<u16>,
    /// The codec on the SIP leg.
    pub codec: Option<&'static str>,
    /// Whether A-law and mu-law had to be exchanged between the legs.
    pub recoded: bool,
    /// RTP of the SIP leg.
    pub sip: Leg,
    /// RTP of the network leg.
    pub rtc: Leg,
    /// The ICE pair that carried the media: ours, theirs.
    pub ice_pair: Option<(SocketAddr, SocketAddr)>,
}

/// Both directions of a leg.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Leg {
    /// What the bridge received.
    pub received: Traffic,
    /// What it sent.
    pub sent: Traffic,
}

/// The CDR file.
pub struct Cdr {
    path: PathBuf,
    file: Mutex<tokio::fs::File>,
}

impl Cdr {
    /// Opens the file for appending, and creates it.
    pub async fn open(path: &Path) -> std::io::Result<Self> {
        let file = tokio::fs::OpenOptions::new().append(true).create(true).open(path).await?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file) })
    }

    /// Appends a record. A failure is logged: a full disk does not end calls.
    pub async fn write(&self, record: &Record) {
        let mut line = match serde_json::to_vec(record) {
            Ok(line) => line,
            Err(error) => return tracing::error!(%error, "a CDR cannot be written as JSON"),
        };
        line.push(b'\n');
        let mut file = self.file.lock().await;
        let result = match file.write_all(&line).await {
            Ok(()) => file.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::error!(path = %self.path.display(), %error, "a CDR was lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_call_is_one_json_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cdr.jsonl");
        let cdr = Cdr::open(&path).await.unwrap();
        let record = Record {
            call: "ab".into(),
            way: Way::ToTrunk,
            trunk: "pbx".into(),
            from: "a@home.example".into(),
            to: "support@bank.example".into(),
            start_ms: 1,
            ringing_ms: None,
            answered_ms: None,
            end_ms: 2,
            reason: "busy".into(),
            sip_end: Some(EndCause::Rejected),
            sip_status: Some(486),
            q850: None,
            codec: None,
            recoded: false,
            sip: Leg::default(),
            rtc: Leg::default(),
            ice_pair: None,
        };
        cdr.write(&record).await;
        cdr.write(&record).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (lines.len(), &lines[1]["sip_status"], &lines[0]["way"]),
            (2, &486.into(), &"to_trunk".into())
        );
    }
}
