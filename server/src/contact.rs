//! Decides the first stranger's question, on both sides: what an address is, and where its conversation lives.

use ahoy_proto::address::Address;
use ahoy_proto::conversation::ConversationId;
use ahoy_proto::fault::Fault;
use ahoy_proto::v1::{self, AddressKind, ErrorCode};

use crate::desk::Desk;
use crate::directory::{self, Shelf, not_reachable};
use crate::ledger::Outcome;
use crate::record::ContactRecord;

/// Answers for an address of ours. `from_is_line`: the asking address is a line of its name's card. `[CONV-HUB-03]`
pub fn answer(
    desk: &Desk,
    shelf: &impl Shelf,
    from: &Address,
    from_is_line: bool,
    to: &Address,
) -> Outcome<v1::ContactAnswer> {
    let Some(kind) = directory::kind_of(desk, shelf, to)? else { return Ok(Err(not_reachable(to))) };
    let admitted = directory::admits(desk, shelf, from, to)?;
    if from == to || !admitted || directory::owners(desk, shelf, to)?.is_empty() {
        return Ok(Err(not_reachable(to)));
    }
    let id = conversation_of(from, from_is_line, to, kind == AddressKind::Line);
    Ok(Ok(v1::ContactAnswer {
        kind: kind.into(),
        hub: id.hub().to_string(),
        conversation: id.to_bytes(),
        canonical: to.to_string(),
    }))
}

/// The conversation of two addresses: a line's with a person lives at the line's name. `[CONV-ID-02]`
pub fn conversation_of(from: &Address, from_is_line: bool, to: &Address, to_is_line: bool) -> ConversationId {
    match (from_is_line, to_is_line) {
        (false, true) => ConversationId::line(to, from),
        (true, false) => ConversationId::line(from, to),
        (true, true) | (false, false) => ConversationId::direct(from, to),
    }
}

/// Checks an answer against what it must be: the id follows from the two addresses and their kinds.
pub fn check(
    desk: &Desk,
    from: &Address,
    to: &Address,
    answer: &v1::ContactAnswer,
) -> Result<ContactRecord, Fault> {
    let wrong = |what: &str| Fault::new(ErrorCode::Malformed, format!("{} answered with {what}", to.name()));
    let canonical = Address::from_wire(&answer.canonical, &desk.policy).map_err(|_| wrong("no address"))?;
    if canonical.name() != to.name() {
        return Err(wrong("an address of another name"));
    }
    let is_line = match answer.kind() {
        AddressKind::Line => true,
        AddressKind::Person => false,
        AddressKind::Unspecified => return Err(wrong("an unknown kind of address")),
    };
    let id = conversation_of(from, desk.line(from).is_some(), &canonical, is_line);
    if id.as_bytes() != &answer.conversation[..] || id.hub().as_str() != answer.hub {
        return Err(wrong("another conversation than that of the two addresses"));
    }
    Ok(ContactRecord { conversation: id.to_bytes(), canonical: canonical.to_string(), kind: answer.kind })
}
