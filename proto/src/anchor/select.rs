//! Decides which of the TXT records at an owner count.

use bytes::Bytes;

use super::{Anchor, AnchorError};
use crate::limit;
use crate::name::Name;
use crate::time::Timestamp;

/// The anchors of `name` in force at `now`, newest first: one, or two during a rotation.
///
/// `records` are the TXT records of one answer, each as its character-strings. Records that are not anchors are
/// noise; of more than two usable ones the two with the highest `s` count. `[NAME-ANCHOR-11]` `[NAME-ANCHOR-12]`
///
/// # Errors
/// [`AnchorError::None`] when all is noise, else why the first record that wants to be an anchor is not usable.
pub fn select(name: &Name, records: &[Vec<Bytes>], now: Timestamp) -> Result<Vec<Anchor>, AnchorError> {
    let mut refusal = None;
    let mut refuse = |e| _ = refusal.get_or_insert(e);
    let mut anchors = Vec::new();
    for record in records {
        match read(record) {
            Ok(anchor) => anchors.push(anchor),
            Err(AnchorError::NotAnAnchor) => {}
            Err(e) => refuse(e),
        }
    }
    anchors.sort_by(|a, b| b.signed_at.cmp(&a.signed_at).then_with(|| a.text.cmp(&b.text)));
    anchors.dedup();
    let mut usable = Vec::new();
    for anchor in anchors.into_iter().take(limit::ANCHOR_CANDIDATES) {
        match anchor.verify(name, now) {
            Ok(()) => usable.push(anchor),
            Err(e) => refuse(e),
        }
        if usable.len() == 2 {
            break;
        }
    }
    if usable.is_empty() { Err(refusal.unwrap_or(AnchorError::None)) } else { Ok(usable) }
}

/// Joins the character-strings of one record.
fn read(strings: &[Bytes]) -> Result<Anchor, AnchorError> {
    let joined = strings.concat();
    // A byte outside ASCII becomes a character outside it, which the reader refuses as what it is.
    Anchor::parse(&String::from_utf8_lossy(&joined))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anchor::{AnchorDraft, AnchorEndpoint};
    use crate::key::SigningKey;
    use crate::name::NamePolicy;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn bank() -> Name {
        Name::parse("bank.example", &NamePolicy::allowing(["example"])).expect("a name")
    }

    fn signed(seed: u8, ago_s: u64) -> String {
        let draft = AnchorDraft {
            signed_at: NOW - std::time::Duration::from_secs(ago_s),
            endpoints: vec![AnchorEndpoint::at("hs.bank.example").expect("a host")],
            ..Default::default()
        };
        draft.sign(&bank(), &SigningKey::from_seed([seed; 32])).expect("a sound draft")
    }

    fn record(text: &str) -> Vec<Bytes> {
        text.as_bytes().chunks(100).map(Bytes::copy_from_slice).collect()
    }

    #[test]
    fn takes_the_two_newest_and_ignores_noise() {
        let records: Vec<_> =
            ["v=spf1 -all", "", "v=ahoy10;x=y", &signed(1, 30), &signed(2, 10), &signed(3, 20)]
                .map(record)
                .into();
        let got = select(&bank(), &records, NOW).expect("three usable");
        let times: Vec<_> = got.iter().map(|a| NOW.since(a.signed_at).as_secs()).collect();
        assert_eq!(times, [10, 20]);
    }

    #[test]
    fn one_usable_record_beside_broken_ones_is_enough() {
        let broken = signed(1, 5).replace("hs.bank", "hx.bank");
        let records = [record(&broken), record("v=ahoy1;nonsense"), record(&signed(1, 10))];
        assert_eq!(select(&bank(), &records, NOW).map(|a| a.len()), Ok(1));
        assert_eq!(select(&bank(), &records[..1], NOW), Err(AnchorError::Signature));
    }

    #[test]
    fn only_noise_is_no_record() {
        assert_eq!(select(&bank(), &[record("hello"), vec![]], NOW), Err(AnchorError::None));
        assert_eq!(select(&bank(), &[], NOW), Err(AnchorError::None));
    }

    #[test]
    fn an_anchor_of_another_name_is_refused() {
        let other = Name::parse("shop.example", &NamePolicy::allowing(["example"])).expect("a name");
        assert_eq!(select(&other, &[record(&signed(1, 10))], NOW), Err(AnchorError::Signature));
    }
}
