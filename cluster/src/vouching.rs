//! Which managers Raft is for. Membership of Raft is what counts, as this manager's own log says;
//! the state may be older than that, and so may the log: a manager that was away asks those that it
//! knows about one that it does not.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::{decode, encode, proto::raft_client::RaftClient};
use futures::{StreamExt, stream::FuturesUnordered};
use model::{Node, NodeId, Role, StateMachine};
use tokio::time::{Instant, timeout};

use crate::{Member, PeerIdentity, link::Target, raft::Consensus, timing::NODE_LEASE};

/// How long a manager may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer counts.
const LIFE: Duration = Duration::from_secs(1);
/// The most answers that are remembered: of managers that come at the same time.
const ANSWERS: usize = 16;

/// What others have said lately of managers that this one does not know.
#[derive(Default)]
pub(crate) struct Vouched(Mutex<BTreeMap<NodeId, (Instant, bool)>>);

impl Vouched {
    fn of(&self, node: NodeId) -> Option<bool> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, answer) = known.get(&node)?;
        (at.elapsed() < LIFE).then_some(*answer)
    }

    fn note(&self, node: NodeId, answer: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < LIFE);
        if known.len() < ANSWERS {
            known.insert(node, (Instant::now(), answer));
        }
    }
}

/// Whether Raft is for a node, by its certificate. A host that takes no part in it tells every
/// manager so.
pub(crate) async fn raft_is_for<S: StateMachine>(member: &Member<S>, peer: PeerIdentity) -> bool {
    let Some(consensus) = member.consensus() else {
        return peer.role == Role::Manager;
    };
    if peer.role != Role::Manager || is_another(consensus, peer) {
        return false;
    }
    let members = consensus.standing.members();
    if members.contains_key(&peer.node) {
        return true;
    }
    let (managers, voters) = member.told();
    if members.is_empty() && (voters.is_empty() || voters.contains(&peer.node)) {
        return true;
    }
    if let Some(answer) = member.vouched().of(peer.node) {
        return answer;
    }
    let mut targets = Vec::new();
    for (node, address) in members {
        let target = |address| Target {
            address,
            node: Some(node),
        };
        targets.extend(address.filter(|_| node != member.node()).map(target));
    }
    if targets.is_empty() {
        let target = |&address| Target {
            address,
            node: None,
        };
        targets.extend(managers.iter().map(target));
    }
    let answer = ask(member, targets, peer.node).await;
    // Each change of the members is in the logs of a majority of those before, so one of those that
    // can be asked knows of it. Where there is none, this manager is alone with the other.
    let hears_a_leader = consensus
        .standing
        .silence()
        .is_some_and(|silence| silence < NODE_LEASE);
    let answer = answer.unwrap_or(!hears_a_leader);
    member.vouched().note(peer.node, answer);
    answer
}

/// Whether the state has the node with another key or role.
fn is_another<S: StateMachine>(consensus: &Consensus<S>, peer: PeerIdentity) -> bool {
    let differs =
        |known: &Node| known.role != peer.role || known.key.is_some_and(|key| key != peer.key);
    let node = |state: &S| state.nodes().get(&peer.node).is_some_and(differs);
    consensus.machine.read(node)
}

/// Whether one of these managers knows another as one. `None`: nobody answers.
async fn ask<S: StateMachine>(
    member: &Member<S>,
    managers: Vec<Target>,
    about: NodeId,
) -> Option<bool> {
    let asked = managers.into_iter().map(async |manager| {
        let mut client = RaftClient::new(member.links().channel(manager));
        let answer = timeout(TIMEOUT, client.vouch(encode(&about)))
            .await
            .ok()?
            .ok()?;
        decode::<bool>(answer.get_ref()).ok()
    });
    let mut answers: FuturesUnordered<_> = asked.collect();
    let mut known = None;
    while let Some(answer) = answers.next().await {
        match answer {
            Some(true) => return Some(true),
            Some(false) => known = Some(false),
            None => {}
        }
    }
    known
}
