//! Keys of encrypted networks: secrets per epoch, associations per pair of hosts, and key changes
//! in three acknowledged steps: all hosts accept the new key, all send with it, the old key is
//! dropped.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Epoch, EpochKey, Kind, Millis, NetworkId, Node, NodeId, Outcome, PeerKeys, Refusal, Response,
};

use crate::{
    look::has_passed,
    record::{Phase, Secrets},
    state::{State, outdated},
};

/// Lifetime of a key in milliseconds.
const LIFETIME: Millis = 12 * 60 * 60 * 1000;
/// How long a key change waits for a host that is down, in milliseconds: the host may only be cut
/// off from managers.
const HOLD: Millis = 10 * 60 * 1000;
/// How long packets in flight are accepted after nobody sends with a key any more, in milliseconds.
const LINGER: Millis = 3_000;
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
        is_known_outside: false,
    };
    keys.epochs.insert(Epoch(keys.last), secrets);
    nodes.into_iter().for_each(|node| keys.admit(node));
}

/// What `step` does about keys.
pub(crate) fn step(state: &State, now: Millis) -> Option<model::Command> {
    let newest = state.keys.epochs.values().next_back()?;
    match state.keys.phase {
        Phase::Steady => (newest.is_known_outside || has_passed(newest.since, now, LIFETIME))
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
    let nodes = state.nodes.values();
    nodes.filter(move |node| node.applied < index && !peers(state, node.id).is_empty())
}

/// Keys for the hosts with which it shares an encrypted network. Symmetric: either both hosts have
/// keys or neither; it only counts whether tasks or containers may still run there.
pub(crate) fn of_node(state: &State, node: NodeId) -> BTreeMap<NodeId, PeerKeys> {
    state.keys.of(node, &peers(state, node))
}

/// The hosts with which it shares an encrypted network.
fn peers(state: &State, node: NodeId) -> BTreeSet<NodeId> {
    let mut peers = BTreeSet::new();
    for network in state.derived.networks.encrypted() {
        let is_ingress = state.derived.services.is_ingress(*network);
        let takes_part = state.derived.parts.has(node, *network);
        if takes_part || is_ingress && state.nodes.contains_key(&node) {
            peers.extend(members(state, *network));
        }
    }
    peers.remove(&node);
    peers
}

/// The hosts of each encrypted network.
pub(crate) fn members_of_encrypted(state: &State) -> BTreeMap<NetworkId, BTreeSet<NodeId>> {
    let encrypted = state.derived.networks.encrypted();
    encrypted
        .map(|network| (*network, members(state, *network).collect()))
        .collect()
}

fn members(state: &State, network: NetworkId) -> impl Iterator<Item = NodeId> {
    let is_ingress = state.derived.services.is_ingress(network);
    let all = state.nodes.keys().filter(move |_| is_ingress);
    let hosts = state.derived.parts.hosts_of(network);
    hosts.chain(all).copied()
}
