//! The trait of the replicated state machine. Implemented by `orchestrator::State`, driven by
//! `cluster`.

use std::collections::BTreeMap;

use crate::{
    Answer, Authority, Command, Entry, Millis, Node, NodeConfig, NodeId, Query, Refusal, Response,
};

/// A deterministic state machine: the same entries in the same order give the same state and
/// answers everywhere.
pub trait StateMachine: Default + Send + Sync + 'static {
    /// Applies one entry at this log index. Total: a command whose precondition does not hold is
    /// refused and changes nothing. The same `entry.request` again gets the first answer again.
    fn apply(&mut self, index: u64, entry: Entry) -> Response;

    /// The whole state as bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// The state that these bytes hold. Errors: the bytes are no snapshot of this version.
    fn restore(bytes: &[u8]) -> Result<Self, String>;

    /// The certificate authority, once the cluster exists.
    fn authority(&self) -> Option<&Authority>;

    /// Every node of the cluster.
    fn nodes(&self) -> &BTreeMap<NodeId, Node>;

    /// All that this node must look like, at the index last applied. Least privilege: only what it
    /// has part in.
    fn view(&self, node: NodeId) -> NodeConfig;

    /// The commands that the leader proposes next. Idempotent; runs in full after every change of
    /// leader. Time is the argument `now`.
    fn step(&self, now: Millis) -> Vec<Command>;

    /// Answers a question; `Query::Token` and `Query::Node("self")` are resolved before they come
    /// here.
    fn answer(&self, leader: Option<NodeId>, query: &Query) -> Result<Answer, Refusal>;
}
