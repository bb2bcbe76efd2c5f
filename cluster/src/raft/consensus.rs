//! A manager's Raft instance: start, write, read, leadership, and the sessions that the leader has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model::{
    Answer, Command, KeyDigest, Level, Millis, Node, NodeId, NodeStatus, Query, Refusal, RequestId,
    Response, Role, StateMachine, TokenInfo,
};
use openraft::{
    BasicNode, Config, EntryPayload, Raft, RaftLogReader, RaftMetrics, SnapshotPolicy,
    storage::{RaftLogStorage, RaftStateMachine},
};
use tokio::{
    sync::Semaphore,
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    LogId, Machine, Types,
    commit::Commits,
    log::Log,
    mark::{Mark, Reached},
    network::{Acks, Network},
    standing::Standing,
    transfer::Incoming,
};
use crate::{
    ClusterError, dispatcher,
    fanout::Fanout,
    files,
    history::{self, History, Limits},
    link::{Links, Target},
    pki,
    timing::{CONFIRM, ELECTION, HEARTBEAT},
    token::Token,
};

/// Pause before a node that could not be reached is tried again.
const REACH_PAUSE: Duration = Duration::from_secs(2);
/// The most that may watch one leader at the same time.
const WATCHERS: usize = 1_000;

type Metrics = RaftMetrics<u64, BasicNode>;

/// The request may or may not have been executed; the caller repeats it with the same id.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Retry(pub String);

/// A manager's part in Raft.
pub(crate) struct Consensus<S> {
    pub raft: Raft<Types>,
    pub standing: Arc<Standing>,
    pub machine: Machine<S>,
    /// The snapshot that a leader is sending.
    pub(super) incoming: tokio::sync::Mutex<Incoming>,
    /// The views of the nodes that have a session with this leader.
    pub fanout: Fanout<S>,
    pub me: NodeId,
    /// Changes of the set of voters take turns.
    pub(crate) turn: tokio::sync::Mutex<()>,
    pub directory: PathBuf,
    mark: Mark,
    log: Log,
    /// The end of the log that this process has found.
    found: Option<LogId>,
    commits: Commits,
    /// The newest level that this netd knows.
    pub known: Level,
    sessions: Mutex<Sessions>,
    /// Nodes that this leader has reached where their record says, by their certificates.
    reached: Mutex<BTreeSet<NodeId>>,
    links: Links,
    /// What the cluster's objects became.
    pub history: History,
    keeping: AbortHandle,
    /// A place for each that watches.
    pub watchers: Arc<Semaphore>,
    /// For large views on their way to nodes.
    pub room: Arc<Semaphore>,
}

impl<S: StateMachine> Consensus<S> {
    /// Starts from what is on disk, which may be nothing. Errors: among others, this is not the log
    /// that is remembered.
    pub(crate) async fn start(
        directory: &Path,
        mark: Mark,
        me: NodeId,
        links: Links,
        known: Level,
        limits: Limits,
    ) -> Result<Self, ClusterError> {
        mark.check_name()?;
        files::make_directory(directory)?;
        let machine = Machine::<S>::open(&directory.join("snapshot"), known)?;
        let level = machine.read(StateMachine::level);
        let mut log = Log::open(directory, known, level)?;
        if machine.applied().borrow().gt(&0) && log.is_new().await? {
            return Err(ClusterError::Damaged {
                path: directory.to_owned(),
                offset: 0,
                reason: "there is a snapshot, and the log that belongs to it is missing".to_owned(),
            });
        }
        let found = log
            .get_log_state()
            .await
            .map_err(|error| failed("read the log", error))?
            .last_log_id;
        let vote = log.read_vote().await;
        let vote = vote.map_err(|error| failed("read the log", error))?;
        let last = found.map_or(0, |found| found.index);
        mark.check(Reached::of(vote, last.max(*machine.applied().borrow())))?;
        let history = History::open(&directory.join("history.redb"), known, limits)?;
        let keeping = tokio::spawn(history::keep(machine.clone(), history.clone()));
        settle_voters(me, &log, &machine).await?;
        let acks = Acks::default();
        let own_links = links.clone();
        let raft = Raft::new(
            me.0,
            config()?,
            Network {
                me: me.0,
                links,
                log: log.clone(),
                acks: acks.clone(),
            },
            log.clone(),
            machine.clone(),
        )
        .await;
        let raft = raft.map_err(|error| failed("start Raft", error))?;
        let commits = Commits::start(raft.clone(), machine.clone());
        Ok(Self {
            standing: Arc::new(Standing::new(raft.clone(), me, log.clone(), acks)),
            incoming: tokio::sync::Mutex::default(),
            raft,
            fanout: Fanout::new(machine.clone()),
            machine,
            me,
            turn: tokio::sync::Mutex::default(),
            directory: directory.to_owned(),
            mark,
            log,
            found,
            commits,
            known,
            sessions: Mutex::default(),
            reached: Mutex::default(),
            links: own_links,
            history,
            keeping: keeping.abort_handle(),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
            room: Arc::new(Semaphore::new(dispatcher::ROOM)),
        })
    }

