//! Membership at the leader: admits hosts, and makes managers voters or removes them from the
//! voters.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use model::{
    Availability, BalancerKind, ClusterCommand, Command, Issuer, Kind, Level, Node, NodeCommand,
    NodeId, NodeStatus, Refusal, RequestId, Response, Role, StateMachine, TooNew,
};
use openraft::{BasicNode, ChangeMembers, RaftMetrics};
use tokio::time::{sleep, timeout};

use crate::{
    JoinAnswer, JoinCall, PeerIdentity, link, pki,
    raft::{self, Consensus, Retry, now},
};

/// How long a new manager may take to catch up with the log.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest command that a member may propose.
const COMMAND_BYTES: usize = 128 << 10;
/// How long a new leader waits for a majority of managers to be heard, and how often it checks.
const HEARING_TIMEOUT: Duration = Duration::from_secs(3);
const HEARING_PAUSE: Duration = Duration::from_millis(50);

impl<S: StateMachine> Consensus<S> {
    /// Admits a host that knows a token's secret: signs its certificate and makes its record.
    /// Idempotent.
    pub(crate) async fn admit(
        &self,
        call: &JoinCall,
    ) -> Result<Result<JoinAnswer, Refusal>, Retry> {
        // Only who knows a secret costs a round of the managers.
        let is_wrong = self.machine.read(|state| {
            state.authority().is_some_and(|authority| {
                let secrets = [Role::Worker, Role::Manager].map(|role| authority.secret(role));
                !secrets.contains(&&call.secret)
            })
        });
        if is_wrong && self.has_applied_own_term() {
            return Ok(Err(wrong_secret()));
        }
        // A leader that has not applied the whole log could accept a replaced token.
        crate::raft::confirmed(self.raft.ensure_linearizable()).await?;
        let authority = self.machine.read(|state| state.authority().cloned());
        let authority =
            authority.ok_or_else(|| Retry("the cluster is only just being made".to_owned()))?;
        let roles = [Role::Worker, Role::Manager];
        let Some(role) = roles
            .into_iter()
            .find(|&role| *authority.secret(role) == call.secret)
        else {
            return Ok(Err(wrong_secret()));
        };
        if call.address.ip().is_unspecified() || call.address.port() == 0 {
            return Ok(Err(unreachable_address(call.address)));
        }
        if let Err(error) = link::reach(call.address).await {
            return Ok(Err(not_reached(call.address, &error)));
        }
        let level = self.machine.read(StateMachine::level);
        if call.level < level {
            return Ok(Err(too_old(call, level)));
        }
        let (key, certificate) = match pki::sign(&authority, &call.request, role) {
            Ok(signed) => signed,
            Err(error) => {
                return Ok(Err(Refusal::new(
                    Kind::Invalid,
                    error.to_string(),
                    "join again",
                )));
            }
        };
        let id = key.node();
        let key = (level >= Level::KEYS).then_some(key);
        let node = Node {
            key,
            ..new_node(id, role, call)
        };
        // The id follows from the request, so that asking again is the same request.
        let response = self
            .write(
                RequestId(id.0),
                Command::Node(NodeCommand::Admit { node: node.clone() }),
            )
            .await?;
        if let Err(refusal) = response {
            return Ok(Err(refusal));
        }
        tracing::info!(node = %id, %role, hostname = node.hostname, address = %node.address,
            "node admitted");
        let managers = self.machine.read(|state| {
            let nodes = state.nodes().values();
            let managers = nodes.filter(|node| node.role == Role::Manager);
            managers.map(|node| node.address).collect()
        });
        let voters = self.standing.voters().into_iter().map(NodeId).collect();
        Ok(Ok(JoinAnswer {
            certificate,
            root: authority.root_certificate,
            node,
            managers,
            voters,
        }))
    }

