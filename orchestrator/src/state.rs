//! The replicated state: its records, and what is read of them everywhere.

use std::{collections::BTreeSet, sync::Arc};

use ipam::Ledger;
use model::{
    Authority, Container, EndpointId, Kind, Level, Network, NetworkId, Node, NodeId, NodeStatus,
    ObjectRef, Refusal, ServiceId, TaskId, Vni,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    derived::Derived,
    record::{Keys, ServiceRecord, TaskRecord},
    request::Answers,
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
    pub(crate) derived: Arc<Derived>,
}

impl State {
    /// The commands of one entry have a revision each: what one of them made is older than what the
    /// next one changed.
    pub(crate) fn revision_at(&self, log_index: u64) -> u64 {
        if self.level < Level::BATCHES {
            log_index
        } else {
            self.index + 1
        }
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

/// The refusal of a command of `step` whose reason no longer holds. The next `step` sees the new
/// state.
pub(crate) fn outdated(cause: impl Into<String>) -> Refusal {
    Refusal::new(Kind::Precondition, cause, "")
}
