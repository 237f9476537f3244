//! `ahoy send`: one text, and with `--wait` what became of it.

use std::time::Duration;

use ahoy_client::error::{ClientError, Stage};
use ahoy_client::{Session, SyncEvent};
use ahoy_proto::fault::Fault;
use ahoy_proto::limit;
use ahoy_proto::time::random;
use ahoy_proto::v1::{self, content, sync_item};
use ahoy_transport::clock::OsEntropy;
use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::home::Home;
use super::{Failure, failure_json};

/// Exit status when the message still waits at the end of `--wait`.
const STILL_PENDING: u8 = 3;

/// Arguments of `ahoy send`.
#[derive(clap::Args)]
pub struct Send {
    /// To whom.
    to: String,
    /// What.
    text: String,
    /// Wait until the message was placed or failed: at most so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    wait: Option<u64>,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

pub async fn run(home: &Home, command: Send, stop: &CancellationToken) -> Result<u8, Failure> {
    let to = home.address(&command.to)?;
    let network = home.network().await?;
    let session = home.sign_in(&network).await?;
    let client_id = Bytes::copy_from_slice(&random::<16>(&OsEntropy));
    let submit = v1::Submit {
        to: to.to_string(),
        client_id: client_id.clone(),
        content: Some(text_content(command.text)),
        ..v1::Submit::default()
    };
    let ack = session.submit(submit).await?;
    let teller = Teller { json: command.json, to: to.to_string(), client_id };
    let status = match command.wait {
        None => teller.pending("accepted: the homeserver delivers it"),
        Some(seconds) => {
            let fate = tokio::select! {
                fate = timeout(Duration::from_secs(seconds), fate(&session, &ack, &teller.client_id)) => fate,
                () = stop.cancelled() => {
                    return Err(Failure::Plain("interrupted; the homeserver delivers the message".to_owned()));
                }
            };
            teller.tell(fate.ok().transpose()?, seconds)?
        }
    };
    session.close().await;
    Ok(status)
}

/// Text, with itself as the fallback.
pub fn text_content(body: String) -> v1::Content {
    let mut fallback = body.clone();
    fallback.truncate(fallback.floor_char_boundary(limit::FALLBACK_BYTES));
    let text = v1::Text { body, ..v1::Text::default() };
    v1::Content { fallback, content: Some(content::Content::Text(text)) }
}

enum Fate {
    Placed(v1::Placed),
    Failed(Fault),
}

/// What the sync log says about this message.
async fn fate(session: &Session, ack: &v1::SubmitAck, client_id: &Bytes) -> Result<Fate, ClientError> {
    let mut log = session.sync(ack.position.saturating_sub(1));
    loop {
        let SyncEvent::Item(v1::SyncItem { item: Some(item), .. }) = log.next().await? else { continue };
        match item {
            sync_item::Item::Placed(placed) if placed.client_id == *client_id => {
                return Ok(Fate::Placed(placed));
            }
            sync_item::Item::Failed(failed) if failed.client_id == *client_id => {
                return Ok(Fate::Failed(Fault::from(failed.error.unwrap_or_default())));
            }
            _ => {}
        }
    }
}

struct Teller {
    json: bool,
    to: String,
    client_id: Bytes,
}

impl Teller {
    fn tell(&self, fate: Option<Fate>, seconds: u64) -> Result<u8, Failure> {
        match fate {
            Some(Fate::Placed(placed)) => {
                self.say("Placed", &format!("number {} in the conversation with {}", placed.seq, self.to));
                Ok(0)
            }
            Some(Fate::Failed(fault)) => {
                let error = ClientError::new(Stage::Request, self.to.clone(), fault);
                if self.json {
                    println!("{}", failure_json(&error));
                }
                Err(error.into())
            }
            None => {
                self.pending(&format!(
                    "not placed within {seconds} s: the homeserver goes on trying for 30 days, `ahoy peers` says why"
                ));
                Ok(STILL_PENDING)
            }
        }
    }

    fn pending(&self, text: &str) -> u8 {
        self.say("Pending", text);
        0
    }

    fn say(&self, state: &str, text: &str) {
        if self.json {
            let id: String = self.client_id.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{}", serde_json::json!({ "state": state, "to": self.to, "client_id": id }));
        } else {
            println!("{state}: {text}");
        }
    }
}
