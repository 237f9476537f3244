//! Both halves against each other, without a socket.

use proptest::prelude::*;

use super::*;
use crate::limit;
use crate::name::NamePolicy;
use crate::time::{Entropy, Timestamp};
use crate::v1::{Ready, Signed, Want, auth};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const SPKI: Binding = Binding::Spki([5; 32]);

/// Counts up, so that no two nonces are the same.
#[derive(Default)]
struct Counter(std::sync::atomic::AtomicU8);

impl Entropy for Counter {
    fn fill(&self, out: &mut [u8]) {
        out.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    }
}

fn policy() -> NamePolicy {
    NamePolicy::allowing(["example"])
}

fn name(text: &str) -> Name {
    Name::parse(text, &policy()).expect("a name")
}

fn payload(frame: &Bytes) -> Bytes {
    let mut frame = frame.clone();
    frame::FrameDecoder::default().decode(&mut frame).expect("a frame").expect("whole")
}

fn device() -> DeviceCredentials {
    DeviceCredentials {
        account: Address::parse("ann@home.example", &policy()).expect("an address"),
        key: SigningKey::from_seed([1; 32]),
        enrol: None,
    }
}

fn service() -> ServiceCredentials {
    ServiceCredentials {
        service: Local::parse("bridge").expect("a local part"),
        key: SigningKey::from_seed([2; 32]),
        enrol: Some(Enrol { invite: "token".into(), label: "bridge".into() }),
        addresses: vec![Address::parse("support@home.example", &policy()).expect("an address")],
        calls: true,
        messages: false,
    }
}

/// Both sides up to where the client may prove itself; `nonce` is the server's.
fn meet(role: Role, nonce: u8) -> (ServerMet, AuthAwaited) {
    let (sent, hello) = HelloSent::new(Hello::new(role, name("home.example")), &Counter::default());
    let met = HelloAwaited::new(policy()).receive(payload(&hello)).expect("a good hello");
    let terms = ServerTerms { card: Signed::default(), ..Default::default() };
    let (awaited, answer) = met.answer(terms, [nonce; 32], NOW).expect("a small card");
    (sent.receive(payload(&answer), NOW).expect("a good answer"), awaited)
}

fn prove(client: ServerMet, binding: &Binding) -> Bytes {
    payload(&client.prove_device(&device(), binding).expect("the announced role").1)
}

#[test]
fn a_device_is_authenticated_and_made_ready() {
    let (client, server) = meet(Role::Device, 9);
    let (sent, proof) = client.prove_device(&device(), &SPKI).expect("the announced role");
    let authenticated = server.receive(payload(&proof), &SPKI).expect("a good proof");
    assert!(matches!(authenticated.auth(), auth::Auth::Device(d) if d.account == "ann@home.example"));
    let ready = Ready { sync_head: 7, ..Default::default() };
    assert_eq!(sent.receive(payload(&Authenticated::ready(ready.clone()))), Ok(ready));
}

#[test]
fn a_service_is_authenticated_under_its_own_context() {
    let (client, server) = meet(Role::Service, 9);
    let (_, proof) = client.prove_service(&service(), &SPKI).expect("the announced role");
    assert!(server.receive(payload(&proof), &SPKI).is_ok());
}

#[test]
fn a_proof_from_another_handshake_is_refused() {
    let (client, _) = meet(Role::Device, 9);
    let (_, server) = meet(Role::Device, 10);
    assert_eq!(server.receive(prove(client, &SPKI), &SPKI).unwrap_err(), SessionError::BadProof);
}

#[test]
fn a_proof_for_another_tls_key_or_kind_of_binding_is_refused() {
    for other in [Binding::Spki([6; 32]), Binding::WebOrigin("https://home.example".into())] {
        let (client, server) = meet(Role::Device, 9);
        assert_eq!(server.receive(prove(client, &other), &SPKI).unwrap_err(), SessionError::BadProof);
    }
}

#[test]
fn an_auth_of_another_role_than_announced_is_refused_by_both_halves() {
    let (client, _) = meet(Role::Service, 9);
    assert!(matches!(client.prove_device(&device(), &SPKI), Err(SessionError::OutOfOrder(_))));
    let (client, _) = meet(Role::Device, 9);
    let (_, server) = meet(Role::Service, 9);
    assert!(matches!(server.receive(prove(client, &SPKI), &SPKI), Err(SessionError::OutOfOrder(_))));
}

#[test]
fn an_account_of_another_name_is_refused() {
    let (client, server) = meet(Role::Device, 9);
    let mut foreign = device();
    foreign.account = Address::parse("ann@bank.example", &policy()).expect("an address");
    let (_, proof) = client.prove_device(&foreign, &SPKI).expect("the announced role");
    assert!(matches!(server.receive(payload(&proof), &SPKI), Err(SessionError::Malformed(_))));
}

#[test]
fn nothing_but_a_hello_opens_a_session() {
    let want = control(Frame::Want(Want { name: "home.example".into() }));
    let refused = HelloAwaited::new(policy()).receive(payload(&want));
    assert_eq!(refused.unwrap_err(), SessionError::OutOfOrder("Want"));
}

#[test]
fn a_refusal_reaches_the_client_as_it_was_said() {
    let fault = Fault::new(ErrorCode::NameNotServed, "no such name here");
    let (sent, _) = HelloSent::new(Hello::new(Role::Device, name("home.example")), &Counter::default());
    let refused = sent.receive(payload(&refusal(&fault)), NOW).unwrap_err();
    assert_eq!(refused.fault(), fault);
}

#[test]
fn clocks_that_differ_by_more_than_ten_minutes_are_named() {
    let (sent, hello) = HelloSent::new(Hello::new(Role::Device, name("home.example")), &Counter::default());
    let met = HelloAwaited::new(policy()).receive(payload(&hello)).expect("a good hello");
    let late = NOW + limit::CLOCK_SKEW + std::time::Duration::from_secs(1);
    let (_, answer) = met.answer(ServerTerms::default(), [9; 32], late).expect("a small card");
    assert_eq!(sent.receive(payload(&answer), NOW).unwrap_err(), SessionError::ClockSkew(601));
}

#[test]
fn a_version_from_the_future_alone_is_refused_and_beside_ours_accepted() {
    for (versions, accepted) in [(vec![2], false), (vec![1, 2], true)] {
        let (_, hello) = HelloSent::new(Hello::new(Role::Device, name("home.example")), &Counter::default());
        let Ok(Frame::ClientHello(mut hello)) = read(payload(&hello)) else { panic!("a hello") };
        hello.versions = versions;
        let got = HelloAwaited::new(policy()).receive(payload(&control(Frame::ClientHello(hello))));
        assert_eq!(got.is_ok(), accepted);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_never_authenticate(data: Vec<u8>) {
        crate::fuzz::session(&data);
    }

    #[test]
    fn a_proof_with_any_bit_flipped_is_refused(bit in 0..64usize * 8) {
        let (client, server) = meet(Role::Device, 9);
        let Ok(Frame::Auth(mut auth)) = read(prove(client, &SPKI)) else { panic!("an Auth") };
        let Some(auth::Auth::Device(device)) = &mut auth.auth else { panic!("a device") };
        let mut signature = device.signature.to_vec();
        signature[bit / 8] ^= 1 << (bit % 8);
        device.signature = signature.into();
        let refused = server.receive(payload(&control(Frame::Auth(auth))), &SPKI);
        prop_assert_eq!(refused.unwrap_err(), SessionError::BadProof);
    }
}