    /// Makes a cluster of this manager alone.
    pub(crate) async fn initialize(&self, address: SocketAddr) -> Result<(), ClusterError> {
        let members = BTreeMap::from([(self.me.0, BasicNode::new(address))]);
        self.raft
            .initialize(members)
            .await
            .map_err(|error| failed("make a cluster", error))
    }

    /// Remembers, outside of the log, what it has reached: this manager votes.
    pub(crate) async fn remember(&self) -> Result<(), ClusterError> {
        let mut log = self.log.clone();
        let vote = log.read_vote().await;
        let vote = vote.map_err(|error| failed("read the log", error))?;
        let reached = Reached::of(vote, *self.machine.applied().borrow());
        let mark = self.mark.clone();
        let kept = tokio::task::spawn_blocking(move || mark.keep(reached)).await;
        kept.map_err(|error| failed("remember the log", error))?
    }

    /// Puts the log out of use for good, for this reason: its state is not that of the others.
    pub(crate) async fn disown(&self, reason: &str) -> Result<(), ClusterError> {
        let (mark, reason) = (self.mark.clone(), reason.to_owned());
        let disowned = tokio::task::spawn_blocking(move || mark.disown(&reason)).await;
        disowned.map_err(|error| failed("disown the log", error))?
    }

    /// Stops and lets go of the files.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
        self.keeping.abort();
        self.history.close();
        self.log.close();
    }

    /// Puts a command into the log, stamped with this leader's clock and, where it makes keys, with
    /// chance.
    pub(crate) async fn write(
        &self,
        request: RequestId,
        command: Command,
    ) -> Result<Response, Retry> {
        self.commits.write(request, command).await
    }

    /// Answers a question on the newest state.
    pub(crate) async fn query(&self, query: &Query) -> Result<Result<Answer, Refusal>, Retry> {
        confirmed(self.raft.ensure_linearizable()).await?;
        self.catch_up().await?;
        if let Query::Nodes | Query::Node(_) = query {
            let answer = self
                .machine
                .read(|state| state.answer(Some(self.me), query));
            return Ok(answer.map(|answer| self.with_word_of_leader(answer)));
        }
        let Query::Token(role) = query else {
            return Ok(self
                .machine
                .read(|state| state.answer(Some(self.me), query)));
        };
        self.token(*role).map(|token| Ok(Answer::Token(token)))
    }

    /// Adds what is no part of the state: the level that each node says to the leader, and which
    /// managers vote.
    fn with_word_of_leader(&self, mut answer: Answer) -> Answer {
        if let Answer::Nodes(nodes) = &mut answer {
            let voters = self.standing.voters();
            for node in nodes {
                node.level = self.level_of(node.id);
                let confirms = node.id == self.me || self.standing.is_confirmed_by(node.id);
                let votes = voters.contains(&node.id.0) && confirms;
                node.votes = (node.role == Role::Manager).then_some(votes);
            }
        }
        answer
    }

    /// A restarted leader does not know which entries were committed: openraft 0.9 uses the mark on
    /// disk, which may be older. So reads wait until every entry of the log at the start is
    /// committed.
    pub(crate) async fn catch_up(&self) -> Result<(), Retry> {
        let Some(found) = self.found else {
            return Ok(());
        };
        let has_all = |metrics: &Metrics| {
            metrics.current_term > found.leader_id.term || metrics.last_applied >= Some(found)
        };
        if has_all(&self.raft.metrics().borrow()) {
            return Ok(());
        }
        confirmed(self.raft.wait(None).metrics(has_all, "its own log"))
            .await
            .map(|_| ())
    }

    /// Whether the state holds all that this leader and those before it have acknowledged.
    pub(crate) fn has_applied_own_term(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let applied = metrics.last_applied;
        applied.is_some_and(|applied| applied.leader_id.term == metrics.current_term)
    }

    fn token(&self, role: Role) -> Result<TokenInfo, Retry> {
        self.machine.read(|state| {
            let authority = state
                .authority()
                .ok_or_else(|| Retry("the cluster is only just being made".to_owned()))?;
            let root =
                pki::root(&authority.root_certificate).map_err(|error| Retry(error.to_string()))?;
            let me = state
                .nodes()
                .get(&self.me)
                .ok_or_else(|| Retry("this manager has no record".to_owned()))?;
            let token = Token::new(&root, authority.secret(role).clone()).to_string();
            Ok(TokenInfo {
                role,
                token,
                address: me.address,
            })
        })
    }

    /// A record of the state.
    pub(crate) fn node(&self, node: NodeId) -> Option<Node> {
        self.machine.read(|state| state.nodes().get(&node).cloned())
    }
}

/// What a leader has learned of a node with which it has a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionPeer {
    /// The newest level that the node knows.
    pub level: Level,
    /// The key that it has shown.
    pub key: KeyDigest,
}

/// The nodes that have a session with this leader.
#[derive(Default)]
struct Sessions {
    opened: u64,
    peers: BTreeMap<NodeId, (u64, SessionPeer)>,
}

