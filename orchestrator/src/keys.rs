//! Keys of encrypted networks: secrets per epoch, associations per pair of hosts, and key changes
//! in three acknowledged steps: all hosts accept the new key, all send with it, the old key is
//! dropped.

use std::collections::{BTreeMap, BTreeSet};

use hkdf::Hkdf;
use model::{
    Association, Epoch, EpochKey, EspKey, Kind, Millis, Node, NodeId, Outcome, PeerKeys, Refusal,
    Response, Spi,
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{
    look::has_passed,
    project,
    state::{State, outdated},
};

/// Lifetime of a key in milliseconds.
const LIFETIME: Millis = 12 * 60 * 60 * 1000;
/// How long a key change waits for a host that is down, in milliseconds: the host may only be cut
/// off from managers.
const HOLD: Millis = 10 * 60 * 1000;
/// How long packets in flight are accepted after nobody sends with a key any more, in milliseconds.
const LINGER: Millis = 3_000;
/// HKDF info prefix: separates these keys from anything else derived from the same secret.
const PURPOSE: &[u8] = b"netd esp rfc4106(gcm(aes)) 256";

/// All keys of a cluster. Empty while no network is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// One, and while keys change two.
    epochs: BTreeMap<Epoch, Secrets>,
    phase: Phase,
    /// The last change of keys, whether or not its epoch is still there.
    last: u64,
    /// How many numbers of associations have been given out.
    numbers: u32,
}

/// What a change of keys brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Secrets {
    key: EpochKey,
    /// With which number each host sends,
    senders: BTreeMap<NodeId, Spi>,
    /// save to these hosts: sender, receiver.
    renewed: BTreeMap<NodeId, BTreeMap<NodeId, Spi>>,
    since: Millis,
}

/// How far a change of keys is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Phase {
    /// There is one key.
    #[default]
    Steady,
    /// Two are accepted, the old one is sent with; since this log index and time.
    Accepting { index: u64, since: Millis },
    /// Two are accepted, the new one is sent with.
    Sending { index: u64, since: Millis },
}

impl Phase {
    fn start(self) -> Option<(u64, Millis)> {
        match self {
            Phase::Steady => None,
            Phase::Accepting { index, since } | Phase::Sending { index, since } => {
                Some((index, since))
            }
        }
    }
}

/// A new key for the user, or for `step` when the old one has served its time.
pub(crate) fn rotate(state: &mut State, now: Millis, chance: Option<EpochKey>) -> Response {
    if state.derived.networks.encrypted().next().is_none() {
        let next = "`swarmctl network create --encrypted NAME` makes one";
        return Err(Refusal::new(
            Kind::Precondition,
            "no network is encrypted, so there are no keys",
            next,
        ));
    }
    if let Some((index, _)) = state.keys.phase.start() {
        let hosts = behind(state, index)
            .map(|node| node.hostname.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let waits = if hosts.is_empty() {
            "ends in a moment".to_owned()
        } else {
            format!("waits for {hosts}")
        };
        let next = "try again once it is done; `swarmctl node ls` shows how the hosts stand";
        return Err(Refusal::new(
            Kind::Precondition,
            format!("a change of keys is under way: it {waits}"),
            next,
        ));
    }
    begin(state, now, made_of(chance)?);
    let (index, since) = (state.index, now);
    state.keys_mut().phase = Phase::Accepting { index, since };
    Ok(Outcome::Done)
}

/// Another step of a change of keys, if every host has taken the last one.
pub(crate) fn advance(state: &mut State, now: Millis) -> Response {
    if !is_taken(state, now) {
        return Err(outdated(
            "no change of keys is under way, or not every host is ready for its next step",
        ));
    }
    let (index, since) = (state.index, now);
    let keys = state.keys_mut();
    match keys.phase {
        Phase::Accepting { .. } => keys.phase = Phase::Sending { index, since },
        Phase::Steady | Phase::Sending { .. } => {
            let newest = keys.epochs.pop_last();
            keys.epochs = newest.into_iter().collect();
            keys.phase = Phase::Steady;
        }
    }
    Ok(Outcome::Done)
}

/// A key of the leader's random bits.
pub(crate) fn made_of(chance: Option<EpochKey>) -> Result<EpochKey, Refusal> {
    chance.ok_or_else(|| {
        let cause = "the leader gave no random bits to make keys of";
        Refusal::new(
            Kind::Precondition,
            cause,
            "run the same version of netd on all managers",
        )
    })
}

/// Takes a key into use: the first at once, another one beside the first.
pub(crate) fn begin(state: &mut State, now: Millis, key: EpochKey) {
    let nodes: Vec<NodeId> = state.nodes.keys().copied().collect();
    let keys = state.keys_mut();
    keys.last += 1;
    let secrets = Secrets {
        key,
        senders: BTreeMap::new(),
        renewed: BTreeMap::new(),
        since: now,
    };
    keys.epochs.insert(Epoch(keys.last), secrets);
    nodes.into_iter().for_each(|node| keys.admit(node));
}

/// What `step` does about keys.
pub(crate) fn step(state: &State, now: Millis) -> Option<model::Command> {
    let newest = state.keys.epochs.values().next_back()?;
    match state.keys.phase {
        Phase::Steady => has_passed(newest.since, now, LIFETIME)
            .then_some(model::Command::Keys(model::KeysCommand::Rotate)),
        Phase::Accepting { .. } | Phase::Sending { .. } => {
            is_taken(state, now).then_some(model::Command::Keys(model::KeysCommand::Advance))
        }
    }
}

/// Whether every host that has keys has taken the last step of a change of keys, or is down for too
/// long to wait for.
fn is_taken(state: &State, now: Millis) -> bool {
    let Some((index, since)) = state.keys.phase.start() else {
        return false;
    };
    let lingers =
        matches!(state.keys.phase, Phase::Sending { .. }) && !has_passed(since, now, LINGER);
    let given_up = has_passed(since, now, HOLD);
    !lingers && behind(state, index).all(|node| given_up && state.is_down(node.id))
}

/// The hosts with keys whose kernel is older than this log index.
fn behind(state: &State, index: u64) -> impl Iterator<Item = &Node> {
    let holders = project::key_holders(state);
    state
        .nodes
        .values()
        .filter(move |node| node.applied < index && holders.contains(&node.id))
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
