//! Decides what the fuzz targets do with a stranger's bytes. Each takes any bytes and must not panic; what is read
//! must be written as it was read. `proto/fuzz` runs them under libFuzzer, `tests/mutation.rs` on stable.

use bytes::Bytes;

use crate::address::Address;
use crate::anchor::{self, Anchor};
use crate::attestation::{Context, RootCache, verify_by};
use crate::call::{Branch, HopBuffer};
use crate::card::verify_card;
use crate::conversation::ConversationId;
use crate::event::EventBody;
use crate::fault::Fault;
use crate::frame::{self, FrameDecoder};
use crate::key::PublicKey;
use crate::limit;
use crate::name::{Name, NamePolicy};
use crate::placement::PlacementBody;
use crate::session::{Authenticated, Binding, HelloAwaited, ServerTerms};
use crate::time::Timestamp;
use crate::v1;
use prost::Message as _;

fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

/// The server's half of a handshake: a hello, then a proof, which cannot be good for a transcript with our nonce.
pub fn session(data: &[u8]) {
    let mut input = Bytes::copy_from_slice(data);
    let mut decoder = FrameDecoder::new(limit::HANDSHAKE_BYTES);
    let mut next = || decoder.decode(&mut input).ok().flatten();
    let Some(Ok(met)) = next().map(|payload| HelloAwaited::new(policy()).receive(payload)) else { return };
    let answer = met.answer(ServerTerms::default(), [0; 32], Timestamp::ZERO);
    if let (Ok((awaited, _)), Some(payload)) = (answer, next()) {
        let auth = awaited.receive(payload, &Binding::Spki([0; 32])).map(Authenticated::into_auth);
        assert!(!matches!(auth, Ok(v1::auth::Auth::Device(_) | v1::auth::Auth::Service(_))));
    }
}

/// Text as typed and as on the wire: what is accepted has one form.
pub fn address(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(address) = Address::parse(&text, &policy()) {
        let wire = address.to_string();
        assert_eq!(Address::from_wire(&wire, &policy()), Ok(address.clone()));
        assert!(!address.to_display().is_empty());
    }
    if let Ok(address) = Address::from_wire(&text, &policy()) {
        assert_eq!(address.to_string(), text);
    }
    _ = Name::from_wire(&text, &policy());
    if let Ok(id) = ConversationId::from_wire(data, &policy()) {
        assert_eq!(id.as_bytes(), data);
    }
}

/// One record in strings of up to 255 bytes, chosen among others.
pub fn anchor(data: &[u8]) {
    let Ok(name) = Name::from_wire("bank.example", &policy()) else { return };
    let text = String::from_utf8_lossy(data);
    if let Ok(anchor) = Anchor::parse(&text) {
        assert_eq!(Anchor::parse(anchor.text()), Ok(anchor.clone()));
    }
    let strings = |record: &[u8]| record.chunks(255).map(Bytes::copy_from_slice).collect();
    let records: Vec<Vec<Bytes>> = data.split(|b| *b == b'\n').map(strings).collect();
    if let Ok(anchors) = anchor::select(&name, &records, Timestamp::from_secs(1_800_000_000)) {
        assert!((1..=2).contains(&anchors.len()));
    }
}

/// A `Signed` with a card in it, against a fixed anchor whose key signs nothing here.
pub fn card(data: &[u8]) {
    let Ok(signed) = v1::Signed::decode(Bytes::copy_from_slice(data)) else { return };
    let anchor = v1::Card::decode(signed.body.clone()).ok().and_then(|card| Anchor::parse(&card.anchor).ok());
    let name = Name::from_wire("bank.example", &policy());
    if let (Some(anchor), Ok(name)) = (anchor, name)
        && let Ok(card) = verify_card(&signed, &name, &anchor, Timestamp::from_secs(1_800_000_000))
    {
        assert!(card.is_in_force(Timestamp::from_secs(1_800_000_000)) && !card.tls_spki.is_empty());
    }
}

/// A stream of frames in pieces whose size the first byte gives: cut as in one piece, and written as it was read.
pub fn frame(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else { return };
    let limit = 4096;
    let whole = cut(stream, stream.len().max(1), limit);
    assert_eq!(whole, cut(stream, usize::from(*piece).max(1), limit));
    for payload in whole.0 {
        assert!(payload.len() <= limit);
        _ = HelloAwaited::new(policy()).receive(payload.clone());
        if let Ok(control) = v1::ControlFrame::decode(payload.clone()) {
            let mut again = frame::encode(&control);
            let read = FrameDecoder::new(limit * 4).decode_message::<v1::ControlFrame>(&mut again);
            assert!(matches!(read, Ok(Some(_))));
            if let Some(v1::control_frame::Frame::Error(error)) = control.frame {
                _ = Fault::from(error).to_string();
            }
        }
        if let Ok(call) = v1::CallFrame::decode(payload)
            && let Ok(Some(message)) = HopBuffer::new().receive(call)
        {
            _ = Branch::new().handle_callee(&message);
            _ = Branch::new().handle_caller(&message);
        }
    }
}

fn cut(stream: &[u8], piece: usize, limit: usize) -> (Vec<Bytes>, bool) {
    let (mut decoder, mut frames) = (FrameDecoder::new(limit), Vec::new());
    for chunk in stream.chunks(piece) {
        let mut chunk = Bytes::copy_from_slice(chunk);
        loop {
            match decoder.decode(&mut chunk) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, decoder.finish().is_ok())
}

/// An event or a placement with its attestation.
pub fn event(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    if let Ok(event) = EventBody::decode(&data, &policy()) {
        assert_eq!(EventBody::decode(&event.encode(), &policy()).as_ref(), Ok(&event));
    }
    if let Ok(placement) = PlacementBody::decode(&data, &policy()) {
        assert_eq!(PlacementBody::decode(&placement.encode(), &policy()).as_ref(), Ok(&placement));
    }
    let Ok(event) = v1::Event::decode(data) else { return };
    _ = EventBody::decode(&event.body, &policy());
    if let Some(proof) = event.attestation
        && let Ok(key) = PublicKey::from_bytes(&proof.key)
    {
        _ = verify_by(&event.body, &proof, Context::Events, &key, &mut RootCache::new(1));
    }
}
