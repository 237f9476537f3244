//! Anchors: good ones, and one bad one for each way to break a rule.

use std::time::Duration;

use ahoy_proto::address::Local;
use ahoy_proto::anchor::{Anchor, AnchorDraft, AnchorEndpoint, AnchorLines, CONTEXT, commitment};
use ahoy_proto::base64url;
use ahoy_proto::key::SigningKey;
use serde_json::{Value, json};

use super::{DAY, NOW, breaks, key, name, ok};

const BANK: &str = "bank.example";

pub fn cases() -> Vec<Value> {
    let mut cases = good();
    cases.extend(bad_grammar());
    cases.extend(bad_endpoints());
    cases.extend(bad_for_now_or_name());
    cases
}

fn draft() -> AnchorDraft {
    AnchorDraft {
        signed_at: NOW - Duration::from_secs(60),
        endpoints: vec![AnchorEndpoint::at("hs.bank.example").expect("a host")],
        ..Default::default()
    }
}

fn full() -> AnchorDraft {
    let locals = ["sales", "support"].map(|l| Local::parse(l).expect("a local part"));
    AnchorDraft {
        expires: Some(NOW + Duration::from_secs(30 * DAY)),
        next: Some(commitment(&key(2).public())),
        endpoints: vec![
            AnchorEndpoint::at("hs.bank.example").expect("a host"),
            AnchorEndpoint::new("hs2.bank.example", 443, 20, 0).expect("a host"),
        ],
        capabilities: "mcs".into(),
        lines: Some(AnchorLines { lines: locals.into(), complete: false }),
        ..draft()
    }
}

fn signed(draft: &AnchorDraft, seed: u8) -> String {
    draft.sign(&name(BANK), &key(seed)).expect("a sound draft")
}

/// Any text before `;g=`, rightly signed: so that nothing but the named rule is broken.
fn sign_raw(signed: &str, key: &SigningKey) -> String {
    let text: String = signed.chars().filter(|c| !matches!(c, ' ' | '\t' | '"' | '\\')).collect();
    let len = u16::try_from(text.len()).expect("short");
    let name_len = u8::try_from(BANK.len()).expect("short");
    let parts = [&[name_len][..], BANK.as_bytes(), &len.to_be_bytes(), text.as_bytes()];
    format!("{signed};g={}", base64url::encode(&key.sign(CONTEXT, &parts)))
}

fn raw(fields: &str) -> String {
    let text = fields
        .replace("{k}", &key(1).public().to_base64url())
        .replace("{s}", &(NOW.as_secs() - 60).to_string());
    sign_raw(&text, &key(1))
}

fn case(what: &str, records: &[&[&str]], expect: Value) -> Value {
    json!({ "what": what, "name": BANK, "now": NOW.as_secs(), "records": records, "expect": expect })
}

fn one(what: &str, text: &str, expect: Value) -> Value {
    case(what, &[&[text]], expect)
}

fn shown(text: &str) -> Value {
    let a = Anchor::parse(text).expect("a good vector");
    json!({
        "text": a.text(),
        "key": a.key.to_base64url(),
        "signed_at": a.signed_at.as_secs(),
        "not_after": a.not_after().as_secs(),
        "next": a.next.map(|n| base64url::encode(&n)),
        "endpoints": a.endpoints.iter().map(|e| json!([e.host(), e.port(), e.priority(), e.weight()])).collect::<Vec<_>>(),
        "capabilities": a.capabilities,
        "lines": a.lines.as_ref().map(|l| l.lines.iter().map(Local::as_str).collect::<Vec<_>>()),
        "lines_complete": a.lines.as_ref().map(|l| l.complete),
    })
}

fn gives(texts: &[&str]) -> Value {
    ok(texts.iter().map(|text| shown(text)).collect())
}

