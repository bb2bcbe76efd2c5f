//! The replicated state, and its implementation of `cluster`'s trait `StateMachine`.

use std::collections::{BTreeMap, BTreeSet};

use ipam::Ledger;
use model::{
    Answer, Applied, Authority, Change, Concern, Container, EndpointId, Entry, Facts, Fate, Kind,
    Level, Millis, Network, NetworkId, Node, NodeConfig, NodeId, NodeStatus, ObjectRef, Progress,
    Query, Refusal, RestoreError, ServiceId, StateMachine, TaskId, Vni, level,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    agenda::Agenda,
    answer, apply,
    derived::Derived,
    facts,
    keys::Keys,
    project,
    record::{ServiceRecord, TaskRecord},
    request::{Answers, Caller},
    sections::Sections,
    step,
    table::Table,
};

/// The whole replicated state: one record per network, address, service, task and node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The level that the cluster has reached.
    #[serde(default, skip_serializing_if = "Level::is_first")]
    pub(crate) level: Level,
    /// The revision: grows with each command. Before [`Level::BATCHES`] it is the log index.
    pub(crate) index: u64,
    /// Random seed from which this cluster's ids are derived.
    pub(crate) seed: [u8; 32],
    /// How many ids have been made.
    pub(crate) ids: u64,
    pub(crate) authority: Option<Authority>,
    /// UDP port of the tunnels of networks that are not encrypted; the next one is that of those
    /// that are.
    pub(crate) data_path_port: u16,
    pub(crate) nodes: Table<NodeId, Node>,
    pub(crate) networks: Table<NetworkId, Network>,
    /// The VNI given last: the next one up is tried first, so that a freed one rests.
    pub(crate) last_vni: Option<Vni>,
    pub(crate) services: Table<ServiceId, ServiceRecord>,
    pub(crate) tasks: Table<TaskId, TaskRecord>,
    /// Containers of others: an interface each.
    pub(crate) containers: Table<EndpointId, Container>,
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
    pub(crate) answers: Answers,
    /// Of the cluster as a whole and of its keys: what the command that is being applied changes.
    #[serde(skip)]
    pub(crate) changed: BTreeSet<ObjectRef>,
    #[serde(skip)]
    pub(crate) derived: Derived,
}

impl StateMachine for State {
    type Agenda = Agenda;
    type Projector = Sections;

    fn apply(&mut self, index: u64, entry: Entry) -> Applied {
        self.index = self.revision_at(index);
        let caller = Caller::of(&entry.command);
        if let Some(first) = self.answers.find(caller, entry.request) {
            return Applied {
                response: first.clone(),
                changes: Vec::new(),
                concern: Concern::default(),
            };
        }
        let (request, at) = (entry.request, entry.now);
        let response = apply::apply(self, entry);
        // A refusal has changed nothing, so the request may be judged anew; its text would be part
        // of the state, and no version could ever word it better.
        if response.is_ok() || self.level < Level::BATCHES {
            self.answers.remember(caller, request, response.clone());
        }
        let changes = self.take_changes(at);
        let concern = self.follow(&changes);
        Applied {
            response,
            changes,
            concern,
        }
    }

    fn level(&self) -> Level {
        self.level
    }

    fn snapshot(&self) -> Vec<u8> {
        // Every map of the state has string or integer keys, so it always has a JSON form.
        let body = serde_json::to_vec(self).unwrap_or_default();
        level::seal(self.level, body)
    }

    fn restore(bytes: &[u8], known: Level) -> Result<Self, RestoreError> {
        let (_, body) = level::open("the snapshot", bytes, known)?;
        let mut state: Self = serde_json::from_slice(body)
            .map_err(|error| RestoreError::Content(error.to_string()))?;
        state.follow_all();
        Ok(state)
    }

    fn revision(&self) -> u64 {
        self.index
    }

    fn present(&self, after: Option<ObjectRef>, limit: usize) -> Vec<Change> {
        facts::present(self, after, limit)
    }

    fn progress(&self, service: &str) -> Result<Progress, Refusal> {
        answer::progress(self, service)
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

    fn concerns(&self, node: NodeId, concern: &Concern) -> bool {
        self.derived.concerns(node, concern)
    }

    fn step(&self, agenda: &mut Agenda, now: Millis) -> Vec<model::Command> {
        step::step(self, agenda, now)
    }

    fn answer(&self, leader: Option<NodeId>, query: &Query) -> Result<Answer, Refusal> {
        answer::answer(self, leader, query)
    }
}

impl State {
    /// The commands of one entry have a revision each: what one of them made is older than what the
    /// next one changed.
    fn revision_at(&self, log_index: u64) -> u64 {
        if self.level < Level::BATCHES {
            log_index
        } else {
            self.index + 1
        }
    }

    /// What has become of objects since this was asked last.
    fn take_changes(&mut self, at: Millis) -> Vec<Change> {
        let mut found = Found {
            revision: self.index,
            at,
            changes: Vec::new(),
        };
        for object in std::mem::take(&mut self.changed) {
            let facts = facts::of_cluster(self, object);
            found.push(object, Fate::Changed, Some(facts));
        }
        for (id, note) in self.nodes.take_changes() {
            let record = self.nodes.get(&id).or(note.last.as_ref());
            found.push(ObjectRef::Node(id), note.fate, record.map(facts::of_node));
        }
        for (id, note) in self.networks.take_changes() {
            let record = self.networks.get(&id).or(note.last.as_ref());
            let facts = record.map(facts::of_network);
            found.push(ObjectRef::Network(id), note.fate, facts);
        }
        for (id, note) in self.services.take_changes() {
            let record = self.services.get(&id).or(note.last.as_ref());
            let facts = record.map(facts::of_service);
            found.push(ObjectRef::Service(id), note.fate, facts);
        }
        for (id, note) in self.tasks.take_changes() {
            let record = self.tasks.get(&id).or(note.last.as_ref());
            let facts = record.map(|record| facts::of_task(self, record));
            found.push(ObjectRef::Task(id), note.fate, facts);
        }
        for (id, note) in self.containers.take_changes() {
            let record = self.containers.get(&id).or(note.last.as_ref());
            let facts = record.map(|record| facts::of_container(self, record));
            found.push(ObjectRef::Container(id), note.fate, facts);
        }
        found.changes
    }

    /// The version of an object that is made or changed now.
    pub(crate) fn version(&self) -> u64 {
        if self.level < Level::SHARED_VIEWS {
            0
        } else {
            self.index
        }
    }

    /// The keys, to be changed.
    pub(crate) fn keys_mut(&mut self) -> &mut Keys {
        self.changed.insert(ObjectRef::Keys);
        &mut self.keys
    }

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
        let tasks = self.derived.tasks.of_node(node);
        tasks
            .filter_map(|id| self.tasks.get(id))
            .filter(move |record| record.task.node == Some(node) && record.is_alive())
    }
}

/// The changes of one command.
struct Found {
    revision: u64,
    at: Millis,
    changes: Vec<Change>,
}

impl Found {
    /// A record that is noted is there or was: there are facts of it.
    fn push(&mut self, object: ObjectRef, fate: Fate, facts: Option<Facts>) {
        let Some(facts) = facts else { return };
        let (revision, at) = (self.revision, self.at);
        self.changes.push(Change {
            revision,
            at,
            object,
            fate,
            facts,
        });
    }
}

/// The refusal of a command of `step` whose reason no longer holds. The next `step` sees the new
/// state.
pub(crate) fn outdated(cause: impl Into<String>) -> Refusal {
    Refusal::new(Kind::Precondition, cause, "")
}
