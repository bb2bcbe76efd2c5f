//! Nodes, the authority, and requests that come twice.

use model::*;

use crate::fixture::{Cluster, authority, content, network, node, what_is_there};

#[test]
fn a_cluster_is_bootstrapped_once() {
    let mut cluster = Cluster::of(1);
    let refusal = cluster.refuse(Command::Cluster(ClusterCommand::Bootstrap {
        authority: authority(),
        node: node(2, Role::Manager),
        data_path_port: 4789,
    }));
    assert_eq!(refusal.kind, Kind::Precondition);
    assert!(cluster.state.authority().is_some());
}

#[test]
fn nothing_is_admitted_before_the_bootstrap() {
    let mut cluster = Cluster {
        state: Default::default(),
        followers: Default::default(),
        watched: what_is_there(&Default::default()),
        ..Cluster::of(1)
    };
    assert_eq!(
        cluster
            .refuse(Command::Node(NodeCommand::Admit {
                node: node(2, Role::Worker)
            }))
            .kind,
        Kind::Precondition
    );
}

#[test]
fn a_node_admitted_again_changes_its_address_and_keeps_the_rest() {
    let mut cluster = Cluster::of(2);
    cluster.set_availability(2, Availability::Pause);
    let mut moved = node(2, Role::Worker);
    moved.address = "192.168.8.2:2377".parse().unwrap();
    cluster.now += 5;
    cluster.apply(Command::Node(NodeCommand::Admit {
        node: moved.clone(),
    }));
    let known = &cluster.state.nodes()[&NodeId(2)];
    assert_eq!(
        (known.address, known.availability),
        (moved.address, Availability::Pause)
    );
    assert_eq!(known.joined, cluster.now - 5);
}

type Change = fn(&mut Node);

#[test]
fn an_unreachable_or_ambiguous_node_is_not_admitted() {
    let mut cluster = Cluster::with_network(1);
    let admit = |change: Change| {
        let mut node = node(2, Role::Worker);
        change(&mut node);
        Command::Node(NodeCommand::Admit { node })
    };
    let cases: [(Change, Kind, &str); 7] = [
        (
            |node| node.hostname = String::new(),
            Kind::Invalid,
            "no host name",
        ),
        (
            |node| node.hostname = "a\u{1b}[2J".to_owned(),
            Kind::Invalid,
            "no host name",
        ),
        (
            |node| node.hostname = "h".repeat(65),
            Kind::Invalid,
            "no host name",
        ),
        (
            |node| node.vtep = "::".parse().unwrap(),
            Kind::Invalid,
            "reach",
        ),
        (
            |node| node.vtep = "10.0.9.7".parse().unwrap(),
            Kind::Conflict,
            "network \"net\"",
        ),
        (
            |node| node.address = "[fd00:9::7]:2377".parse().unwrap(),
            Kind::Conflict,
            "network \"net\"",
        ),
        (
            |node| node.vtep = "2001:db8::2".parse().unwrap(),
            Kind::Conflict,
            "tunnels end",
        ),
    ];
    for (change, kind, cause) in cases {
        let refusal = cluster.refuse(admit(change));
        assert!(
            refusal.kind == kind && refusal.cause.contains(cause) && !refusal.next.is_empty(),
            "{refusal}"
        );
    }
    cluster.apply(admit(|_| {}));
}

