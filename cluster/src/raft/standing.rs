//! How a manager stands in Raft: who leads and who votes as far as it knows, whom it hears, and who
//! confirms what it appends. What it decides about votes is here, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use model::NodeId;
use openraft::{
    BasicNode, Raft, RaftMetrics, ServerState, Snapshot, SnapshotMeta, Vote,
    error::{Fatal, RaftError},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use tokio::time::Instant;

use super::{
    LogId, Types,
    log::Log,
    network::Acks,
    plausible::{self, Implausible, Own},
};
use crate::{
    Leadership,
    timing::{ELECTION, LEADER_LEASE, NODE_LEASE, RESIGN},
};

type Metrics = RaftMetrics<u64, BasicNode>;

/// Where the leader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// In this process.
    Here,
    /// Elsewhere.
    There(NodeId, SocketAddr),
}

pub(crate) struct Standing {
    raft: Raft<Types>,
    me: NodeId,
    /// When each node was last heard by this leader.
    heard: Mutex<BTreeMap<NodeId, Instant>>,
    /// When a leader has appended last, if only a heartbeat. `None`: not since the start.
    leader_heard: Mutex<Option<Instant>>,
    acks: Acks,
    log: Log,
    /// One message of another manager after the other: each is judged by what openraft has made of
    /// those before.
    turn: tokio::sync::Mutex<()>,
    /// This manager leaves the lead to others.
    resigns: AtomicBool,
}

impl Standing {
    pub(super) fn new(raft: Raft<Types>, me: NodeId, log: Log, acks: Acks) -> Self {
        Self {
            raft,
            me,
            heard: Mutex::default(),
            leader_heard: Mutex::default(),
            acks,
            log,
            turn: tokio::sync::Mutex::default(),
            resigns: AtomicBool::new(false),
        }
    }

    /// A leader, by its certificate, appends.
    pub(crate) async fn append(
        &self,
        from: NodeId,
        mut call: AppendEntriesRequest<Types>,
    ) -> Result<Result<AppendEntriesResponse<u64>, RaftError<u64>>, Implausible> {
        let _turn = self.turn.lock().await;
        let own = match self.own().await {
            Ok(own) => own,
            Err(error) => return Ok(Err(error.into())),
        };
        plausible::append(&own, from.0, &call)?;
        let nearer = plausible::within_reach(&own.vote, &call.vote);
        if nearer != call.vote {
            // A step towards its term, and nothing else of it.
            call = AppendEntriesRequest {
                vote: nearer,
                prev_log_id: None,
                entries: Vec::new(),
                leader_commit: None,
            };
            let _stepped = self.raft.append_entries(call).await;
            return Err(Implausible::of(from, "its term is out of reach, for now"));
        }
        call.leader_commit = self.committable(&call).await;
        self.hear_leader();
        Ok(self.raft.append_entries(call).await)
    }

    /// What a request commits, as far as this log has it.
    async fn committable(&self, call: &AppendEntriesRequest<Types>) -> Option<LogId> {
        let (committed, shown) = (call.leader_commit?, plausible::shown(call)?);
        if committed.index >= shown.index {
            return Some(shown);
        }
        if call
            .prev_log_id
            .is_none_or(|before| committed.index >= before.index)
        {
            return Some(committed);
        }
        // Where the logs differ before what is shown, nothing is committed by this request.
        let here = self.log.id_at(committed.index).await;
        here.filter(|here| *here == committed)
    }

    /// A manager, by its certificate, stands for election. A follower that has just heard a leader
    /// does not vote (openraft); nor does the leader that a majority has just confirmed (Raft's
    /// dissertation, 4.2.3).
    pub(crate) async fn vote(
        &self,
        from: NodeId,
        call: VoteRequest<u64>,
    ) -> Result<Result<VoteResponse<u64>, RaftError<u64>>, Implausible> {
        let _turn = self.turn.lock().await;
        let own = match self.own().await {
            Ok(own) => own,
            Err(error) => return Ok(Err(error.into())),
        };
        plausible::vote(&own, from.0, &call)?;
        if self.leads() && self.is_confirmed(ELECTION.start) {
            return Ok(Ok(VoteResponse::new(own.vote, None, false)));
        }
        let nearer = plausible::within_reach(&own.vote, &call.vote);
        if nearer == call.vote {
            return Ok(self.raft.vote(call).await);
        }
        // A step towards its term, which is no vote for it.
        let last_log_id = call.last_log_id;
        let stepped = self.raft.vote(VoteRequest::new(nearer, last_log_id)).await;
        Ok(stepped.map(|answer| VoteResponse::new(answer.vote, answer.last_log_id, false)))
    }

    /// Whether a leader, by its certificate, may send this snapshot. Returns this manager's vote.
    pub(super) async fn judge_snapshot(
        &self,
        from: NodeId,
        vote: &Vote<u64>,
        meta: &SnapshotMeta<u64, BasicNode>,
    ) -> Result<Result<Vote<u64>, Fatal<u64>>, Implausible> {
        let own = match self.own().await {
            Ok(own) => own,
            Err(error) => return Ok(Err(error)),
        };
        plausible::snapshot(&own, from.0, vote, meta)?;
        Ok(Ok(own.vote))
    }

    /// Installs a snapshot that a leader, by its certificate, has sent whole.
    pub(super) async fn install(
        &self,
        from: NodeId,
        vote: Vote<u64>,
        snapshot: Snapshot<Types>,
    ) -> Result<Result<SnapshotResponse<u64>, Fatal<u64>>, Implausible> {
        let _turn = self.turn.lock().await;
        if let Err(error) = self.judge_snapshot(from, &vote, &snapshot.meta).await? {
            return Ok(Err(error));
        }
        self.hear_leader();
        Ok(self.raft.install_full_snapshot(vote, snapshot).await)
    }

