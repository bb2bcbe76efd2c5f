//! The replicated state, and its implementation of `cluster`'s trait `StateMachine`.

use std::collections::BTreeMap;

use ipam::Ledger;
use model::{
    Answer, Authority, Container, EndpointId, Entry, Kind, Millis, Network, NetworkId, Node,
    NodeConfig, NodeId, NodeStatus, Query, Refusal, Response, ServiceId, StateMachine, TaskId, Vni,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    answer, apply,
    keys::Keys,
    project,
    record::{ServiceRecord, TaskRecord},
    request::{Answers, Caller},
    step,
};

/// The whole replicated state: one record per network, address, service, task and node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The log index last applied.
    pub(crate) index: u64,
    /// Random seed from which this cluster's ids are derived.
    pub(crate) seed: [u8; 32],
    /// How many ids have been made.
    pub(crate) ids: u64,
    pub(crate) authority: Option<Authority>,
    /// UDP port of the tunnels of networks that are not encrypted; the next one is that of those
    /// that are.
    pub(crate) data_path_port: u16,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) networks: BTreeMap<NetworkId, Network>,
    /// The VNI given last: the next one up is tried first, so that a freed one rests.
    pub(crate) last_vni: Option<Vni>,
    pub(crate) services: BTreeMap<ServiceId, ServiceRecord>,
    pub(crate) tasks: BTreeMap<TaskId, TaskRecord>,
    /// Containers of others: an interface each.
    pub(crate) containers: BTreeMap<EndpointId, Container>,
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
    pub(crate) answers: Answers,
}

impl StateMachine for State {
    fn apply(&mut self, index: u64, entry: Entry) -> Response {
        self.index = index;
        let caller = Caller::of(&entry.command);
        if let Some(first) = self.answers.find(caller, entry.request) {
            return first.clone();
        }
        let request = entry.request;
        let response = apply::apply(self, entry);
        self.answers.remember(caller, request, response.clone());
        response
    }

    fn snapshot(&self) -> Vec<u8> {
        // Every map of the state has string or integer keys, so it always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn restore(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes)
            .map_err(|error| format!("the snapshot is not of this version: {error}"))
    }

    fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    fn view(&self, node: NodeId) -> NodeConfig {
        project::view(self, node)
    }

    fn step(&self, now: Millis) -> Vec<model::Command> {
        step::step(self, now)
    }

    fn answer(&self, leader: Option<NodeId>, query: &Query) -> Result<Answer, Refusal> {
        answer::answer(self, leader, query)
    }
}

impl State {
    /// Who holds which address.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The id that the next object of this kind gets; [`State::use_id`] uses it up, once nothing
    /// can fail any more.
    pub(crate) fn peek_id(&self, kind: &str) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.ids.to_be_bytes())
            .chain_update(kind.as_bytes())
            .finalize();
        digest
            .iter()
            .take(8)
            .fold(0, |id, &byte| id << 8 | u64::from(byte))
    }

    pub(crate) fn use_id(&mut self, kind: &str) -> u64 {
        let id = self.peek_id(kind);
        self.ids += 1;
        id
    }

    pub(crate) fn is_down(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_none_or(|node| node.status == NodeStatus::Down)
    }

    /// The host's name; its id where it is no longer known.
    pub(crate) fn hostname(&self, node: NodeId) -> String {
        self.nodes
            .get(&node)
            .map_or_else(|| node.to_string(), |node| node.hostname.clone())
    }

    /// The tasks of these ids, in their order.
    pub(crate) fn records<'a>(
        &'a self,
        ids: &'a [TaskId],
    ) -> impl DoubleEndedIterator<Item = &'a TaskRecord> {
        ids.iter().filter_map(|id| self.tasks.get(id))
    }

    /// Tasks of this node that run, may run or are about to.
    pub(crate) fn tasks_on(&self, node: NodeId) -> impl Iterator<Item = &TaskRecord> {
        self.tasks
            .values()
            .filter(move |record| record.task.node == Some(node) && record.is_alive())
    }
}

/// Whether a time span is over. A stamp of the future, from a leader whose clock was ahead, counts
/// as over.
pub(crate) fn has_passed(since: Millis, now: Millis, time: Millis) -> bool {
    now.checked_sub(since).is_none_or(|passed| passed >= time)
}

/// The refusal of a command of `step` whose reason no longer holds. The next `step` sees the new
/// state.
pub(crate) fn outdated(cause: impl Into<String>) -> Refusal {
    Refusal::new(Kind::Precondition, cause, "")
}