    /// Makes an admitted manager a voter.
    pub(crate) async fn enlist(&self, node: NodeId) -> Result<(), Retry> {
        let _turn = self.turn.lock().await;
        if self.standing.voters().contains(&node.0) {
            return Ok(());
        }
        let node = self
            .node(node)
            .ok_or_else(|| Retry(format!("node {node} has no record")))?;
        let learner = self
            .raft
            .add_learner(node.id.0, BasicNode::new(node.address), true);
        let caught_up = timeout(CATCH_UP_TIMEOUT, learner).await;
        caught_up.map_err(|_| not_caught_up())?.map_err(retry)?;
        // openraft cannot tell a learner that was never reached from one that lags a little behind
        // a short log.
        let reached = |metrics: &RaftMetrics<u64, BasicNode>| {
            metrics
                .replication
                .as_ref()
                .is_some_and(|replication| matches!(replication.get(&node.id.0), Some(Some(_))))
        };
        let taken = self.raft.wait(Some(CATCH_UP_TIMEOUT));
        taken
            .metrics(reached, "the new manager has taken entries")
            .await
            .map_err(|_| not_caught_up())?;
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([node.id.0]));
        self.change_voters(change).await?;
        tracing::info!(node = %node.id, "manager votes");
        Ok(())
    }

    /// Carries out what a member proposes.
    pub(crate) async fn take(
        &self,
        from: PeerIdentity,
        request: RequestId,
        command: Command,
    ) -> Result<Response, Retry> {
        let level = self.machine.read(StateMachine::level);
        let refused = forbidden(from, &command)
            .or_else(|| too_large(&command))
            .or_else(|| too_early(&command, level));
        if let Some(refusal) = refused {
            return Ok(Err(refusal));
        }
        if let Command::Node(NodeCommand::Remove { node }) = command
            && let Err(refusal) = self.dismiss(node).await?
        {
            return Ok(Err(refusal));
        }
        if !self.standing.voters().contains(&self.me.0) {
            // The others elect a leader once this one stops heartbeats; new entries here would
            // never be confirmed.
            self.raft.runtime_config().heartbeat(false);
            return Err(Retry(
                "this manager votes no more and another one takes over".to_owned(),
            ));
        }
        self.write(request, command).await
    }

    /// Removes a manager from the voters, if the rest have a majority without it.
    async fn dismiss(&self, node: NodeId) -> Result<Result<(), Refusal>, Retry> {
        let _turn = self.turn.lock().await;
        let mut rest = self.standing.voters();
        if !rest.remove(&node.0) {
            return Ok(Ok(()));
        }
        if rest.is_empty() {
            return Ok(Err(last_manager(node)));
        }
        let alive = self.alive(&rest).await;
        if alive * 2 <= rest.len() {
            return Ok(Err(no_majority(node, alive, rest.len())));
        }
        self.change_voters(ChangeMembers::RemoveVoters(BTreeSet::from([node.0])))
            .await?;
        tracing::info!(%node, "manager votes no more");
        Ok(Ok(()))
    }

    /// Number of these managers that are alive. A new leader waits a while until it has heard a
    /// majority.
    async fn alive(&self, voters: &BTreeSet<u64>) -> usize {
        let count = || {
            voters
                .iter()
                .filter(|&&voter| voter == self.me.0 || self.standing.hears(NodeId(voter)))
                .count()
        };
        let majority = async {
            while count() * 2 <= voters.len() {
                sleep(HEARING_PAUSE).await;
            }
        };
        let _heard = timeout(HEARING_TIMEOUT, majority).await;
        count()
    }

    async fn change_voters(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), Retry> {
        let changed = timeout(CATCH_UP_TIMEOUT, self.raft.change_membership(change, false)).await;
        changed
            .map_err(|_| Retry("no majority confirms the change of managers".to_owned()))?
            .map_err(retry)?;
        Ok(())
    }
}

fn new_node(id: NodeId, role: Role, call: &JoinCall) -> Node {
    Node {
        id,
        hostname: call.hostname.clone(),
        address: call.address,
        vtep: call.vtep,
        role,
        availability: Availability::Active,
        balancer: BalancerKind::default(),
        status: NodeStatus::Unknown,
        applied: 0,
        behind: Default::default(),
        failures: Vec::new(),
        causes: Vec::new(),
        capabilities: None,
        on_link: BTreeSet::new(),
        key: None,
        joined: now(),
        version: 0,
    }
}

