//! Decides what happens to a message that one of our own people or services hands in: durable and `Pending`, then in
//! a queue, or waiting until it is known what the addressee is.

use ahoy_proto::address::Address;
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::event::check_content;
use ahoy_proto::fault::Fault;
use ahoy_proto::v1::sync_item::Item;
use ahoy_proto::v1::{self, ErrorCode};
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::checked::malformed;
use crate::conversation::other_party;
use crate::desk::Desk;
use crate::follow;
use crate::layout;
use crate::ledger::Outcome;
use crate::page::Page;
use crate::record::{ContactRecord, Conversation, Draft, Queued, Submission};
use crate::store::StoreError;

/// Drafts that become events in one page.
const DRAFTS_AT_ONCE: usize = 512;

/// Who hands a message in.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// Owner of the sync log that hears of it.
    pub owner: String,
    /// First 8 bytes of SHA-256 of the device's or service's key.
    pub device: [u8; 8],
    /// What it speaks as when the submission does not say.
    pub own: Option<Address>,
    /// Addresses of a service: what it claimed.
    pub claimed: Vec<Address>,
}

/// Where a message goes.
enum Way {
    Known { conversation: ConversationId, to: String },
    Unknown { to: Address },
}

/// Takes a submission: durable when the page is. `[EVENT-DELIVER-06]`
pub fn submit(page: &mut Page<'_>, speaker: &Speaker, submit: v1::Submit) -> Outcome<v1::SubmitAck> {
    if let Err(fault) = check(&submit) {
        return Ok(Err(fault));
    }
    let (from, way) = match find_way(page, speaker, &submit)? {
        Ok(found) => found,
        Err(fault) => return Ok(Err(fault)),
    };
    let key = layout::submission(&from.to_string(), &speaker.device, &submit.client_id);
    let content_hash = hash_of(&submit);
    if let Some(before) = page.record::<Submission>(&key)? {
        return Ok(if before.content_hash == content_hash {
            Ok(v1::SubmitAck { client_id: submit.client_id, position: before.position })
        } else {
            Err(Fault::new(ErrorCode::ClientIdReused, "this client id was used for another message"))
        });
    }
    if let Err(fault) = check_room(page, &way)? {
        return Ok(Err(fault));
    }
    let body = body_of(page, speaker, &from, &submit);
    send(page, speaker, &from, way, body)?;
    let pending = v1::Pending {
        client_id: submit.client_id.clone(),
        to: submit.to.clone(),
        content: submit.content,
        time_ms: page.now.as_millis(),
        device: Bytes::copy_from_slice(&speaker.device),
    };
    let position = page.log(&speaker.owner, &from, Item::Pending(pending))?;
    let time_ms = page.now.as_millis();
    let owner = speaker.owner.clone();
    page.put_record(key, &Submission { owner, content_hash, position, time_ms, settled: false });
    Ok(Ok(v1::SubmitAck { client_id: submit.client_id, position }))
}

fn check(submit: &v1::Submit) -> Result<(), Fault> {
    if submit.client_id.len() != 16 {
        return Err(malformed("a client id has 16 bytes"));
    }
    if submit.precondition.is_some() {
        return Err(Fault::unsupported("a precondition"));
    }
    if submit.to.is_empty() == submit.conversation.is_empty() {
        return Err(malformed("a message names either an addressee or a conversation"));
    }
    let content = submit.content.as_ref().ok_or_else(|| malformed("the message has no content"))?;
    Ok(check_content(content)?)
}

fn hash_of(submit: &v1::Submit) -> Bytes {
    let mut plain = submit.clone();
    plain.client_id = Bytes::new();
    Bytes::copy_from_slice(&Sha256::digest(plain.encode_to_vec()))
}

