//! Digests of a manager's copy of the state, to be compared with those of others: equal logs lead
//! to equal states, unless memory, disk or code is at fault. No I/O.

use std::collections::{BTreeMap, VecDeque};

use model::{Level, NodeId};
use serde::{Deserialize, Serialize};

/// The state is digested at each log index that is a multiple of this, and at the first entry of
/// each leader.
pub(super) const EVERY: u64 = 4096;
/// How many are remembered.
const REMEMBERED: usize = 8;

/// What a manager's copy of the state is, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// The log index last applied.
    pub index: u64,
    /// The level of the cluster.
    pub level: Level,
    /// SHA-256 of the snapshot at that index, in hexadecimal.
    pub sha256: String,
}

/// The newest digests, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Digests(VecDeque<StateDigest>);

impl Digests {
    pub(super) fn note(&mut self, digest: StateDigest) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(digest);
    }

    pub(super) fn all(&self) -> Vec<StateDigest> {
        self.0.iter().cloned().collect()
    }
}

/// What the digests of the managers say of this one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Nobody has another state.
    Same,
    /// A majority has the state of this manager, and some have another one.
    Others { index: u64, are: Vec<NodeId> },
    /// Some have, and no majority says which is right.
    Disputed { index: u64, with: Vec<NodeId> },
    /// A majority has another state than this manager.
    Differs { index: u64, from: Vec<NodeId> },
}

/// Compares this manager's digests with those of others, of a cluster with so many voters.
pub(crate) fn compare(
    own: &[StateDigest],
    others: &BTreeMap<NodeId, Vec<StateDigest>>,
    voters: usize,
) -> Comparison {
    let mut found = Comparison::Same;
    for own in own {
        let mut differing: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
        let mut agreeing = 1;
        for (node, digests) in others {
            match digests.iter().find(|there| there.index == own.index) {
                Some(there) if there.sha256 == own.sha256 => agreeing += 1,
                Some(there) => differing.entry(&there.sha256).or_default().push(*node),
                None => {}
            }
        }
        let index = own.index;
        let (mut with, mut majority) = (Vec::new(), None);
        for nodes in differing.into_values() {
            if nodes.len() * 2 > voters {
                majority = Some(nodes.clone());
            }
            with.extend(nodes);
        }
        if let Some(from) = majority {
            return Comparison::Differs { index, from };
        }
        if !with.is_empty() {
            found = match agreeing * 2 > voters {
                true => Comparison::Others { index, are: with },
                false => Comparison::Disputed { index, with },
            };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(index: u64, sha256: &str) -> StateDigest {
        StateDigest {
            index,
            level: Level::NEWEST,
            sha256: sha256.to_owned(),
        }
    }

    fn compared(others: &[(u64, u64, &str)], voters: usize) -> Comparison {
        let own = [digest(1, "a"), digest(2, "b")];
        let mut of_others: BTreeMap<NodeId, Vec<StateDigest>> = BTreeMap::new();
        for (node, index, sha256) in others {
            let digests = of_others.entry(NodeId(*node)).or_default();
            digests.push(digest(*index, sha256));
        }
        compare(&own, &of_others, voters)
    }

    #[test]
    fn a_majority_decides_who_differs() {
        let differs = |index, from: &[u64]| Comparison::Differs {
            index,
            from: from.iter().copied().map(NodeId).collect(),
        };
        assert_eq!(
            compared(&[(2, 2, "x"), (3, 2, "x")], 3),
            differs(2, &[2, 3])
        );
        assert_eq!(
            compared(&[(2, 1, "x"), (3, 1, "x")], 3),
            differs(1, &[2, 3])
        );
        assert_eq!(compared(&[(2, 2, "b"), (3, 2, "b")], 3), Comparison::Same);
        let other = Comparison::Others {
            index: 2,
            are: vec![NodeId(2)],
        };
        assert_eq!(compared(&[(2, 2, "x"), (3, 2, "b")], 3), other);
        assert_eq!(compared(&[], 3), Comparison::Same);
    }

    #[test]
    fn managers_dispute_without_a_majority() {
        let disputed = |index, with: &[u64]| Comparison::Disputed {
            index,
            with: with.iter().copied().map(NodeId).collect(),
        };
        assert_eq!(compared(&[(2, 2, "x")], 2), disputed(2, &[2]));
        assert_eq!(
            compared(&[(2, 2, "x"), (3, 2, "y")], 3),
            disputed(2, &[2, 3])
        );
        assert_eq!(compared(&[(2, 2, "x")], 3), disputed(2, &[2]));
    }

    #[test]
    fn digests_of_other_indexes_say_nothing() {
        assert_eq!(compared(&[(2, 3, "x"), (3, 3, "x")], 3), Comparison::Same);
    }
}
