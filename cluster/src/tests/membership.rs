//! Who gets in, who leads, and that requests are carried out once whatever dies.

use api::{Proposal, decode};
use futures::{Stream, StreamExt};
use model::{
    Answer, ClusterCommand, Command, ContainerCommand, ContainerKey, ContainerRuntime, KeyDigest,
    Kind, Level, NodeCommand, NodeId, NodeReport, NodeStatus, Query, RequestId, Role, Secret,
    StateMachine,
};
use tonic::Code;

use super::*;
use crate::{Bare, ClusterError, Downward, LinkError, PeerIdentity, Upward};

#[tokio::test(flavor = "multi_thread")]
async fn any_one_of_three_managers_can_die_and_come_back() {
    let mut lab = Lab::new(3).await;
    is_done(lab.at(2).propose(add("n", 1)).await);
    let dead = lab.leader().unwrap();
    let config = lab.stop(dead).await;
    let alive = (dead + 1) % 3;
    is_done(lab.at(alive).propose(add("n", 10)).await);
    lab.start(dead, config).await;
    is_done(lab.at(dead).propose(add("n", 100)).await);
    for position in 0..3 {
        eventually("every manager has all of the log", || {
            total(lab.at(position), "n") == 111
        })
        .await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_carried_out_once_even_across_leaders() {
    let lab = Lab::new(3).await;
    let request = add("n", 1);
    is_done(lab.at(1).propose(request.clone()).await);
    is_done(lab.at(2).propose(request.clone()).await);
    let dead = lab.leader().unwrap();
    lab.stop(dead).await;
    let alive = (dead + 1) % 3;
    is_done(lab.at(alive).propose(request).await);
    assert!(matches!(lab.at(alive).query(Query::Nodes).await,
            Ok(Answer::Nodes(nodes)) if nodes.len() == 3));
    assert_eq!(total(lab.at(lab.leader().unwrap()), "n"), 1);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_off_carries_on() {
    let mut lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("n", 7)).await);
    let mut configs = Vec::new();
    for position in 0..3 {
        configs.push(lab.stop(position).await);
    }
    for (position, config) in configs.into_iter().enumerate() {
        lab.start(position, config).await;
    }
    is_done(lab.at(1).propose(add("n", 1)).await);
    for position in 0..3 {
        eventually("every manager has all of the log", || {
            total(lab.at(position), "n") == 8
        })
        .await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_joins_late_starts_from_a_snapshot() {
    let mut lab = Lab::new(1).await;
    for _ in 0..30 {
        is_done(lab.at(0).propose(add("n", 1)).await);
    }
    let raft = lab.at(0).consensus().unwrap().raft.clone();
    raft.trigger().snapshot().await.unwrap();
    eventually("a snapshot is made", || {
        raft.metrics().borrow().snapshot.is_some()
    })
    .await;
    let index = raft.metrics().borrow().snapshot.unwrap().index;
    raft.trigger().purge_log(index).await.unwrap();
    eventually("the log is cut", || {
        raft.metrics().borrow().purged.is_some()
    })
    .await;
    lab.restart(0).await;
    lab.join(Role::Manager).await;
    lab.restart(1).await;
    is_done(lab.at(1).propose(add("n", 1)).await);
    for position in 0..2 {
        eventually("both have all of it", || total(lab.at(position), "n") == 31).await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_are_refused_and_say_what_to_do() {
    let mut lab = Lab::new(2).await;
    let config = lab.stop(1).await;
    let refusal = lab.at(0).propose(add("n", 1)).await.unwrap_err();
    assert!(
        refusal.kind == Kind::Unavailable && refusal.next.contains("majority"),
        "{refusal}"
    );
    lab.start(1, config).await;
    is_done(lab.at(0).propose(add("n", 1)).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_takes_the_next_step_once() {
    let lab = Lab::new(1).await;
    for started in 1..4 {
        is_done(lab.at(0).propose(add("start", 1)).await);
        eventually("the step is taken", || {
            total(lab.at(0), "finish") == started
        })
        .await;
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_a_member_of_one_cluster_at_a_time() {
    let lab = Lab::new(1).await;
    let options = lab.options(Role::Worker).await;
    let again = Node::join(
        Config {
            directory: lab.path(0),
            listen: LOOPBACK,
            known: Level::NEWEST,
            history: Limits::default(),
        },
        options,
        routes,
    )
    .await;
    assert!(matches!(again.err(), Some(ClusterError::AlreadyMember(_))));
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_stale_tokens_are_refused_on_both_sides() {
    let warnings = Warnings::collect();
    let lab = Lab::new(1).await;
    let good = lab.options(Role::Worker).await;
    let refusal = |token: String| {
        refusal_of(JoinOptions {
            token,
            ..good.clone()
        })
    };

    let (text, kind) = refusal("SWMTKN-1-xyz".to_owned()).await;
    assert!(
        kind == Kind::Invalid && text.contains("SWMTKN-1-<50 digits>"),
        "{text}"
    );

    let head = good.token.rsplit_once('-').unwrap().0;
    let (text, kind) = refusal(format!("{head}-{}", Secret::new(rand::random()))).await;
    assert!(
        kind == Kind::Denied && text.contains("secret of the join token is wrong"),
        "{text}"
    );

    let command = Command::Cluster(ClusterCommand::RotateToken {
        role: Role::Worker,
        secret: Secret::new(rand::random()),
    });
    is_done(
        lab.at(0)
            .propose(Proposal {
                request: RequestId(1),
                command,
            })
            .await,
    );
    let (text, kind) = refusal(good.token.clone()).await;
    assert!(
        kind == Kind::Denied && text.contains("has been replaced"),
        "{text}"
    );

    let other = Lab::new(1).await;
    let (text, kind) = refusal(token(other.at(0), Role::Worker).await).await;
    assert!(
        kind == Kind::Denied && text.contains("belongs to another cluster than the token"),
        "{text}"
    );

    let warned = |part: &str| warnings.text().contains(part);
    eventually("the manager warns of the secret", || {
        warned("a host was not let in peer=127.0.0.1:")
    })
    .await;
    eventually("the manager warns of the cluster", || {
        warned("its token or certificate is another cluster's")
    })
    .await;
    assert!(
        !warned(good.token.rsplit_once('-').unwrap().1),
        "a secret was logged"
    );
    other.end().await;
    lab.end().await;
}

async fn refusal_of(options: JoinOptions) -> (String, Kind) {
    let home = directory();
    let error = Node::join(config(&home), options, routes)
        .await
        .err()
        .unwrap();
    assert!(
        !home.path().join("identity").exists(),
        "a refused host keeps nothing"
    );
    let refusal = model::Refusal::from(error);
    (refusal.in_full(), refusal.kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_another_cluster_are_told_apart() {
    let (one, other) = (Lab::new(1).await, Lab::new(1).await);
    let error = one
        .at(0)
        .channel(address(other.at(0)), None)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, LinkError::Foreign { .. }), "{error}");
    let error = one
        .at(0)
        .channel(address(one.at(0)), Some(other.at(0).node()))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, LinkError::Impostor { .. }), "{error}");
    assert!(
        one.at(0)
            .channel(address(one.at(0)), Some(one.at(0).node()))
            .await
            .is_ok()
    );
    one.end().await;
    other.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_leaves_hands_over_and_keeps_nothing() {
    let lab = Lab::new(3).await;
    let leaving = lab.leader().unwrap();
    lab.at(leaving).leave(false).await.unwrap();
    assert!(
        !lab.path(leaving).join("identity").exists() && !lab.path(leaving).join("raft").exists()
    );
    let rest = (leaving + 1) % 3;
    is_done(lab.at(rest).propose(add("n", 1)).await);
    assert!(matches!(lab.at(rest).query(Query::Nodes).await,
            Ok(Answer::Nodes(nodes)) if nodes.len() == 2));
    assert_eq!(lab.at(rest).consensus().unwrap().standing.voters().len(), 2);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_manager_leaves_only_by_force() {
    let lab = Lab::new(1).await;
    let refusal = lab.at(0).leave(false).await.unwrap_err();
    assert!(
        refusal.kind == Kind::Precondition && refusal.cause.contains("last manager"),
        "{refusal}"
    );
    is_done(lab.at(0).propose(add("n", 1)).await);
    lab.at(0).leave(true).await.unwrap();
    let home = Config {
        directory: lab.path(0),
        listen: LOOPBACK,
        known: Level::NEWEST,
        history: Limits::default(),
    };
    assert!(Node::resume(home, routes).await.unwrap().is_none());
    assert!(
        std::fs::read_dir(lab.path(0)).unwrap().next().is_none(),
        "nothing is left on disk"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_refused_by_managers_and_workers() {
    let mut lab = Lab::new(1).await;
    let (removed, worker) = (lab.join(Role::Worker).await, lab.join(Role::Worker).await);
    let node = removed.node();
    let view = worker.view();
    eventually("the worker knows the other", || {
        view.borrow().peers.contains_key(&node)
    })
    .await;
    let stranger = PeerIdentity {
        node: NodeId(7),
        role: Role::Worker,
        key: KeyDigest([7; 32]),
    };
    assert!(
        !worker.knows(stranger).await,
        "a stranger that the cluster does not know either"
    );
    assert_eq!(refused_by(&removed, lab.at(0)).await, None);
    assert_eq!(
        refused_by(&removed, &worker).await,
        Some(Code::Unavailable),
        "workers lead nothing"
    );
    is_done(
        lab.at(0)
            .propose(Proposal {
                request: RequestId(1),
                command: Command::Node(NodeCommand::Remove { node }),
            })
            .await,
    );
    eventually("the worker hears of it", || {
        !view.borrow().peers.contains_key(&node)
    })
    .await;
    for member in [lab.at(0), &worker] {
        assert_eq!(
            refused_by(&removed, member).await,
            Some(Code::PermissionDenied)
        );
    }
    lab.end().await;
}

/// Opens a node's session, which stays open, and says this in it.
async fn session(
    bare: &Bare,
    says: Option<Upward>,
) -> impl Stream<Item = api::proto::Json> + Unpin {
    let hello = Upward::Hello {
        node: bare.node(),
        generation: 0,
        digest: String::new(),
        level: Level::NEWEST,
    };
    let said = futures::stream::iter([hello].into_iter().chain(says));
    let session = bare.session(said.chain(futures::stream::pending()));
    session.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_ready_once_reached_by_their_certificate() {
    let mut lab = Lab::new(1).await;
    let status = |lab: &Lab, node| {
        let nodes = |state: &Toy| state.nodes()[&node].status;
        lab.at(0).consensus().unwrap().machine.read(nodes)
    };
    let honest = lab.join(Role::Worker).await.node();
    eventually("it is ready", || status(&lab, honest) == NodeStatus::Ready).await;
    // It holds a session, and where it says that it listens is another member.
    let options = JoinOptions {
        advertise: Some(address(lab.at(1))),
        ..lab.options(Role::Worker).await
    };
    let bare = Bare::join(options, Level::NEWEST).await.unwrap();
    let mut session = session(&bare, None).await;
    assert!(session.next().await.is_some(), "its view");
    eventually("it is heard", || {
        let standing = &lab.at(0).consensus().unwrap().standing;
        standing.hears(bare.node())
    })
    .await;
    // The leader has looked at statuses several times since.
    for number in 0..20 {
        is_done(lab.at(0).propose(add("n", number)).await);
    }
    assert_eq!(status(&lab, bare.node()), NodeStatus::Unknown);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_takes_little_of_the_log() {
    let lab = Lab::new(1).await;
    let says = async |bytes: usize| {
        let options = lab.options(Role::Worker).await;
        let bare = Bare::join(options, Level::NEWEST).await.unwrap();
        let report = Upward::Report {
            sequence: 1,
            report: NodeReport {
                failures: vec!["x".repeat(bytes)],
                ..NodeReport::new(bare.node(), 0)
            },
        };
        let mut session = session(&bare, Some(report)).await;
        let mut acknowledged = false;
        while !acknowledged && let Some(message) = session.next().await {
            let message: Downward = decode(&message).unwrap();
            acknowledged = matches!(message, Downward::Acknowledged { .. });
        }
        let failures = |state: &Toy| state.nodes()[&bare.node()].failures.clone();
        let failures = lab.at(0).consensus().unwrap().machine.read(failures);
        (acknowledged, failures.concat().len())
    };
    let (acknowledged, kept) = says(3_000_000).await;
    assert!(acknowledged && (4_000..5_000).contains(&kept), "{kept}");
    let (acknowledged, kept) = says(20_000_000).await;
    assert!(!acknowledged && kept == 0, "the session ends: {kept}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_a_removed_node_end() {
    let lab = Lab::new(1).await;
    let bare = Bare::join(lab.options(Role::Worker).await, Level::NEWEST)
        .await
        .unwrap();
    let mut session = session(&bare, None).await;
    assert!(session.next().await.is_some(), "its view");
    let request = RequestId(rand::random());
    let command = Command::Node(NodeCommand::Remove { node: bare.node() });
    is_done(lab.at(0).propose(Proposal { request, command }).await);
    let ended = async { while session.next().await.is_some() {} };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    assert!(ended.is_ok(), "the session goes on");
    lab.end().await;
}

/// How a member answers another one's question, if not with an answer.
async fn refused_by(from: &Node, to: &Node) -> Option<Code> {
    let channel = from.channel(address(to), None).await.unwrap();
    let mut client = api::proto::membership_client::MembershipClient::new(channel);
    let status = client.leader(api::proto::Json::default()).await.err()?;
    assert!(
        status.code() != Code::PermissionDenied || status.message().contains("no longer"),
        "{status}"
    );
    Some(status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_neither_promotes_itself_nor_detaches_for_others() {
    let mut lab = Lab::new(1).await;
    let worker = lab.join(Role::Worker).await;
    let refusal = worker.query(Query::Token(Role::Manager)).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::Denied);
    let command = Command::Cluster(ClusterCommand::RotateToken {
        role: Role::Manager,
        secret: Secret::new(rand::random()),
    });
    let refusal = worker
        .propose(Proposal {
            request: RequestId(1),
            command,
        })
        .await
        .unwrap_err();
    assert_eq!(refusal.kind, Kind::Denied);
    let key = ContainerKey {
        node: lab.at(0).node(),
        runtime: ContainerRuntime::Docker,
        id: "web".to_owned(),
    };
    let command = Command::Container(ContainerCommand::Detach { keys: vec![key] });
    let refusal = worker
        .propose(Proposal {
            request: RequestId(2),
            command,
        })
        .await
        .unwrap_err();
    assert_eq!(refusal.kind, Kind::Denied);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_too_many_bytes_is_refused() {
    let lab = Lab::new(1).await;
    let refusal = lab
        .at(0)
        .propose(add(&"n".repeat(200 << 10), 1))
        .await
        .unwrap_err();
    assert_eq!(refusal.kind, Kind::Invalid);
    assert!(refusal.cause.contains("bytes"), "{refusal}");
    is_done(lab.at(0).propose(add(&"n".repeat(100 << 10), 1)).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_host_is_not_admitted_and_costs_no_majority() {
    let lab = Lab::new(1).await;
    let home = directory();
    // Port 1 of the loopback: nobody is there.
    let advertise = Some("127.0.0.1:1".parse().unwrap());
    let options = JoinOptions {
        advertise,
        ..lab.options(Role::Manager).await
    };
    let refused = Node::join(config(&home), options, routes)
        .await
        .err()
        .unwrap();
    assert!(
        refused
            .to_string()
            .contains("does not reach this host at 127.0.0.1:1: ")
            && refused.next().is_some(),
        "{refused}"
    );
    is_done(lab.at(0).propose(add("n", 1)).await);
    let Answer::Nodes(nodes) = lab.at(0).query(Query::Nodes).await.unwrap() else {
        panic!("not nodes")
    };
    assert_eq!(nodes.len(), 1);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_removed_while_off_is_told_and_can_leave() {
    let mut lab = Lab::new(1).await;
    let node = lab.join(Role::Worker).await.node();
    let config = lab.stop(1).await;
    let command = Command::Node(NodeCommand::Remove { node });
    is_done(
        lab.at(0)
            .propose(Proposal {
                request: RequestId(rand::random()),
                command,
            })
            .await,
    );
    lab.start(1, config).await;
    let refusal = lab.at(1).query(Query::Nodes).await.unwrap_err();
    assert!(
        refusal.kind == Kind::Denied && refusal.cause.contains("no longer, part of this cluster"),
        "{refusal}"
    );
    lab.at(1).leave(false).await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_at_a_worker_says_where_to_join() {
    let mut lab = Lab::new(1).await;
    lab.join(Role::Worker).await;
    let home = directory();
    let options = JoinOptions {
        manager: address(lab.at(1)),
        ..lab.options(Role::Worker).await
    };
    let refused = Node::join(config(&home), options, routes)
        .await
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("is a worker") && refused.next().is_some(),
        "{refused}"
    );
    lab.end().await;
}