fn good() -> Vec<Value> {
    let (plain, full) = (signed(&draft(), 1), signed(&full(), 1));
    let tombstone = signed(&AnchorDraft { endpoints: vec![], ..draft() }, 1);
    let extended = raw("v=ahoy1;k={k};s={s};e=hs.bank.example;zz=what+ever/it:is;q=1");
    let newer = signed(&AnchorDraft { signed_at: NOW, ..draft() }, 2);
    let oldest = signed(&AnchorDraft { signed_at: NOW - Duration::from_secs(DAY), ..draft() }, 3);
    let ahead = signed(&AnchorDraft { signed_at: NOW + Duration::from_secs(DAY), ..draft() }, 1);
    let last_day = AnchorDraft { expires: Some(NOW), ..draft() };
    let last_day = signed(&last_day, 1);
    let spaced = format!("\" {} \"", plain.replace(";e=", "\\; e=\t"));
    let (left, right) = full.split_at(150);
    vec![
        one("the shortest anchor", &plain, gives(&[&plain])),
        one("every tag", &full, gives(&[&full])),
        case("two character-strings are joined", &[&[left, right]], gives(&[&full])),
        one("quotes, backslashes, spaces and tabs that DNS forms add", &spaced, gives(&[&plain])),
        one("deliberately not in service", &tombstone, gives(&[&tombstone])),
        one("unknown lower-case tags are ignored", &extended, gives(&[&extended])),
        one("signed at most 24 hours ahead", &ahead, gives(&[&ahead])),
        one("in force up to and including x", &last_day, gives(&[&last_day])),
        case("noise beside it", &[&["v=spf1 -all"], &[&plain], &["v=ahoy10;k=x"]], gives(&[&plain])),
        case("two during a rotation, the newer first", &[&[&plain], &[&newer]], gives(&[&newer, &plain])),
        case("the newest two of three", &[&[&oldest], &[&plain], &[&newer]], gives(&[&newer, &plain])),
        case("a broken one beside a good one", &[&["v=ahoy1;k=x"], &[&plain]], gives(&[&plain])),
    ]
}

fn bad_grammar() -> Vec<Value> {
    let full = signed(&full(), 1);
    let no_signature = full.split(";g=").next().expect("has a first part").to_owned();
    let misplaced = format!("{};zz=1", signed(&draft(), 1));
    let long = raw(&format!("v=ahoy1;k={{k}};s={{s}};e=hs.bank.example;zz={}", "z".repeat(900)));
    let weak = format!("v=ahoy1;k={};s={{s}};e=.", base64url::encode(&[&[1u8][..], &[0; 31]].concat()));
    let twisted = raw("v=ahoy1;k={k};s={s};e=.").replacen(";s=", "A;s=", 1);
    let mut bad = vec![
        one("no signature", &no_signature, breaks("NAME-ANCHOR-04")),
        one("a tag after the signature", &misplaced, breaks("NAME-ANCHOR-04")),
        one("more than 1000 characters", &long, breaks("NAME-ANCHOR-02")),
        one("a letter outside ASCII", &raw("v=ahoy1;k={k};s={s};e=.;zz=é"), breaks("NAME-ANCHOR-03")),
        one("a key of small order", &raw(&weak), breaks("NAME-ANCHOR-05")),
        one("a key of 44 characters", &twisted, breaks("NAME-ANCHOR-05")),
        one("an unknown critical tag", &raw("v=ahoy1;k={k};s={s};e=.;ZZ=1"), breaks("NAME-ANCHOR-07")),
        one(
            "a tag with one upper-case letter",
            &raw("v=ahoy1;k={k};s={s};e=.;zZ=1"),
            breaks("NAME-ANCHOR-07"),
        ),
        case("no record at all", &[], breaks("NAME-ANCHOR-01")),
        case("only other records", &[&["v=spf1 -all"], &["v=ahoy2;k=x"]], breaks("NAME-ANCHOR-01")),
    ];
    for (what, fields) in [
        ("no time", "v=ahoy1;k={k};e=."),
        ("no endpoints", "v=ahoy1;k={k};s={s}"),
        ("an empty capability list", "v=ahoy1;k={k};s={s};e=.;c="),
        ("tags out of order", "v=ahoy1;k={k};e=.;s={s}"),
        ("a tag twice", "v=ahoy1;k={k};s={s};s={s};e=."),
        ("a time of 14 digits", "v=ahoy1;k={k};s=00001800000000;e=."),
        ("a signed time", "v=ahoy1;k={k};s=+1800000000;e=."),
        ("a commitment of 21 characters", "v=ahoy1;k={k};s={s};n=AAAAAAAAAAAAAAAAAAAAA;e=."),
        ("a commitment with stray bits", "v=ahoy1;k={k};s={s};n=AAAAAAAAAAAAAAAAAAAAAB;e=."),
        ("a capability that is no letter", "v=ahoy1;k={k};s={s};e=.;c=m1"),
        ("17 capabilities", "v=ahoy1;k={k};s={s};e=.;c=abcdefghijklmnopq"),
        ("an upper-case line", "v=ahoy1;k={k};s={s};e=.;l=Sales"),
        ("17 lines", "v=ahoy1;k={k};s={s};e=.;l=a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"),
        ("an extension of three letters", "v=ahoy1;k={k};s={s};e=.;abc=1"),
        ("an extension without a value sign", "v=ahoy1;k={k};s={s};e=.;ab"),
    ] {
        bad.push(one(what, &raw(fields), breaks("NAME-ANCHOR-04")));
    }
    bad
}