#[test]
fn a_new_host_name_arrives_with_a_report() {
    let rename = |name: &str| {
        Command::Node(NodeCommand::Report(NodeReport {
            hostname: Some(name.to_owned()),
            ..NodeReport::new(NodeId(2), 1)
        }))
    };
    let mut cluster = Cluster::of(3);
    let name = |cluster: &Cluster| cluster.state.nodes()[&NodeId(2)].hostname.clone();
    cluster.apply(rename("db-prod-3"));
    let found = |cluster: &Cluster, name: &str| {
        let query = Query::Node(name.to_owned());
        cluster.state.answer(None, &query).map(|_| ())
    };
    assert_eq!(name(&cluster), "db-prod-3");
    assert_eq!(found(&cluster, "DB-prod-3"), Ok(()));
    assert_eq!(found(&cluster, "h2").unwrap_err().kind, Kind::NotFound);
    // What could not join with this name keeps the last one that it could.
    cluster.apply(rename("no name"));
    assert_eq!(name(&cluster), "db-prod-3");
    // Two of one name are told apart by their ids, as when they join.
    cluster.apply(rename("h3"));
    assert_eq!(found(&cluster, "h3").unwrap_err().kind, Kind::Invalid);
    let mut before = Cluster::at(Level::TYPED_FAILURES, 2);
    before.apply(rename("db-prod-3"));
    assert_eq!(name(&before), "h2");
}

#[test]
fn a_host_name_of_two_nodes_is_ambiguous() {
    let mut cluster = Cluster::of(2);
    cluster.apply(Command::Node(NodeCommand::Admit {
        node: Node {
            hostname: "h2".to_owned(),
            ..node(3, Role::Worker)
        },
    }));
    let drain = |node: &str| {
        Command::Node(NodeCommand::SetAvailability {
            version: None,
            node: node.to_owned(),
            availability: Availability::Drain,
        })
    };
    let refusal = cluster.refuse(drain("h2"));
    assert_eq!(refusal.kind, Kind::Invalid);
    assert!(
        refusal.cause.contains("2 nodes") && refusal.next.contains("use the id"),
        "{refusal}"
    );
    assert_eq!(
        cluster.apply(drain(&NodeId(3).to_string())),
        Outcome::Node(NodeId(3))
    );
}

#[test]
fn unknown_nodes_are_refused() {
    let mut cluster = Cluster::of(1);
    let unknown = NodeId(99);
    for command in [
        Command::Node(NodeCommand::SetStatus {
            node: unknown,
            status: NodeStatus::Ready,
        }),
        Command::Node(NodeCommand::Remove { node: unknown }),
        Command::Node(NodeCommand::SetAvailability {
            version: None,
            node: "h9".to_owned(),
            availability: Availability::Drain,
        }),
        Command::Node(NodeCommand::Report(NodeReport::new(unknown, 1))),
    ] {
        assert_eq!(cluster.refuse(command).kind, Kind::NotFound);
    }
}

#[test]
fn a_rotated_token_replaces_one_secret() {
    let mut cluster = Cluster::of(1);
    cluster.apply(Command::Cluster(ClusterCommand::RotateToken {
        role: Role::Worker,
        secret: Secret::new(3),
    }));
    let authority = cluster.state.authority().unwrap();
    assert_eq!(
        (
            authority.secret(Role::Worker),
            authority.secret(Role::Manager)
        ),
        (&Secret::new(3), &Secret::new(2))
    );
}

#[test]
fn a_repeated_request_gets_its_first_answer() {
    let mut cluster = Cluster::of(1);
    let create = Command::Network(NetworkCommand::Create {
        spec: network("net", &[]),
    });
    let first = cluster.send_as(RequestId(u64::MAX), create.clone());
    let before = content(&cluster.state);
    assert_eq!(cluster.send_as(RequestId(u64::MAX), create.clone()), first);
    assert_eq!(content(&cluster.state), before);
}

#[test]
fn a_refused_request_is_judged_anew() {
    let mut cluster = Cluster::of(1);
    let create = Command::Network(NetworkCommand::Create {
        spec: network("net", &[]),
    });
    cluster.apply(create.clone());
    let request = RequestId(u64::MAX);
    let refused = cluster.send_as(request, create.clone());
    assert_eq!(refused.as_ref().unwrap_err().kind, Kind::Conflict);
    assert_eq!(cluster.send_as(request, create.clone()), refused);
    cluster.apply(Command::Network(NetworkCommand::Remove {
        network: "net".to_owned(),
    }));
    assert!(cluster.send_as(request, create).is_ok());
}

