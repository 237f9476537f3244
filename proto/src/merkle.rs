//! Decides the shape of the trees that origins and hubs sign: RFC 9162 section 2.1, SHA-256.

use sha2::{Digest as _, Sha256};

/// A node's hash.
pub type Hash = [u8; 32];

/// `SHA-256(0x00 | data)`.
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

/// `SHA-256(0x01 | left | right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root over `leaves`; `None` when there are none.
pub fn root(leaves: &[Hash]) -> Option<Hash> {
    match leaves {
        [] => None,
        [leaf] => Some(*leaf),
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            Some(node_hash(&root(left)?, &root(right)?))
        }
    }
}

/// The audit path of leaf `index`, from the leaf upwards (RFC 9162 section 2.1.3.1); `None` beyond the leaves.
pub fn path(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut below, sibling) = if index < left.len() {
        (path(left, index)?, root(right)?)
    } else {
        (path(right, index - left.len())?, root(left)?)
    };
    below.push(sibling);
    Some(below)
}

/// The root that `leaf` at `index` of `size` and its path lead to (RFC 9162 section 2.1.3.2).
///
/// `None` when the index or the path's length does not fit the size.
pub fn root_from_path(leaf: Hash, index: u32, size: u32, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// The largest power of two below `size`, for `size` above one.
fn split(size: usize) -> usize {
    size.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(&[i])).collect()
    }

    #[test]
    fn every_leaf_of_every_size_proves_itself_and_nothing_else() {
        for count in 1..=64u8 {
            let leaves = leaves(count);
            let root = root(&leaves).expect("has leaves");
            for index in 0..count {
                let path = path(&leaves, index.into()).expect("within");
                let climb =
                    |leaf, index: u8, path: &[Hash]| root_from_path(leaf, index.into(), count.into(), path);
                let leaf = leaves[usize::from(index)];
                assert_eq!(climb(leaf, index, &path), Some(root));
                assert_ne!(climb(leaf_hash(b"other"), index, &path), Some(root));
                assert_eq!(climb(leaf, count, &path), None);
                let mut longer = path.clone();
                longer.push(root);
                assert_eq!(climb(leaf, index, &longer), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_eq!(climb(leaf, index, shorter), None);
                }
            }
        }
    }

    #[test]
    fn the_tree_of_three_has_the_shape_of_the_rfc() {
        let l = leaves(3);
        assert_eq!(root(&l), Some(node_hash(&node_hash(&l[0], &l[1]), &l[2])));
        assert_eq!(root(&[]), None);
        assert_eq!(path(&l, 3), None);
    }
}
