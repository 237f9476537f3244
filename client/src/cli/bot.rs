//! `ahoy bot`: a service that answers texts to a line. Nothing about it is privileged: it shows what the
//! service API takes.

use ahoy_client::message::Message;
use ahoy_client::{ServiceLogin, Session, SyncEvent};
use ahoy_proto::address::Local;
use ahoy_proto::v1::{self, content, sync_item};
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::home::Home;
use super::send::text_content;

/// Arguments of `ahoy bot`.
#[derive(clap::Args)]
pub struct Bot {
    /// Which service this is, as the invite says.
    #[arg(long)]
    service: String,
    /// The homeserver's name.
    #[arg(long)]
    name: String,
    /// The token that the operator gave (`ahoyd invite --service`); needed at the first start.
    #[arg(long)]
    invite: Option<String>,
    /// A line to answer; may be given several times.
    #[arg(long, required = true)]
    address: Vec<String>,
    /// What is answered; {text} = what was said, {from} = who said it.
    #[arg(long, default_value = "you said: {text}")]
    reply: String,
}

pub async fn run(home: &Home, command: Bot, stop: &CancellationToken) -> Result<u8, Failure> {
    let name = home.address(&command.name)?.name().clone();
    let addresses: Result<Vec<_>, _> = command.address.iter().map(|text| home.address(text)).collect();
    let service = Local::parse(&command.service)
        .map_err(|error| Failure::Plain(format!("{:?} is no name of a service: {error}", command.service)))?;
    let log_name = format!("service-{service}");
    let login = ServiceLogin {
        name,
        service,
        key: home.key(&log_name)?,
        invite: command.invite,
        addresses: addresses?,
        calls: false,
        messages: true,
    };
    let network = home.network().await?;
    let session = Session::sign_in_service(&network, login).await?;
    println!("answering as {}", session.subject());
    let mut log = session.sync(home.position(&log_name)?);
    loop {
        let event = tokio::select! {
            event = log.next() => event?,
            () = stop.cancelled() => break,
        };
        let SyncEvent::Item(item) = event else { continue };
        if let Some(reply) = reply(&item, &command.reply) {
            println!(
                "{} -> {}: {}",
                reply.from,
                reply.to,
                reply.content.as_ref().map_or("", |c| &c.fallback)
            );
            session.submit(reply).await?;
        }
        home.set_position(&log_name, item.position)?;
    }
    session.close().await;
    network.close().await;
    Ok(0)
}

/// The reply to a text of somebody else. Its client id comes from the event, so that a bot that is killed
/// between the reply and remembering its position does not answer twice.
fn reply(item: &v1::SyncItem, template: &str) -> Option<v1::Submit> {
    let Some(sync_item::Item::Event(placed)) = &item.item else { return None };
    let message = Message::from_placed(placed).ok()?;
    let Some(content::Content::Text(text)) = &message.content.content else { return None };
    if message.from == item.address {
        return None;
    }
    let answer = template.replace("{from}", &message.from).replace("{text}", &text.body);
    Some(v1::Submit {
        to: message.from.clone(),
        from: item.address.clone(),
        client_id: message.event_id.slice(..16),
        content: Some(text_content(answer)),
        ..v1::Submit::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_are_answered() {
        let item = v1::SyncItem {
            item: Some(sync_item::Item::Placed(v1::Placed::default())),
            ..v1::SyncItem::default()
        };
        assert!(reply(&item, "hi").is_none());
    }
}