#[test]
fn a_thousand_reports_do_not_push_out_the_answer_to_a_person() {
    let mut cluster = Cluster::of(1);
    let create = Command::Network(NetworkCommand::Create {
        spec: network("net", &[]),
    });
    let first = cluster.send_as(RequestId(u64::MAX), create.clone());
    for applied in 0..2_000 {
        cluster.report(1, applied, Vec::new());
    }
    assert_eq!(cluster.send_as(RequestId(u64::MAX), create), first);
    let snapshot = String::from_utf8(cluster.state.snapshot()).unwrap();
    assert!(
        snapshot.len() < 100_000,
        "the answers remembered are bounded"
    );
}

#[test]
fn bytes_that_are_no_snapshot_are_refused() {
    for bytes in [&b"{}"[..], b"", b"L1\n{}", b"L"] {
        assert!(orchestrator::State::restore(bytes, Level::NEWEST).is_err());
    }
}

#[test]
fn a_node_balances_as_its_kernel_can_unless_told_otherwise() {
    let mut cluster = Cluster::of(2);
    let used = |cluster: &Cluster| {
        let Answer::Nodes(nodes) = cluster.state.answer(None, &Query::Nodes).unwrap() else {
            panic!("no nodes")
        };
        nodes
            .iter()
            .map(|node| (node.balancer, node.balancer_used))
            .collect::<Vec<_>>()
    };
    let auto = (BalancerKind::Auto, BalancerKind::Nftables);
    assert_eq!(used(&cluster), [auto; 2]);
    cluster.say_capable(2, &[Capability::Ipvs]);
    assert_eq!(
        used(&cluster),
        [auto, (BalancerKind::Auto, BalancerKind::Ipvs)]
    );
    for balancer in [BalancerKind::Nftables, BalancerKind::Ipvs] {
        for node in ["h1", "h2"] {
            cluster.apply(Command::Node(NodeCommand::SetBalancer {
                version: None,
                node: node.to_owned(),
                balancer,
            }));
        }
        // A kernel without IPVS does without, and every host hears of its own.
        let second = (balancer, balancer);
        assert_eq!(used(&cluster), [(balancer, BalancerKind::Nftables), second]);
        let view = cluster.state.view(NodeId(2));
        assert_eq!(view.peers[&NodeId(2)].balancer, balancer);
    }
    let nobody = Command::Node(NodeCommand::SetBalancer {
        version: None,
        node: "h3".to_owned(),
        balancer: BalancerKind::Auto,
    });
    let refusal = cluster.refuse(nobody);
    assert!(
        refusal.kind == Kind::NotFound && refusal.next.contains("swarmctl node ls"),
        "{refusal}"
    );
}

#[test]
fn a_change_of_a_node_for_another_version_is_refused() {
    let mut cluster = Cluster::with_network(2);
    let version = |cluster: &Cluster| cluster.state.nodes()[&NodeId(2)].version;
    let change = |availability, version| {
        Command::Node(NodeCommand::SetAvailability {
            node: "h2".into(),
            availability,
            version,
        })
    };
    let first = version(&cluster);
    cluster.apply(change(Availability::Pause, Some(first)));
    let second = version(&cluster);
    assert!(second > first);
    let refusal = cluster.refuse(change(Availability::Active, Some(first)));
    assert_eq!(refusal.kind, Kind::Conflict);
    let balancer = Command::Node(NodeCommand::SetBalancer {
        node: "h2".into(),
        balancer: BalancerKind::Nftables,
        version: Some(first),
    });
    assert_eq!(cluster.refuse(balancer).kind, Kind::Conflict);
    cluster.apply(change(Availability::Drain, None));
    cluster.apply(change(Availability::Active, Some(version(&cluster))));
    // What the host reports changes nothing that people ask of it.
    let before = version(&cluster);
    cluster.report(2, 9, Vec::new());
    assert_eq!(version(&cluster), before);
    let network = cluster.state.answer(None, &Query::Network("net".into()));
    let Ok(Answer::Networks(networks)) = network else {
        panic!("{network:?}")
    };
    assert!(networks[0].version > 0);
}
