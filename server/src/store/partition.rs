//! How partitions are laid out in one flat, ordered key space.
//!
//! A row's key is `escaped class, 00 01, escaped id, 00 01, key`, where escaping writes `00` as `00 FF`. The order of
//! ids and keys is kept, no partition's prefix is the prefix of another's, and any bytes may be an id.

use std::fmt;
use std::sync::Arc;

const END: [u8; 2] = [0, 1];

/// A partition: a class ("account", "outbox") and the id of the thing that it belongs to. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    prefix: Arc<[u8]>,
}

impl Partition {
    /// The partition `id` of `class`. Any text and any bytes are allowed.
    pub fn new(class: &str, id: impl AsRef<[u8]>) -> Self {
        let id = id.as_ref();
        let mut prefix = Vec::with_capacity(class.len() + id.len() + 2 * END.len());
        push(&mut prefix, class.as_bytes());
        push(&mut prefix, id);
        Self { prefix: prefix.into() }
    }

    /// Its class.
    pub fn class(&self) -> String {
        let (class, _) = pull(&self.prefix).expect("the prefix was built by `new`");
        String::from_utf8(class).expect("the class was text in `new`")
    }

    /// Its id.
    pub fn id(&self) -> Vec<u8> {
        let (_, rest) = pull(&self.prefix).expect("the prefix was built by `new`");
        pull(rest).expect("the prefix was built by `new`").0
    }

    /// What the flat keys of its rows begin with.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The flat key of `key`.
    pub(super) fn flat(&self, key: &[u8]) -> Vec<u8> {
        let mut flat = Vec::with_capacity(self.prefix.len() + key.len());
        flat.extend_from_slice(&self.prefix);
        flat.extend_from_slice(key);
        flat
    }

    /// The partition that a flat key belongs to, or `None` when no store of ours wrote it.
    pub(super) fn of_flat(flat: &[u8]) -> Option<Self> {
        let (class, rest) = pull(flat)?;
        let (_, key) = pull(rest)?;
        String::from_utf8(class).ok()?;
        Some(Self { prefix: flat[..flat.len() - key.len()].into() })
    }

    /// The flat prefix of every partition of `class`.
    pub(super) fn class_prefix(class: &str) -> Vec<u8> {
        let mut prefix = Vec::new();
        push(&mut prefix, class.as_bytes());
        prefix
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.class(), self.id().escape_ascii())
    }
}

/// The lowest byte string above everything that begins with `prefix`; `None` when there is none.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut next = prefix[..=keep].to_vec();
    next[keep] += 1;
    Some(next)
}

fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&END);
}

/// The first escaped string of `bytes`, and what follows it.
fn pull(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, 0xff, tail @ ..] => {
                out.push(0);
                rest = tail;
            }
            [0, 1, tail @ ..] => return Some((out, tail)),
            [0, ..] | [] => return None,
            [byte, tail @ ..] => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_flat_key_gives_back_its_partition(class in ".{0,8}", id: Vec<u8>, key: Vec<u8>) {
            let partition = Partition::new(&class, &id);
            prop_assert_eq!(partition.class(), class);
            prop_assert_eq!(partition.id(), id);
            prop_assert_eq!(Partition::of_flat(&partition.flat(&key)), Some(partition));
        }

        #[test]
        fn no_partition_contains_another(a: Vec<u8>, b: Vec<u8>, key: Vec<u8>) {
            let (first, second) = (Partition::new("x", &a), Partition::new("x", &b));
            prop_assert_eq!(a == b, second.flat(&key).starts_with(first.prefix()));
            prop_assert_eq!(a.cmp(&b), first.prefix().cmp(second.prefix()));
        }

        #[test]
        fn foreign_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = Partition::of_flat(&bytes);
        }

        #[test]
        fn the_successor_is_above_every_extension(prefix: Vec<u8>, more: Vec<u8>) {
            let Some(next) = successor(&prefix) else { return Ok(()) };
            let mut longer = prefix.clone();
            longer.extend(more);
            prop_assert!(longer < next);
        }
    }
}
