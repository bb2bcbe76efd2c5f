//! Levels of a cluster, issuers of commands, and entries that commands share.

use futures::future::join_all;
use model::{
    ClusterCommand, Kind, Level, NodeCommand, NodeStatus, ServiceCommand, ServiceId, TaskCommand,
    TaskId,
};
use openraft::{BasicNode, RaftMetrics};

use super::*;
use crate::{ClusterError, Halt, raft::Consensus, view::View};

type Metrics = RaftMetrics<u64, BasicNode>;

impl Lab {
    /// A cluster whose first manager takes part in levels up to this one.
    async fn knowing(known: Level) -> Self {
        let home = directory();
        let host = Host {
            hostname: "h1".to_owned(),
            advertise: LOOPBACK,
            vtep: LOOPBACK.ip(),
        };
        let config = Config {
            known,
            ..config(&home)
        };
        let first = Node::init(config, host, 4789, routes).await.unwrap();
        Self {
            members: vec![(first, home)],
        }
    }

    fn level(&self, position: usize) -> Level {
        self.at(position).digest().unwrap().level
    }

    async fn reaches(&self, level: Level) {
        eventually("all reach the level", || {
            (0..self.members.len()).all(|member| self.level(member) == level)
        })
        .await;
    }
}

fn proposal(request: u64, command: impl Into<Command>) -> Proposal {
    Proposal {
        request: RequestId(request),
        command: command.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_rises_once_every_member_knows_it_and_never_falls() {
    let mut lab = Lab::knowing(Level::FIRST).await;
    let second = lab.join(Role::Manager).await;
    let leader = lab.at(lab.leader().unwrap()).clone();
    let consensus = leader.consensus().unwrap();
    eventually("the leader hears of it", || {
        consensus.level_of(second.node()) == Some(Level::NEWEST)
    })
    .await;
    is_done(second.propose(add("web", 1)).await);
    assert_eq!(lab.level(0), Level::FIRST, "the first member knows no more");
    let config = lab.stop(0).await;
    lab.start(0, config).await;
    lab.reaches(Level::NEWEST).await;

    let config = lab.stop(1).await;
    let known = Level::FIRST;
    let refused = Node::resume(Config { known, ..config }, routes).await;
    let Err(ClusterError::TooNew(error)) = refused.map(|_| ()) else {
        panic!("a netd that does not know the cluster's level started on its log")
    };
    // The first file that is too new says so: some are only written when they change.
    assert!(error.found > known && error.known == known, "{error}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_knows_too_little_is_not_admitted() {
    let lab = Lab::new(1).await;
    lab.reaches(Level::NEWEST).await;
    let home = directory();
    let config = Config {
        known: Level::FIRST,
        ..config(&home)
    };
    let joined = Node::join(config, lab.options(Role::Worker).await, routes).await;
    let Err(ClusterError::Refused(refusal)) = joined.map(|_| ()) else {
        panic!("the host was admitted")
    };
    assert_eq!(refusal.kind, Kind::Precondition);
    assert!(refusal.cause.contains("knows levels up to 0"), "{refusal}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_went_back_too_far_is_down_and_gets_no_view() {
    let mut lab = Lab::new(1).await;
    lab.reaches(Level::NEWEST).await;
    let worker = lab.join(Role::Worker).await.node();
    let status = |lab: &Lab| lab.at(0).consensus().unwrap().node(worker).unwrap().status;
    eventually("the worker is ready", || status(&lab) == NodeStatus::Ready).await;
    let config = lab.stop(1).await;
    // A netd from before this level does not look at the file that the view is in.
    View::remove(&lab.path(1)).unwrap();
    let known = Level::FIRST;
    let listen = config.listen;
    lab.start(1, Config { known, ..config }).await;
    let leader = lab.at(0).consensus().unwrap().clone();
    eventually("it is down", || status(&lab) == NodeStatus::Down).await;
    eventually("its level is known", || {
        leader.level_of(worker) == Some(known)
    })
    .await;
    assert_eq!(lab.at(1).view().borrow().generation, 0);

    lab.at(1).shutdown().await;
    let again = self::config(&lab.members[1].1);
    lab.start(1, Config { listen, ..again }).await;
    eventually("it is ready again", || status(&lab) == NodeStatus::Ready).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_leader_are_refused_to_members() {
    let mut lab = Lab::new(1).await;
    let worker = lab.join(Role::Worker).await;
    let (node, status) = (worker.node(), NodeStatus::Down);
    let (service, task) = (ServiceId(1), TaskId(1));
    let commands: [Command; 6] = [
        ClusterCommand::RaiseLevel { level: Level(2) }.into(),
        NodeCommand::SetStatus { node, status }.into(),
        ServiceCommand::PauseUpdate { service }.into(),
        ServiceCommand::SetSurge { service, slots: 1 }.into(),
        TaskCommand::Withdraw { task }.into(),
        TaskCommand::Drain { task }.into(),
    ];
    for member in [lab.at(0), &worker] {
        for (request, command) in (1..).zip(commands.clone()) {
            let refusal = member.propose(proposal(request, command.clone())).await;
            assert_eq!(refusal.unwrap_err().kind, Kind::Denied, "{command:?}");
        }
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_wait_together_share_entries() {
    const COMMANDS: u64 = 200;
    let lab = Lab::new(1).await;
    lab.reaches(Level::NEWEST).await;
    let member = lab.at(0);
    let index = || member.digest().unwrap().index;
    let before = index();
    let proposals = (0..COMMANDS).map(|_| member.propose(add("web", 1)));
    for answer in join_all(proposals).await {
        is_done(answer);
    }
    let total = member
        .consensus()
        .unwrap()
        .machine
        .read(|toy| toy.total("web"));
    assert_eq!(u64::from(total), COMMANDS);
    let entries = index() - before;
    assert!(entries < COMMANDS / 2, "{entries} entries");
    lab.end().await;
}

/// How the leader tells a member of what is newer than it knows.
#[derive(Clone, Copy, PartialEq)]
enum Sent {
    Entry,
    Snapshot,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_sent_a_newer_entry_stops_and_says_so() {
    stops_and_says_so(Sent::Entry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_sent_a_newer_snapshot_stops_and_says_so() {
    stops_and_says_so(Sent::Snapshot).await;
}

async fn stops_and_says_so(sent: Sent) {
    let mut lab = Lab::knowing(Level::FIRST).await;
    for _ in 1..3 {
        lab.join(Role::Manager).await;
    }
    let (known, level) = (Level::FIRST, Level::FIRST.next());
    // Another one has to lead when it raises the level before the first one knows it.
    loop {
        let config = lab.stop(0).await;
        eventually("another manager leads", || {
            lab.leader().is_some_and(|leader| leader != 0)
        })
        .await;
        let leader = lab.at(lab.leader().unwrap()).consensus().unwrap().clone();
        if sent == Sent::Snapshot {
            let raise = ClusterCommand::RaiseLevel { level }.into();
            is_done(leader.write(RequestId(1), raise).await.unwrap());
            forget_the_log(&leader).await;
            lab.start(0, Config { known, ..config }).await;
            break;
        }
        lab.start(0, Config { known, ..config }).await;
        let Some(leader) = lab.leader().filter(|leader| *leader != 0) else {
            continue;
        };
        let consensus = lab.at(leader).consensus().unwrap();
        let raise = ClusterCommand::RaiseLevel { level }.into();
        if let Ok(answer) = consensus.write(RequestId(1), raise).await {
            is_done(answer);
            break;
        }
    }
    let halted = tokio::time::timeout(PATIENCE, lab.at(0).halted()).await;
    let Ok(Halt::TooNew(error)) = halted else {
        panic!("{halted:?}")
    };
    assert_eq!((error.found, error.known), (level, known));
    // Its data is whole: it starts again with a netd that knows the level.
    let config = lab.stop(0).await;
    lab.start(0, config).await;
    eventually("it has caught up", || lab.level(0) >= level).await;
    lab.end().await;
}

/// Has a leader keep a snapshot only.
async fn forget_the_log(leader: &Consensus<Toy>) {
    leader.raft.trigger().snapshot().await.unwrap();
    let applied = leader.raft.metrics().borrow().last_applied;
    let has_snapshot = |metrics: &Metrics| metrics.snapshot >= applied;
    let wait = || leader.raft.wait(Some(PATIENCE));
    wait().metrics(has_snapshot, "a snapshot").await.unwrap();
    let index = applied.unwrap().index;
    leader.raft.trigger().purge_log(index).await.unwrap();
    let is_purged = |metrics: &Metrics| metrics.purged >= applied;
    wait().metrics(is_purged, "a purged log").await.unwrap();
}
