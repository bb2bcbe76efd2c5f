//! What managers make of messages that no honest manager sends, from one that was removed and from
//! one that is a member.

use std::collections::{BTreeMap, BTreeSet};

use api::{encode, proto::raft_client::RaftClient};
use model::{Command, NodeCommand, NodeId, Role, StateMachine};
use openraft::{
    BasicNode, CommittedLeaderId, Entry, EntryPayload, Membership, SnapshotMeta, StoredMembership,
    Vote,
    raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Serialize;
use tonic::{Code, Status, transport::Channel};

use super::*;
use crate::{
    identity::Identity,
    link::{Links, Target},
    pki,
    raft::Types,
    tls,
};

type LogId = openraft::LogId<u64>;

/// A request of Raft.
enum Call {
    Vote(VoteRequest<u64>),
    Append(AppendEntriesRequest<Types>),
    Snapshot(InstallSnapshotRequest<Types>),
}

async fn send(client: &mut RaftClient<Channel>, call: &Call) -> Result<(), Status> {
    fn json(call: &impl Serialize) -> api::proto::Json {
        encode(call)
    }
    let answer = match call {
        Call::Vote(call) => client.vote(json(call)).await,
        Call::Append(call) => client.append(json(call)).await,
        Call::Snapshot(call) => client.install_snapshot(json(call)).await,
    };
    answer.map(drop)
}

/// What a manager knows, and makes messages of.
struct Forger {
    me: u64,
    others: Vec<u64>,
    vote: Vote<u64>,
    last: LogId,
    members: Membership<u64, BasicNode>,
    chance: StdRng,
}

impl Forger {
    fn of(member: &Node, seed: u64) -> Self {
        let metrics = member.consensus().unwrap().raft.metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.membership().clone();
        Self {
            me: member.node().0,
            others: members.voter_ids().collect(),
            vote: metrics.vote,
            last: metrics.last_applied.unwrap(),
            members,
            chance: StdRng::seed_from_u64(seed),
        }
    }

    fn number(&mut self, near: u64) -> u64 {
        match self.chance.random_range(0..12) {
            0 => u64::MAX,
            1 => u64::MAX - self.chance.random_range(0..3),
            2 => 1 << self.chance.random_range(0..64_u32),
            3 => 0,
            _ => (near + 3).saturating_sub(self.chance.random_range(0..7)),
        }
    }

    fn node(&mut self) -> u64 {
        let other = self.chance.random_range(0..self.others.len());
        match self.chance.random_range(0..10) {
            0 => self.chance.random(),
            1 | 2 => self.others[other],
            _ => self.me,
        }
    }

    fn vote(&mut self, committed: bool) -> Vote<u64> {
        let (term, node) = (self.number(self.vote.leader_id.term), self.node());
        match committed ^ self.chance.random_ratio(1, 20) {
            true => Vote::new_committed(term, node),
            false => Vote::new(term, node),
        }
    }

    fn id(&mut self) -> LogId {
        if self.chance.random_ratio(1, 3) {
            return self.last;
        }
        let leader = self.last.leader_id;
        let node = if self.chance.random_ratio(1, 4) {
            self.node()
        } else {
            leader.node_id
        };
        let leader = CommittedLeaderId::new(self.number(leader.term), node);
        LogId::new(leader, self.number(self.last.index))
    }

    fn maybe_id(&mut self) -> Option<LogId> {
        self.chance.random_ratio(9, 10).then(|| self.id())
    }

    fn membership(&mut self) -> Membership<u64, BasicNode> {
        let mut nodes: BTreeMap<u64, BasicNode> = BTreeMap::new();
        for (node, place) in self.members.nodes() {
            nodes.insert(*node, place.clone());
        }
        let all: BTreeSet<u64> = nodes.keys().copied().collect();
        match self.chance.random_range(0..4) {
            0 => Membership::new(Vec::new(), nodes),
            1 => Membership::new(vec![BTreeSet::new()], nodes),
            2 => {
                nodes
                    .values_mut()
                    .for_each(|place| place.addr = "nowhere".to_owned());
                Membership::new(vec![all], nodes)
            }
            _ => self.members.clone(),
        }
    }

    /// Entries that follow the last one, or nearly.
    fn entries(&mut self, after: Option<LogId>, vote: Vote<u64>) -> Vec<Entry<Types>> {
        let mut index = after.map_or(0, |after| after.index.wrapping_add(1));
        let mut entries = Vec::new();
        for _ in 0..self.chance.random_range(0..4) {
            let log_id = match self.chance.random_range(0..6) {
                0 => self.id(),
                _ => LogId::new(vote.leader_id, index),
            };
            index = index.wrapping_add(1);
            let payload = match self.chance.random_range(0..3) {
                0 => EntryPayload::Membership(self.membership()),
                _ => EntryPayload::Blank,
            };
            entries.push(Entry { log_id, payload });
        }
        entries
    }

    fn call(&mut self) -> Call {
        match self.chance.random_range(0..5) {
            0 => Call::Vote(VoteRequest {
                vote: self.vote(false),
                last_log_id: self.maybe_id(),
            }),
            1 => {
                let vote = self.vote(true);
                let log_id = self.maybe_id();
                let membership = self.membership();
                let meta = SnapshotMeta {
                    last_log_id: self.maybe_id(),
                    last_membership: StoredMembership::new(log_id, membership),
                    snapshot_id: "s".repeat(self.chance.random_range(0..200)),
                };
                Call::Snapshot(InstallSnapshotRequest {
                    vote,
                    meta,
                    offset: if self.chance.random() {
                        0
                    } else {
                        self.number(2)
                    },
                    data: b"{".repeat(self.chance.random_range(0..9)),
                    done: self.chance.random(),
                })
            }
            _ => {
                let (vote, prev_log_id) = (self.vote(true), self.maybe_id());
                Call::Append(AppendEntriesRequest {
                    vote,
                    prev_log_id,
                    entries: self.entries(prev_log_id, vote),
                    leader_commit: self.maybe_id(),
                })
            }
        }
    }
}

fn client(from: &Node, to: &Node) -> RaftClient<Channel> {
    RaftClient::new(from.channel_to(to.node(), address(to)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_manager_is_refused_by_raft() {
    let lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("n", 1)).await);
    let removed = lab.at(2);
    let mut forger = Forger::of(removed, 1);
    let remove = NodeCommand::Remove {
        node: removed.node(),
    };
    let request = RequestId(rand::random());
    let command = Command::Node(remove);
    is_done(lab.at(0).propose(Proposal { request, command }).await);
    for to in [lab.at(0), lab.at(1)] {
        let knows = |to: &Node| to.consensus().unwrap().standing.members().len() == 2;
        eventually("the manager knows that two are left", || knows(to)).await;
        let mut client = client(removed, to);
        for _ in 0..30 {
            let call = forger.call();
            let status = send(&mut client, &call).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        }
        let asked = client.vouch(encode(&removed.node())).await.unwrap_err();
        assert_eq!(asked.code(), Code::PermissionDenied);
    }
    is_done(lab.at(1).propose(add("n", 1)).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_signed_by_a_former_manager_are_refused() {
    let lab = Lab::new(3).await;
    let authority = |state: &Toy| state.authority().cloned().unwrap();
    let root = lab.at(0).consensus().unwrap().machine.read(authority);
    let own = pki::new_request().unwrap();
    let (key, certificate) = pki::sign(&root, &own.request, Role::Manager).unwrap();
    let root = root.root_certificate;
    let forged = Identity::new(certificate, own.key, root, Vec::new(), Vec::new()).unwrap();
    let links = Links::new(tls::client(&forged).unwrap());
    for position in 0..3 {
        let (address, node) = (address(lab.at(position)), Some(lab.at(position).node()));
        let mut client = RaftClient::new(links.channel(Target { address, node }));
        let asked = client.vouch(encode(&key.node())).await.unwrap_err();
        assert_eq!(asked.code(), Code::PermissionDenied, "{asked}");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_was_away_follows_one_that_came_meanwhile() {
    let mut lab = Lab::new(3).await;
    let config = lab.stop(2).await;
    lab.join(Role::Manager).await;
    while lab.leader() != Some(3) {
        let raft = &lab.at(3).consensus().unwrap().raft;
        raft.trigger().elect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    lab.start(2, config).await;
    is_done(lab.at(3).propose(add("n", 7)).await);
    eventually("the manager that was away has the entry", || {
        total(lab.at(2), "n") == 7
    })
    .await;
    assert_eq!(lab.leader(), Some(3));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_refused_by_raft() {
    let mut lab = Lab::new(1).await;
    let worker = lab.join(Role::Worker).await;
    let asked = client(&worker, lab.at(0)).vouch(encode(&NodeId(1))).await;
    assert_eq!(asked.unwrap_err().code(), Code::PermissionDenied);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_outlive_what_a_member_forges() {
    let lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("n", 1)).await);
    let seed =
        std::env::var("FORGED_SEED").map_or_else(|_| rand::random(), |it| it.parse().unwrap());
    println!("FORGED_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let count = std::env::var("FORGED").map_or(1_500, |count| count.parse().unwrap());
    let forger = lab.at(2);
    for number in 0..count {
        let mut made = Forger::of(forger, chance.random());
        let call = made.call();
        for to in [lab.at(0), lab.at(1)] {
            let _refused_or_not = send(&mut client(forger, to), &call).await;
            let raft = &to.consensus().unwrap().raft;
            assert!(
                raft.is_initialized().await.is_ok(),
                "message {number} ended Raft"
            );
        }
    }
    let done = async { while lab.at(1).propose(add("n", 1)).await.is_err() {} };
    let done = tokio::time::timeout(PATIENCE, done).await;
    done.expect("the managers have a leader again");
    lab.end().await;
}