impl<S: StateMachine> Consensus<S> {
    /// A node opens a session. Returns the session's number.
    pub(crate) fn session_opens(&self, node: NodeId, peer: SessionPeer) -> u64 {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.opened += 1;
        let number = sessions.opened;
        sessions.peers.insert(node, (number, peer));
        number
    }

    /// A session ends; a newer one of the same node goes on.
    pub(crate) fn session_ends(&self, node: NodeId, number: u64) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = sessions.peers.get(&node).map(|(newest, _)| *newest);
        if newest == Some(number) {
            sessions.peers.remove(&node);
        }
    }

    /// Connects to a node where its record says, until that has worked once or nobody waits for it
    /// any more. Whoever has a join token can name any address; the certificate there tells.
    pub(crate) async fn reach(&self, node: NodeId) {
        while let Some(Node {
            address, status, ..
        }) = self.node(node)
            && !self.may_be_ready(node, status)
        {
            let target = Target {
                address,
                node: Some(node),
            };
            match self.links.reaches(target).await {
                Ok(()) => {
                    let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
                    reached.insert(node);
                    return;
                }
                Err(error) => {
                    let next = error.next();
                    tracing::warn!(%node, %error, next, "a node that has joined is not ready yet");
                }
            }
            sleep(REACH_PAUSE).await;
        }
    }

    /// Whether a node that has this status may be ready. Once it was, its sessions are enough.
    pub(crate) fn may_be_ready(&self, node: NodeId, status: NodeStatus) -> bool {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        status != NodeStatus::Unknown || node == self.me || reached.contains(&node)
    }

    /// The newest level that a node knows, while it has a session with this leader.
    pub(crate) fn level_of(&self, node: NodeId) -> Option<Level> {
        self.peer(node).map(|peer| peer.level)
    }

    fn peer(&self, node: NodeId) -> Option<SessionPeer> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.peers.get(&node).map(|(_, peer)| *peer)
    }

    /// The keys of nodes whose record has none yet, of those that have a session.
    pub(crate) fn new_keys(&self) -> Vec<(NodeId, KeyDigest)> {
        let without: Vec<NodeId> = self.machine.read(|state| {
            if state.level() < Level::KEYS {
                return Vec::new();
            }
            let nodes = state.nodes().values();
            let without = nodes.filter(|node| node.key.is_none());
            without.map(|node| node.id).collect()
        });
        let shown = |node| Some((node, self.peer(node)?.key));
        without.into_iter().filter_map(shown).collect()
    }

    /// The cluster's next level, if this manager and every member know it.
    pub(crate) fn next_level(&self) -> Option<Level> {
        let (next, nodes) = self.machine.read(|state| {
            let nodes: Vec<NodeId> = state.nodes().keys().copied().collect();
            (state.level().next(), nodes)
        });
        let knows = |node: &NodeId| self.level_of(*node).is_some_and(|level| level >= next);
        (next <= self.known && !nodes.is_empty() && nodes.iter().all(knows)).then_some(next)
    }
}

/// Waits for a majority, but not for ever.
pub(crate) async fn confirmed<T, E: std::fmt::Display>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Retry> {
    match timeout(CONFIRM, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Retry(error.to_string())),
        Err(_) => Err(Retry("no majority of managers confirms".to_owned())),
    }
}

/// This host's clock.
pub(crate) fn now() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| age.as_millis() as Millis)
}

/// Tells the log whose it is and who votes, as far as state and log say.
pub(super) async fn settle_voters<S: StateMachine>(
    me: NodeId,
    log: &Log,
    machine: &Machine<S>,
) -> Result<(), ClusterError> {
    let unread = |error| failed("read the log", error);
    let (applied, membership) = machine.clone().applied_state().await.map_err(unread)?;
    let voters = machine.voters();
    voters.are(*membership.log_id(), membership.membership());
    let rest = applied.map_or(0, |applied| applied.index + 1)..;
    for entry in log
        .clone()
        .try_get_log_entries(rest)
        .await
        .map_err(unread)?
    {
        if let EntryPayload::Membership(membership) = entry.payload {
            voters.are(Some(entry.log_id), &membership);
        }
    }
    log.belongs_to(me.0, voters).await
}

pub(super) fn config() -> Result<Arc<Config>, ClusterError> {
    let config = Config {
        cluster_name: "netd".to_owned(),
        heartbeat_interval: HEARTBEAT.as_millis() as u64,
        election_timeout_min: ELECTION.start.as_millis() as u64,
        election_timeout_max: ELECTION.end.as_millis() as u64,
        install_snapshot_timeout: 10_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(5_000),
        max_in_snapshot_log_to_keep: 1_000,
        snapshot_max_chunk_size: 1 << 20,
        ..Config::default()
    };
    config
        .validate()
        .map(Arc::new)
        .map_err(|error| failed("configure Raft", error))
}

fn failed(operation: &'static str, error: impl std::fmt::Display) -> ClusterError {
    ClusterError::Raft {
        operation,
        reason: error.to_string(),
    }
}