/// Who speaks, and where the message goes as far as it is known.
fn find_way(page: &mut Page<'_>, speaker: &Speaker, submit: &v1::Submit) -> Outcome<(Address, Way)> {
    if !submit.conversation.is_empty() {
        return in_conversation(page, speaker, submit);
    }
    let policy = &page.desk.policy;
    let from = match speaks_as(page, speaker, &submit.from) {
        Ok(from) => from,
        Err(fault) => return Ok(Err(fault)),
    };
    let to = match Address::parse(&submit.to, policy) {
        Ok(to) if to != from => to,
        Ok(_) => return Ok(Err(malformed("a message to oneself"))),
        Err(error) => return Ok(Err(error.into())),
    };
    let known: Option<ContactRecord> = page.record(&layout::contact(&from.to_string(), &to.to_string()))?;
    let Some(known) = known else { return Ok(Ok((from, Way::Unknown { to }))) };
    let Ok(conversation) = ConversationId::from_wire(&known.conversation, policy) else {
        return Ok(Ok((from, Way::Unknown { to })));
    };
    Ok(Ok((from, Way::Known { conversation, to: known.canonical })))
}

fn in_conversation(page: &mut Page<'_>, speaker: &Speaker, submit: &v1::Submit) -> Outcome<(Address, Way)> {
    let unknown = || Fault::new(ErrorCode::UnknownConversation, "no such conversation here");
    let conversation = match ConversationId::from_wire(&submit.conversation, &page.desk.policy) {
        Ok(conversation) => conversation,
        Err(error) => return Ok(Err(error.into())),
    };
    let Some(record) = page.record::<Conversation>(&layout::conversation(&conversation))? else {
        return Ok(Err(unknown()));
    };
    let from = match party_of(page, speaker, &record, &submit.from) {
        Some(from) => from,
        None => return Ok(Err(unknown())),
    };
    let to = other_party(&record, &from).expect("`party_of` found the speaker among the parties");
    Ok(Ok((from, Way::Known { conversation, to })))
}

/// Which party of a conversation the speaker is: itself, an address that it claims, or a line that it answers.
fn party_of(page: &Page<'_>, speaker: &Speaker, record: &Conversation, from: &str) -> Option<Address> {
    [&record.first, &record.second].into_iter().find_map(|party| {
        let party = Address::from_wire(party, &page.desk.policy).ok()?;
        let named = from.is_empty() || party.to_string() == from;
        (named && may_speak(page.desk, speaker, &party)).then_some(party)
    })
}

/// Whether a speaker may speak as an address of ours.
pub fn may_speak(desk: &Desk, speaker: &Speaker, address: &Address) -> bool {
    if speaker.own.as_ref() == Some(address) || speaker.claimed.contains(address) {
        return true;
    }
    let answers = |line: &crate::desk::Line| {
        line.targets
            .iter()
            .any(|t| matches!(t, crate::desk::Target::Account(a) if Some(a) == speaker.own.as_ref()))
    };
    desk.line(address).is_some_and(answers)
}

fn speaks_as(page: &Page<'_>, speaker: &Speaker, from: &str) -> Result<Address, Fault> {
    let not_allowed = || Fault::new(ErrorCode::NotAllowed, "you may not speak as that address");
    if from.is_empty() {
        let only = || (speaker.claimed.len() == 1).then(|| speaker.claimed[0].clone());
        return speaker
            .own
            .clone()
            .or_else(only)
            .ok_or_else(|| malformed("a service says which address speaks"));
    }
    let from = Address::from_wire(from, &page.desk.policy)?;
    if may_speak(page.desk, speaker, &from) { Ok(from) } else { Err(not_allowed()) }
}

/// Whether the queue that the message waits in has room: that of the hub, or, when the hub is ours, the addressee's.
fn check_room(page: &mut Page<'_>, way: &Way) -> Outcome<()> {
    let waiting = match way {
        Way::Known { conversation, to } if conversation.hub() == &page.desk.name => {
            let own = page.queue_length(conversation.hub())?;
            match Address::from_wire(to, &page.desk.policy) {
                Ok(to) => own.max(page.queue_length(to.name())?),
                Err(_) => own,
            }
        }
        Way::Known { conversation, .. } => page.queue_length(conversation.hub())?,
        Way::Unknown { .. } => *page.drafts()?,
    };
    if waiting >= page.desk.limits.queue_items {
        return Ok(Err(Fault::new(
            ErrorCode::QueueFull,
            "too many messages wait for that name; try again later",
        )));
    }
    Ok(Ok(()))
}

