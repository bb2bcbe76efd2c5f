//! Keys of encrypted networks as records, and the associations that are derived from them.

use std::collections::{BTreeMap, BTreeSet};

use hkdf::Hkdf;
use model::{Association, Epoch, EpochKey, EspKey, Millis, NodeId, PeerKeys, Spi};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// HKDF info prefix: separates these keys from anything else derived from the same secret.
const PURPOSE: &[u8] = b"netd esp rfc4106(gcm(aes)) 256";

/// All keys of a cluster. Empty while no network is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// One, and while keys change two.
    pub(crate) epochs: BTreeMap<Epoch, Secrets>,
    pub(crate) phase: Phase,
    /// The last change of keys, whether or not its epoch is still there.
    pub(crate) last: u64,
    /// How many numbers of associations have been given out.
    numbers: u32,
}

/// What a change of keys brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) key: EpochKey,
    /// With which number each host sends,
    pub(crate) senders: BTreeMap<NodeId, Spi>,
    /// save to these hosts: sender, receiver.
    pub(crate) renewed: BTreeMap<NodeId, BTreeMap<NodeId, Spi>>,
    pub(crate) since: Millis,
    /// A manager knew it that has been removed: the next one follows at once. Never set before
    /// [`model::Level::KEYS`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_known_outside: bool,
}

/// How far a change of keys is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Phase {
    /// There is one key.
    #[default]
    Steady,
    /// Two are accepted, the old one is sent with; since this log index and time.
    Accepting { index: u64, since: Millis },
    /// Two are accepted, the new one is sent with.
    Sending { index: u64, since: Millis },
}

impl Phase {
    pub(crate) fn start(self) -> Option<(u64, Millis)> {
        match self {
            Phase::Steady => None,
            Phase::Accepting { index, since } | Phase::Sending { index, since } => {
                Some((index, since))
            }
        }
    }
}

impl Keys {
    /// Whether there are any.
    pub(crate) fn exist(&self) -> bool {
        !self.epochs.is_empty()
    }

    /// Gives a host what it sends with.
    pub(crate) fn admit(&mut self, node: NodeId) {
        for secrets in self.epochs.values_mut() {
            if !secrets.senders.contains_key(&node) {
                secrets
                    .senders
                    .extend(number(&mut self.numbers).map(|spi| (node, spi)));
            }
        }
    }

    /// Forgets a host.
    pub(crate) fn remove(&mut self, node: NodeId) {
        for secrets in self.epochs.values_mut() {
            secrets.senders.remove(&node);
            secrets.renewed.remove(&node);
            secrets
                .renewed
                .values_mut()
                .for_each(|receivers| receivers.retain(|receiver, _| *receiver != node));
        }
    }

    /// A manager is removed, which knows all keys that there are.
    pub(crate) fn are_known_outside(&mut self) {
        for secrets in self.epochs.values_mut() {
            secrets.is_known_outside = true;
        }
    }

    /// Forgets all keys; what has been counted goes on.
    pub(crate) fn clear(&mut self) {
        self.epochs.clear();
        self.phase = Phase::Steady;
    }

    /// Replaces each association that this host has lost. One that was replaced already stays.
    pub(crate) fn renew(&mut self, node: NodeId, lost: &BTreeSet<(NodeId, Spi)>) {
        for &(peer, spi) in lost {
            for (from, to) in [(node, peer), (peer, node)] {
                for secrets in self
                    .epochs
                    .values_mut()
                    .filter(|secrets| secrets.spi(from, to) == Some(spi))
                {
                    let fresh = number(&mut self.numbers).map(|spi| (to, spi));
                    secrets.renewed.entry(from).or_default().extend(fresh);
                }
            }
        }
    }

    /// Keys that `node` needs for its `peers`.
    pub(crate) fn of(&self, node: NodeId, peers: &BTreeSet<NodeId>) -> BTreeMap<NodeId, PeerKeys> {
        let sources: Vec<Source<'_>> = self
            .epochs
            .iter()
            .map(|(epoch, secrets)| Source::of(*epoch, secrets))
            .collect();
        let between = |from, to| {
            sources
                .iter()
                .filter_map(move |source| source.association(from, to))
        };
        let keys = |peer: NodeId| {
            let mut send: Vec<Association> = between(node, peer).collect();
            match self.phase {
                Phase::Accepting { .. } => send.truncate(1),
                // Packets sent with the old key may still be in flight.
                Phase::Steady | Phase::Sending { .. } => send.reverse(),
            }
            PeerKeys {
                send,
                accept: between(peer, node).collect(),
            }
        };
        peers.iter().map(|&peer| (peer, keys(peer))).collect()
    }
}

/// The next number of an association; none once all have been given out.
fn number(given: &mut u32) -> Option<Spi> {
    let spi = Spi::FIRST.0.checked_add(*given)?;
    *given += 1;
    Some(Spi(spi))
}

impl Secrets {
    fn spi(&self, from: NodeId, to: NodeId) -> Option<Spi> {
        let own = self
            .renewed
            .get(&from)
            .and_then(|receivers| receivers.get(&to));
        own.or_else(|| self.senders.get(&from)).copied()
    }
}

/// An epoch's secrets, ready to derive from (RFC 5869).
struct Source<'a> {
    epoch: Epoch,
    secrets: &'a Secrets,
    derive: Hkdf<Sha256>,
}

impl<'a> Source<'a> {
    fn of(epoch: Epoch, secrets: &'a Secrets) -> Self {
        Self {
            epoch,
            secrets,
            derive: Hkdf::new(None, secrets.key.secret()),
        }
    }

    fn association(&self, from: NodeId, to: NodeId) -> Option<Association> {
        let spi = self.secrets.spi(from, to)?;
        let (epoch, number) = (self.epoch.0.to_be_bytes(), spi.0.to_be_bytes());
        let (from, to) = (from.0.to_be_bytes(), to.0.to_be_bytes());
        let mut key = [0; 36];
        self.derive
            .expand_multi_info(&[PURPOSE, &epoch, &number, &from, &to], &mut key)
            .ok()?;
        Some(Association {
            spi,
            epoch: self.epoch,
            key: EspKey::new(key),
        })
    }
}