    async fn own(&self) -> Result<Own, Fatal<u64>> {
        let me = self.me.0;
        let own = self.raft.with_raft_state(move |state| Own {
            me,
            vote: *state.vote_ref(),
            // Once there is another membership, openraft never takes back the one before.
            committed: state
                .committed
                .max(*state.membership_state.committed().log_id()),
        });
        own.await
    }

    /// What this manager, which listens there, says of the leader.
    pub(crate) fn leadership(&self, own: Option<SocketAddr>) -> Leadership {
        let leader = match self.seat() {
            Some(Seat::Here) => own.map(|own| (self.me, own)),
            Some(Seat::There(node, address)) => Some((node, address)),
            None => None,
        };
        let silence = self.silence();
        let silence = silence.and_then(|silence| u64::try_from(silence.as_millis()).ok());
        Leadership { leader, silence }
    }

    /// Whether this manager votes, leads and has lately been confirmed by a majority.
    pub(crate) fn leads(&self) -> bool {
        !self.resigns.load(Ordering::Relaxed) && self.is_confirmed(LEADER_LEASE)
    }

    /// Whether a majority has confirmed the leadership of this manager, which votes, within this
    /// time.
    pub(crate) fn is_confirmed(&self, within: Duration) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let confirmed = metrics
            .millis_since_quorum_ack
            .is_none_or(|age| u128::from(age) < within.as_millis());
        // A leader that was removed from the voters may believe for a while that it leads.
        let voter = metrics
            .membership_config
            .membership()
            .voter_ids()
            .any(|voter| voter == self.me.0);
        metrics.running_state.is_ok() && metrics.state == ServerState::Leader && voter && confirmed
    }

    /// For how long this manager has heard no leader, itself included. `None`: it has heard none
    /// since its start.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state == ServerState::Leader {
            let age = metrics.millis_since_quorum_ack.unwrap_or(0);
            return Some(Duration::from_millis(age));
        }
        self.leader_heard().map(|at| at.elapsed())
    }

    /// Leaves the lead to another manager, if one takes it.
    pub(crate) async fn resign(&self) {
        self.resigns.store(true, Ordering::Relaxed);
        self.raft.runtime_config().heartbeat(false);
        let follows = |metrics: &Metrics| metrics.state != ServerState::Leader;
        let _late = self
            .raft
            .wait(Some(RESIGN))
            .metrics(follows, "another leader")
            .await;
        self.raft.runtime_config().heartbeat(true);
        self.resigns.store(false, Ordering::Relaxed);
    }

    /// Notes that a leader appends.
    pub(crate) fn hear_leader(&self) {
        let mut heard = self
            .leader_heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *heard = Some(Instant::now());
    }

    /// When a leader has appended last. `None`: not since the start.
    pub(crate) fn leader_heard(&self) -> Option<Instant> {
        *self
            .leader_heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets this manager stand for election once its time comes, or not.
    pub(crate) fn may_stand(&self, may: bool) {
        self.raft.runtime_config().elect(may);
    }

    /// Where the leader is, as far as this manager knows.
    pub(crate) fn seat(&self) -> Option<Seat> {
        if self.leads() {
            return Some(Seat::Here);
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        // After a failure of the log the metrics never change again.
        metrics.running_state.as_ref().ok()?;
        let leader = metrics
            .current_leader
            .filter(|&leader| leader != self.me.0)?;
        let membership = metrics.membership_config.membership();
        let _still_a_voter = membership.voter_ids().find(|&voter| voter == self.me.0)?;
        let address = membership.get_node(&leader)?.addr.parse().ok()?;
        Some(Seat::There(NodeId(leader), address))
    }

    /// The other managers that vote, and where they listen.
    pub(crate) fn other_voters(&self) -> Vec<(NodeId, SocketAddr)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let mut voters = Vec::new();
        for voter in membership.voter_ids().filter(|&voter| voter != self.me.0) {
            let address = membership.get_node(&voter);
            if let Some(address) = address.and_then(|place| place.addr.parse().ok()) {
                voters.push((NodeId(voter), address));
            }
        }
        voters
    }

    /// The managers that Raft is for, those that vote and those that are to, and where they listen.
    pub(crate) fn members(&self) -> BTreeMap<NodeId, Option<SocketAddr>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let nodes = metrics.membership_config.membership().nodes();
        let place = |(node, place): (&u64, &BasicNode)| (NodeId(*node), place.addr.parse().ok());
        nodes.map(place).collect()
    }

    /// The managers that vote.
    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        self.raft
            .metrics()
            .borrow()
            .membership_config
            .membership()
            .voter_ids()
            .collect()
    }

    /// Whether this manager votes, or it is not known yet who does.
    pub(crate) fn may_vote(&self) -> bool {
        let voters = self.voters();
        voters.is_empty() || voters.contains(&self.me.0)
    }

    /// Whether this manager votes, and the change that made it a voter is over: while it is under
    /// way, the voters of before have to be a majority, too.
    pub(crate) fn votes(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let is_settled = membership.get_joint_config().len() == 1;
        is_settled && membership.voter_ids().any(|voter| voter == self.me.0)
    }

    /// Whether a manager has confirmed entries or heartbeats of this leader lately.
    pub(crate) fn is_confirmed_by(&self, node: NodeId) -> bool {
        self.acks.within(node, NODE_LEASE)
    }

    /// Whether a node has been heard lately.
    pub(crate) fn hears(&self, node: NodeId) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&node).is_some_and(|at| at.elapsed() < NODE_LEASE)
    }

    /// Notes that a node has been heard.
    pub(crate) fn hear(&self, node: NodeId) {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, Instant::now());
    }
}
