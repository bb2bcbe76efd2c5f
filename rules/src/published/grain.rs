//! How the ports of a set are written: one element each, which a packet finds soonest, or one
//! element for all of a range, which takes no more room than a single one.

use std::net::IpAddr;

use model::Protocol;
use nftables::{Key, Set, Type, Verdict, octets};

use super::last;

/// What is found by an element for each port; longer ranges are one element.
const SINGLE: u16 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    Single,
    Range,
}

impl Grain {
    pub(super) const ALL: [Self; 2] = [Self::Single, Self::Range];

    /// Of so many ports.
    pub(super) fn of(count: u16) -> Self {
        if count > SINGLE {
            Self::Range
        } else {
            Self::Single
        }
    }

    /// The set that has such ports, beside the one of this name that has the others.
    pub(super) fn name(self, set: &str) -> String {
        match self {
            Self::Single => set.to_owned(),
            Self::Range => format!("{set}-ranges"),
        }
    }

    /// The keys of these ports: protocol and port, behind the address if there is one.
    pub(super) fn keys(
        self,
        at: Option<IpAddr>,
        protocol: Protocol,
        (first, count): (u16, u16),
    ) -> Vec<Key> {
        let (number, end) = (protocol.number(), last(first, count));
        let key = |port: u16| match at {
            Some(at) => Key::of(&[&octets(at), &[number], &port.to_be_bytes()]),
            None => Key::of(&[&[number], &port.to_be_bytes()]),
        };
        match self {
            Self::Single => (first..=end).map(key).collect(),
            Self::Range => vec![Key {
                first: key(first).first,
                last: key(end).first,
            }],
        }
    }

    pub(super) fn set(self, key: &[Type], elements: impl IntoIterator<Item = Key>) -> Set {
        self.of_ranges(Set::values(key, elements))
    }

    pub(super) fn verdicts(
        self,
        key: &[Type],
        elements: impl IntoIterator<Item = (Key, Verdict)>,
    ) -> Set {
        self.of_ranges(Set::verdicts(key, elements))
    }

    fn of_ranges(self, mut set: Set) -> Set {
        set.of.interval = self == Self::Range;
        set
    }
}