fn body_of(page: &Page<'_>, speaker: &Speaker, from: &Address, submit: &v1::Submit) -> v1::EventBody {
    let nonce: [u8; 16] = ahoy_proto::time::random(&*page.desk.entropy);
    v1::EventBody {
        origin: from.to_string(),
        conversation: Bytes::new(),
        kind: "message".to_owned(),
        time_ms: page.now.as_millis(),
        client_id: submit.client_id.clone(),
        device: Bytes::copy_from_slice(&speaker.device),
        nonce: Bytes::copy_from_slice(&nonce),
        content: submit.content.clone(),
        to: String::new(),
    }
}

fn send(
    page: &mut Page<'_>,
    speaker: &Speaker,
    from: &Address,
    way: Way,
    mut body: v1::EventBody,
) -> Result<(), StoreError> {
    match way {
        Way::Known { conversation, to } => queue(page, &conversation, to, &mut body),
        Way::Unknown { to } => {
            let order = page.next_draft()?;
            let draft = Draft { body: body.encode_to_vec().into(), owner: speaker.owner.clone() };
            page.put_record(layout::draft(&from.to_string(), &to.to_string(), order), &draft);
            page.woken.strangers.insert((from.clone(), to));
            Ok(())
        }
    }
}

/// Queues an event for its hub, whoever that is: our own name's queue is carried like every other.
fn queue(
    page: &mut Page<'_>,
    conversation: &ConversationId,
    to: String,
    body: &mut v1::EventBody,
) -> Result<(), StoreError> {
    let hub = conversation.hub().clone();
    body.conversation = Bytes::copy_from_slice(conversation.as_bytes());
    let recipient =
        [&to, &body.origin].into_iter().find(|a| name_of(a) == hub.as_str()).unwrap_or(&to).clone();
    body.to = to;
    page.enqueue(&hub, Queued { recipient, submit: body.encode_to_vec().into(), ..Queued::default() })
}

fn name_of(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, name)| name)
}

/// The answer about a pair of addresses is in: its waiting messages become events, or fail. Returns whether more wait.
pub fn answered(
    page: &mut Page<'_>,
    from: &Address,
    to: &Address,
    answer: &Result<ContactRecord, Fault>,
) -> Outcome<bool> {
    let pair = (from.to_string(), to.to_string());
    let rows = page.rows(&layout::drafts(&pair.0, &pair.1), DRAFTS_AT_ONCE)?;
    let mut more = rows.len() == DRAFTS_AT_ONCE;
    for (key, value) in rows {
        if page.is_full() {
            more = true;
            break;
        }
        page.delete(key.clone());
        let drafts = page.drafts()?;
        *drafts = drafts.saturating_sub(1);
        let Some(draft) = crate::page::decode::<Draft>(&key, &value) else { continue };
        let Some(mut body) = crate::page::decode::<v1::EventBody>(&key, &draft.body) else { continue };
        match answer {
            Ok(record) => match ConversationId::from_wire(&record.conversation, &page.desk.policy) {
                Ok(id) => queue(page, &id, record.canonical.clone(), &mut body)?,
                Err(_) => follow::fail(page, from, &body, &malformed("the answer names no conversation"))?,
            },
            Err(fault) => follow::fail(page, from, &body, fault)?,
        }
    }
    if let Ok(record) = answer
        && !more
    {
        page.put_record(layout::contact(&pair.0, &pair.1), record);
    }
    Ok(Ok(more))
}

/// Gives up the waiting messages of a pair of addresses that were written before `oldest`.
pub fn expire(page: &mut Page<'_>, from: &Address, to: &Address, oldest: u64, fault: &Fault) -> Outcome<()> {
    for (key, value) in page.rows(&layout::drafts(&from.to_string(), &to.to_string()), DRAFTS_AT_ONCE)? {
        let draft = crate::page::decode::<Draft>(&key, &value);
        let body = draft.and_then(|draft| crate::page::decode::<v1::EventBody>(&key, &draft.body));
        let Some(body) = body.filter(|body| body.time_ms < oldest) else { continue };
        page.delete(key);
        let drafts = page.drafts()?;
        *drafts = drafts.saturating_sub(1);
        follow::fail(page, from, &body, fault)?;
    }
    Ok(Ok(()))
}
