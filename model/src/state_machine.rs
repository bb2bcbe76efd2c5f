//! The trait of the replicated state machine. Implemented by `orchestrator::State`, driven by
//! `cluster`.

use std::collections::BTreeMap;

use crate::{
    Answer, Applied, Authority, Change, Command, Concern, Entry, Level, Millis, Node, NodeConfig,
    NodeId, ObjectRef, Progress, Projector, Query, RecordError, Refusal,
};

/// A deterministic state machine: the same entries in the same order give the same state and
/// answers everywhere.
pub trait StateMachine: Default + Send + Sync + 'static {
    /// What the leader keeps between two steps, so that a step looks at what has changed only.
    type Agenda: Default + Send;
    /// What keeps the views of many nodes.
    type Projector: Projector<Self> + Default + 'static;

    /// Applies one command of the entry at this log index. Total: a command whose precondition does
    /// not hold is refused and changes nothing. The same `entry.request` again, if it
    /// was carried out, gets its first answer again. Looks at the state's level, never at
    /// what this binary knows.
    fn apply(&mut self, index: u64, entry: Entry) -> Applied;

    /// The level that the cluster has reached.
    fn level(&self) -> Level;

    /// The revision of the newest change: it grows with each command that was applied.
    fn revision(&self) -> u64;

    /// Objects that are there, in the order of [`ObjectRef`], after this one and at most `limit`,
    /// told as if each had just been made at the state's revision.
    fn present(&self, after: Option<ObjectRef>, limit: usize) -> Vec<Change>;

    /// How far a service is, by name or id.
    ///
    /// # Errors
    /// There is none.
    fn progress(&self, service: &str) -> Result<Progress, Refusal>;

    /// A copy to take a snapshot of, while this one goes on.
    fn freeze(&self) -> Self;

    /// The whole state as a record of its level ([`crate::level::seal`]).
    fn snapshot(&self) -> Vec<u8>;

    /// The state that these bytes hold, for a reader that knows levels up to `known`.
    ///
    /// # Errors
    /// A later version wrote them, or they are no snapshot.
    fn restore(bytes: &[u8], known: Level) -> Result<Self, RestoreError>;

    /// The certificate authority, once the cluster exists.
    fn authority(&self) -> Option<&Authority>;

    /// Every node of the cluster.
    fn nodes(&self) -> &BTreeMap<NodeId, Node>;

    /// Whether this node's view may differ because of what is of this concern. `true` costs a look
    /// at the view; `false` where it does differ would hide the change from the node.
    fn concerns(&self, node: NodeId, concern: &Concern) -> bool;

    /// All that this node must look like, at the index last applied. Least privilege: only what it
    /// has part in.
    fn view(&self, node: NodeId) -> NodeConfig;

    /// The commands that the leader proposes next. Idempotent: they are proposed again until they
    /// are applied. With a new agenda, as after every change of leader, it looks at everything.
    /// Time is the argument `now`.
    fn step(&self, agenda: &mut Self::Agenda, now: Millis) -> Vec<Command>;

    /// Answers a question; `Query::Token` and `Query::Node("self")` are resolved before they come
    /// here.
    fn answer(&self, leader: Option<NodeId>, query: &Query) -> Result<Answer, Refusal>;
}

/// Why a snapshot is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is not a record that this version can open.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It does not hold a state.
    #[error("the snapshot holds no state: {0}")]
    Content(String),
}