fn bad_endpoints() -> Vec<Value> {
    let endpoints = [
        ("five endpoints", "a.b,a.b,a.b,a.b,a.b"),
        ("a host of one label", "localhost"),
        ("an IPv4 address", "192.0.2.1"),
        ("an upper-case host", "HS.bank.example"),
        ("an underscore in a host", "_hs.bank.example"),
        ("a hyphen at the edge of a label", "hs-.bank.example"),
        ("port 0", "hs.bank.example:0"),
        ("port 65536", "hs.bank.example:65536"),
        ("a leading zero", "hs.bank.example:0443"),
        ("three numbers and one more", "hs.bank.example:1/2/3/4"),
        ("a tombstone beside an endpoint", ".,hs.bank.example"),
    ];
    let case = |(what, e): &(&str, &str)| {
        one(what, &raw(&format!("v=ahoy1;k={{k}};s={{s}};e={e}")), breaks("NAME-ANCHOR-06"))
    };
    endpoints.iter().map(case).collect()
}

fn bad_for_now_or_name() -> Vec<Value> {
    let ago = |days: u64| NOW - Duration::from_secs(days * DAY);
    let other = draft().sign(&name("shop.example"), &key(1)).expect("a sound draft");
    let changed = signed(&draft(), 1).replace("hs.bank", "hx.bank");
    let stranger =
        signed(&draft(), 1).replace(&key(1).public().to_base64url(), &key(2).public().to_base64url());
    let ahead = AnchorDraft { signed_at: NOW + Duration::from_secs(DAY + 1), ..draft() };
    let expired = AnchorDraft { expires: Some(NOW - Duration::from_secs(1)), ..draft() };
    let old = AnchorDraft { signed_at: ago(400) - Duration::from_secs(1), ..draft() };
    vec![
        one("signed for another name", &other, breaks("NAME-ANCHOR-08")),
        one("one character changed", &changed, breaks("NAME-ANCHOR-08")),
        one("another key put in", &stranger, breaks("NAME-ANCHOR-08")),
        one("signed more than 24 hours ahead", &signed(&ahead, 1), breaks("NAME-ANCHOR-09")),
        one("past x", &signed(&expired, 1), breaks("NAME-ANCHOR-10")),
        one("past 400 days without x", &signed(&old, 1), breaks("NAME-ANCHOR-10")),
    ]
}
