//! Decides how an anchor is written: the shortest text that the grammar has for what it says.

use super::{Anchor, AnchorEndpoint, AnchorError, AnchorLines, CONTEXT, lengths};
use crate::base64url;
use crate::key::SigningKey;
use crate::name::Name;
use crate::time::Timestamp;

/// What an anchor will say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnchorDraft {
    /// `s`: now; must be later than that of the key's anchors so far. Whole seconds count.
    pub signed_at: Timestamp,
    /// `x`: the end of its life; `None` = 400 days. Automated publishers re-sign with 30 days.
    pub expires: Option<Timestamp>,
    /// `n`: [`super::commitment`] to the next key.
    pub next: Option<[u8; 16]>,
    /// `e`: one to four; none = deliberately not in service.
    pub endpoints: Vec<AnchorEndpoint>,
    /// `c`: letters, at most 16; empty = not said.
    pub capabilities: String,
    /// `l`: lines to show before the card is read.
    pub lines: Option<AnchorLines>,
}

impl AnchorDraft {
    /// The one-line value to publish at `_ahoy.<name>`.
    ///
    /// # Errors
    /// The rule that the draft would break, for example [`AnchorError::TooLong`].
    pub fn sign(&self, name: &Name, key: &SigningKey) -> Result<String, AnchorError> {
        let signed = self.signed_text(key);
        if signed.len() > crate::limit::ANCHOR_CHARS {
            return Err(AnchorError::TooLong);
        }
        let (name_len, text_len) = lengths(name, &signed);
        let parts = [&[name_len][..], name.as_str().as_bytes(), &text_len, signed.as_bytes()];
        let text = format!("{signed};g={}", base64url::encode(&key.sign(CONTEXT, &parts)));
        // What is published has passed the reader's rules.
        Anchor::parse(&text).map(|_| text)
    }

    fn signed_text(&self, key: &SigningKey) -> String {
        let mut text = format!("v=ahoy1;k={};s={}", key.public(), self.signed_at.as_secs());
        let mut add = |tag: &str, value: &str| text.extend([";", tag, "=", value]);
        if let Some(expires) = self.expires {
            add("x", &expires.as_secs().to_string());
        }
        if let Some(next) = &self.next {
            add("n", &base64url::encode(next));
        }
        let endpoints: Vec<_> = self.endpoints.iter().map(AnchorEndpoint::to_string).collect();
        add("e", if endpoints.is_empty() { ".".into() } else { endpoints.join(",") }.as_str());
        if !self.capabilities.is_empty() {
            add("c", &self.capabilities);
        }
        if let Some(AnchorLines { lines, complete }) = &self.lines {
            let locals: Vec<_> = lines.iter().map(|l| l.as_str()).collect();
            add("l", &(locals.join(",") + if *complete { "" } else { "+" }));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Local;
    use crate::name::NamePolicy;
    use proptest::prelude::*;

    fn bank() -> Name {
        Name::parse("bank.example", &NamePolicy::allowing(["example"])).expect("a name")
    }

    fn endpoints() -> impl Strategy<Value = Vec<AnchorEndpoint>> {
        let port = prop_oneof![Just(2469u16), 1..=u16::MAX];
        let rank = || prop_oneof![Just(10u16), any::<u16>()];
        let endpoint = ("[a-z0-9]{1,20}\\.[a-z]{2,9}", port, rank(), rank())
            .prop_map(|(host, port, p, w)| AnchorEndpoint::new(&host, port, p, w).expect("a host"));
        proptest::collection::vec(endpoint, 0..=4)
    }

    fn drafts() -> impl Strategy<Value = AnchorDraft> {
        let lines = proptest::collection::vec("[a-z0-9]([a-z0-9._+-]{0,6}[a-z0-9])?", 1..=16);
        let expires = proptest::option::of(0..9_999_999_999_999u64);
        (
            0..9_999_999_999_999u64,
            expires,
            any::<Option<[u8; 16]>>(),
            endpoints(),
            "[a-zA-Z]{0,16}",
            proptest::option::of((lines, any::<bool>())),
        )
            .prop_map(|(s, x, next, endpoints, capabilities, lines)| AnchorDraft {
                signed_at: Timestamp::from_secs(s),
                expires: x.map(Timestamp::from_secs),
                next,
                endpoints,
                capabilities,
                lines: lines.map(|(lines, complete)| AnchorLines {
                    lines: lines.iter().map(|l| Local::from_wire(l).expect("matches")).collect(),
                    complete,
                }),
            })
    }

    proptest! {
        #[test]
        fn what_is_signed_is_read_back_and_verifies(draft in drafts(), spaces in 0..200usize) {
            let key = SigningKey::from_seed([5; 32]);
            let text = draft.sign(&bank(), &key)?;
            let mut spoiled = format!("\"{text}\"");
            spoiled.insert_str(spaces % text.len() + 1, "\" \t \"");
            let anchor = Anchor::parse(&spoiled)?;
            prop_assert_eq!(anchor.text(), &text);
            prop_assert_eq!(anchor.verify_signature(&bank()), Ok(()));
            let read = AnchorDraft {
                signed_at: anchor.signed_at,
                expires: anchor.expires,
                next: anchor.next,
                endpoints: anchor.endpoints,
                capabilities: anchor.capabilities.unwrap_or_default(),
                lines: anchor.lines,
            };
            prop_assert_eq!(anchor.key, key.public());
            prop_assert_eq!(read, draft);
        }
    }

    #[test]
    fn a_draft_that_breaks_a_rule_is_not_signed() {
        let key = SigningKey::from_seed([5; 32]);
        let host = format!("{}.{}.{}.example", "a".repeat(63), "b".repeat(63), "c".repeat(63));
        let endpoint = AnchorEndpoint::at(&host).expect("a long host");
        let four = AnchorDraft { endpoints: vec![endpoint.clone(); 4], ..Default::default() };
        let locals = (0..16).map(|i| Local::parse(&format!("{}{i}", "l".repeat(60))).expect("a local"));
        let lines = Some(AnchorLines { lines: locals.collect(), complete: true });
        assert_eq!(AnchorDraft { lines, ..four }.sign(&bank(), &key), Err(AnchorError::TooLong));
        let five = AnchorDraft {
            endpoints: vec![AnchorEndpoint::at("a.example").expect("a host"); 5],
            ..Default::default()
        };
        assert_eq!(five.sign(&bank(), &key), Err(AnchorError::Endpoint));
        let odd = AnchorDraft { capabilities: "m;k".into(), ..Default::default() };
        assert!(odd.sign(&bank(), &key).is_err());
    }

    #[test]
    fn an_usual_anchor_fits_one_character_string() {
        let draft = AnchorDraft {
            signed_at: Timestamp::from_secs(1_800_000_000),
            expires: Some(Timestamp::from_secs(1_802_592_000)),
            next: Some([3; 16]),
            endpoints: vec![AnchorEndpoint::at("hs.bank.example").expect("a host")],
            capabilities: "mcs".into(),
            lines: Some(AnchorLines {
                lines: vec![Local::parse("support").expect("a local")],
                complete: true,
            }),
        };
        let text = draft.sign(&bank(), &SigningKey::from_seed([5; 32])).expect("a sound draft");
        assert!((200..=255).contains(&text.len()), "{} characters", text.len());
    }
}