/// Whether this member may propose this command: the leader's own are no member's, a host speaks
/// for itself only, and what would make a worker a manager is for managers.
fn forbidden(from: PeerIdentity, command: &Command) -> Option<Refusal> {
    let denied = |cause: &str, next: &str| Some(Refusal::new(Kind::Denied, cause, next));
    match command.issuer() {
        Issuer::Leader => denied(
            "this command is the leader's own: no member may propose it",
            "",
        ),
        Issuer::Host(nodes) if nodes.iter().any(|node| *node != from.node) => denied(
            "a host speaks for its own containers and tasks only",
            "run the command on the host that it is about",
        ),
        Issuer::Host(_) => None,
        Issuer::Person => match command {
            Command::Cluster(ClusterCommand::RotateToken { .. }) if from.role == Role::Worker => {
                denied(
                    "a worker may not replace a join token",
                    "run the command on a manager",
                )
            }
            _ => None,
        },
    }
}

/// A command that the cluster is not ready for: some member would not understand it.
fn too_early(command: &Command, level: Level) -> Option<Refusal> {
    if command.level() <= level {
        return None;
    }
    let cause = format!(
        "the command needs a cluster of level {}, and this one is at level {level}: not every \
         member runs a netd that knows it",
        command.level()
    );
    let next = "upgrade the members with a lower LEVEL in `swarmctl node ls`, then try again";
    Some(Refusal::new(Kind::Precondition, cause, next))
}

/// Each entry of the log has to reach the other managers within a heartbeat.
fn too_large(command: &Command) -> Option<Refusal> {
    let size = raft::size(command);
    let cause =
        format!("the command is {size} bytes long, and the log takes at most {COMMAND_BYTES}");
    let ports = command.published().iter();
    let of_ports: usize = ports.map(|port| port.to_string().len()).sum();
    let next = match of_ports > size / 8 {
        true => "publish fewer ports, or ports that follow one another, which are one range",
        false => "shorten its labels, environment or arguments",
    };
    (size > COMMAND_BYTES).then(|| Refusal::new(Kind::Invalid, cause, next))
}

fn wrong_secret() -> Refusal {
    Refusal::new(
        Kind::Denied,
        "the secret of the join token is wrong, or the token has been replaced",
        "`swarmctl token worker` or `swarmctl token manager` on a manager prints the token that is \
         valid now",
    )
}

fn unreachable_address(address: SocketAddr) -> Refusal {
    Refusal::new(
        Kind::Invalid,
        format!("{address} is not an address that other hosts can reach"),
        "give one of the host's own addresses with `--advertise-addr`",
    )
}

fn too_old(call: &JoinCall, level: Level) -> Refusal {
    let cause = format!(
        "host {:?} runs a netd that knows levels up to {}, and the cluster is at level {level}",
        call.hostname, call.level
    );
    Refusal::new(Kind::Precondition, cause, TooNew::NEXT)
}

fn not_reached(address: SocketAddr, error: &io::Error) -> Refusal {
    Refusal::new(
        Kind::Invalid,
        format!("the cluster's leader does not reach this host at {address}: {error}"),
        format!(
            "open TCP port {} of this host to the others, or give another of its addresses with \
             `--advertise-addr`",
            address.port()
        ),
    )
}

fn not_caught_up() -> Retry {
    Retry("the new manager does not catch up with the log".to_owned())
}

fn last_manager(node: NodeId) -> Refusal {
    Refusal::new(
        Kind::Precondition,
        format!("node {node} is the last manager: without it the cluster and all it runs are lost"),
        "`swarmctl leave --force` ends the cluster",
    )
}

fn no_majority(node: NodeId, alive: usize, rest: usize) -> Refusal {
    Refusal::new(
        Kind::Precondition,
        format!(
            "without node {node} only {alive} of {rest} managers are alive, which is no majority"
        ),
        "bring the other managers back first (`swarmctl node ls`), or `swarmctl leave --force`",
    )
}

fn retry(error: impl std::fmt::Display) -> Retry {
    Retry(error.to_string())
}
