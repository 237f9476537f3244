//! The handshake's proofs: which bytes a device or service signs, computed here from the words of the spec alone.

use ahoy_proto::frame;
use ahoy_proto::v1::control_frame::Frame;
use ahoy_proto::v1::{ClientHello, ControlFrame, Role, ServerHello, Signed};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{NOW, breaks, hex, key, ok};

const SPKI_KIND: u8 = 1;
const WEB_ORIGIN_KIND: u8 = 2;

/// What is signed, and what the server checks it against.
#[derive(Clone)]
struct Proof {
    client_hello: Bytes,
    server_hello: Bytes,
    context: &'static str,
    account: String,
    server_name: String,
    kind: u8,
    binding: Vec<u8>,
}

pub fn cases() -> Vec<Value> {
    let device = proof();
    let service = Proof { context: "ahoy-service-v1", account: "bridge/bank.example".into(), ..proof() };
    let browser = Proof { kind: WEB_ORIGIN_KIND, binding: b"https://app.bank.example".into(), ..proof() };
    let mut cases = vec![
        good("a device's proof, bound to the TLS key", &device),
        good("a service's proof", &service),
        good("a browser's proof, bound to its page's origin", &browser),
    ];
    let relayed = Proof { binding: vec![8; 32], ..proof() };
    let other_name = Proof { server_name: "shop.example".into(), ..proof() };
    let other_account = Proof { account: "bob@bank.example".into(), ..proof() };
    let replayed = Proof { server_hello: hellos(6).1, ..proof() };
    let moved = Proof { kind: WEB_ORIGIN_KIND, ..proof() };
    for (what, rule, signed, shown) in [
        ("the proof was made for another TLS key", "WIRE-AUTH-05", &relayed, &device),
        ("the proof was made for another kind of binding", "WIRE-AUTH-05", &moved, &device),
        ("the proof was made for another server name", "WIRE-AUTH-03", &other_name, &device),
        ("the proof was made for another account", "WIRE-AUTH-03", &other_account, &device),
        ("a device's proof shown as a service's", "WIRE-AUTH-03", &device, &service),
        ("the proof was made in another handshake", "WIRE-AUTH-04", &replayed, &device),
    ] {
        cases.push(case(what, shown, &sign(signed), breaks(rule)));
    }
    let mut cut = sign(&device);
    cut.pop();
    cases.push(case("a signature of 63 bytes", &device, &cut, breaks("WIRE-AUTH-03")));
    cases
}

/// Both hello frames as sent, length prefixes included.
fn hellos(nonce: u8) -> (Bytes, Bytes) {
    let client = ClientHello {
        versions: vec![1],
        role: Role::Device.into(),
        wanted_name: "bank.example".into(),
        nonce: Bytes::from_static(&[4; 32]),
        ..Default::default()
    };
    let server = ServerHello {
        card: Some(Signed::default()),
        version: 1,
        time_ms: NOW.as_millis(),
        nonce: Bytes::copy_from_slice(&[nonce; 32]),
        ..Default::default()
    };
    let encode = |f| frame::encode(&ControlFrame { frame: Some(f) });
    (encode(Frame::ClientHello(client)), encode(Frame::ServerHello(server)))
}

fn proof() -> Proof {
    let (client_hello, server_hello) = hellos(5);
    Proof {
        client_hello,
        server_hello,
        context: "ahoy-device-v1",
        account: "ann@bank.example".into(),
        server_name: "bank.example".into(),
        kind: SPKI_KIND,
        binding: vec![9; 32],
    }
}

fn transcript(proof: &Proof) -> [u8; 32] {
    Sha256::new().chain_update(&proof.client_hello).chain_update(&proof.server_hello).finalize().into()
}

fn message(proof: &Proof) -> Vec<u8> {
    let prefixed = |out: &mut Vec<u8>, field: &[u8]| {
        out.extend_from_slice(&u16::try_from(field.len()).expect("short").to_be_bytes());
        out.extend_from_slice(field);
    };
    let mut out = transcript(proof).to_vec();
    prefixed(&mut out, proof.account.as_bytes());
    out.extend_from_slice(key(2).public().as_bytes());
    prefixed(&mut out, proof.server_name.as_bytes());
    out.push(proof.kind);
    prefixed(&mut out, &proof.binding);
    out
}

fn sign(proof: &Proof) -> Vec<u8> {
    key(2).sign(proof.context, &[&message(proof)]).to_vec()
}

fn good(what: &str, proof: &Proof) -> Value {
    let signed = [proof.context.as_bytes(), &[0], &message(proof)].concat();
    case(
        what,
        proof,
        &sign(proof),
        ok(json!({ "transcript": hex(&transcript(proof)), "signed": hex(&signed) })),
    )
}

fn case(what: &str, proof: &Proof, signature: &[u8], expect: Value) -> Value {
    json!({
        "what": what,
        "client_hello": hex(&proof.client_hello),
        "server_hello": hex(&proof.server_hello),
        "context": proof.context,
        "account": proof.account,
        "key": hex(key(2).public().as_bytes()),
        "server_name": proof.server_name,
        "binding_kind": proof.kind,
        "binding": hex(&proof.binding),
        "signature": hex(signature),
        "expect": expect,
    })
}
