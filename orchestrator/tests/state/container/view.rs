//! Where hosts hear of containers.

use super::*;

#[test]
fn address_only_containers_are_projected_to_no_node() {
    let mut cluster = cluster();
    cluster.attach(ContainerSpec {
        traits: Some(named("db")),
        ..spec(1, "c1", "net")
    });
    let idle: Vec<NodeConfig> = (1..=3)
        .map(|node| cluster.state.view(NodeId(node)))
        .collect();
    assert!(idle.iter().all(|view| view.networks.is_empty()
        && view.endpoints.is_empty()
        && view.names.is_empty()));
    let db = cluster.attach(placed(1, "c1", named("db")));
    let web = cluster.attach(placed(2, "c2", named("web")));
    let [one, two, three] = [1, 2, 3].map(|node| cluster.state.view(NodeId(node)));
    for view in [&one, &two] {
        assert_eq!(view.networks.len(), 1);
        assert_eq!(view.endpoints.keys().collect::<Vec<_>>().len(), 2);
        assert!(view.peers.contains_key(&NodeId(1)) && view.peers.contains_key(&NodeId(2)));
    }
    assert_eq!(
        (
            three.networks.len(),
            three.endpoints.len(),
            three.names.len()
        ),
        (0, 0, 0)
    );
    let (id, container) = one.containers.iter().next().unwrap();
    assert_eq!(
        (
            one.containers.len(),
            two.containers.len(),
            three.containers.len()
        ),
        (1, 1, 0)
    );
    assert_eq!(
        (container.name.as_str(), container.path.as_str()),
        ("db", "/run/netns/c1")
    );
    assert_eq!(one.endpoints[&db.id].sandbox, *id);
    assert_ne!(two.endpoints[&web.id].sandbox, *id);
    cluster.attach(ContainerSpec {
        left: true,
        ..spec(1, "c1", "net")
    });
    assert!(cluster.state.view(NodeId(1)).networks.is_empty());
}

#[test]
fn interfaces_of_one_namespace_are_one_container() {
    let mut cluster = cluster();
    for interface in ["net10", "net2", "net1"] {
        let at = Sandbox {
            path: "/run/netns/c1".to_owned(),
            ..sandbox("c1", interface)
        };
        cluster.attach(ContainerSpec {
            sandbox: Some(at),
            ..spec(1, interface, "net")
        });
    }
    let view = cluster.state.view(NodeId(1));
    let joints = &view.containers.values().next().unwrap().endpoints;
    let names: Vec<&str> = joints
        .iter()
        .map(|joint| joint.interface.as_deref().unwrap())
        .collect();
    assert_eq!(
        (view.containers.len(), names),
        (1, vec!["net1", "net2", "net10"])
    );

    // What one of them was told of the container holds for all.
    assert!(!view.containers.values().next().unwrap().leaves_elsewhere);
    let leaving = ContainerTraits {
        leaves_elsewhere: true,
        ..ContainerTraits::default()
    };
    cluster.attach(ContainerSpec {
        traits: Some(leaving),
        ..spec(1, "net2", "net")
    });
    assert!(
        cluster
            .state
            .view(NodeId(1))
            .containers
            .values()
            .all(|container| container.leaves_elsewhere)
    );

    // Another namespace is there now: what was in the one before is in none.
    let at = Sandbox {
        identity: Some("boot/2".to_owned()),
        ..sandbox("c1", "eth0")
    };
    cluster.attach(ContainerSpec {
        sandbox: Some(at),
        ..spec(1, "new", "net")
    });
    let view = cluster.state.view(NodeId(1));
    let container = view.containers.values().next().unwrap();
    assert_eq!(
        (container.identity.as_deref(), container.endpoints.len()),
        (Some("boot/2"), 1)
    );
    assert_eq!(
        cluster.state.ledger().leases().count(),
        5,
        "their addresses are held until they are detached"
    );
}

#[test]
fn one_more_container_is_a_few_records_of_a_view() {
    let mut cluster = cluster();
    for number in 0..50 {
        cluster.attach(placed(
            1 + number % 2,
            &format!("c{number}"),
            member("web", false, &format!("n{number}")),
        ));
    }
    let before = [1, 2, 3].map(|node| cluster.state.view(NodeId(node)));
    cluster.attach(placed(1, "one", named("one")));
    let changes = before.each_ref().map(|view| {
        let delta = view.delta(&cluster.state.view(view.node));
        (delta.set.len(), delta.remove.len())
    });
    assert_eq!(
        changes,
        [(3, 0), (2, 0), (0, 0)],
        "its endpoint, what its names are derived from, and on its host itself"
    );
}

#[test]
fn hosts_of_containers_have_keys_and_are_waited_for() {
    let mut cluster = Cluster::of(2);
    [1, 2]
        .iter()
        .for_each(|node| cluster.say_capable(*node, &[Capability::Esp]));
    cluster.create_network(NetworkSpec {
        encrypted: true,
        ..attachable("net", &[])
    });
    cluster.attach(placed(1, "c1", named("one")));
    cluster.attach(placed(2, "c2", named("two")));
    for (node, other) in [(1, 2), (2, 1)] {
        let view = cluster.state.view(NodeId(node));
        assert_eq!(
            view.keys.keys().copied().collect::<Vec<_>>(),
            [NodeId(other)]
        );
    }
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    cluster.apply(Command::Task(TaskCommand::Replace {
        task: "web.1".to_owned(),
    }));
    let host = NodeId(if cluster.task("web.1").node == "h1" {
        1
    } else {
        2
    });
    let view = cluster.state.view(host);
    cluster.report(host.0, view.generation, Vec::new());
    let (task, other) = (cluster.task("web.1"), if host.0 == 1 { "h2" } else { "h1" });
    assert_eq!(
        task.message,
        format!("withdrawn: waits until {other} knows")
    );
}

#[test]
fn endpoints_are_listed_with_their_owner_and_by_node() {
    let mut cluster = cluster();
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    cluster.attach(placed(2, "c1", named("db")));
    let docker = ContainerKey {
        runtime: ContainerRuntime::Docker,
        ..key(1, "c2")
    };
    let unnamed = ContainerTraits {
        container: "0123456789abcdef".to_owned(),
        ..ContainerTraits::default()
    };
    cluster.attach(ContainerSpec {
        key: docker,
        ..placed(1, "c2", unnamed)
    });
    cluster.attach(spec(3, "c3/eth0", "net"));
    let Answer::Networks(networks) = cluster
        .state
        .answer(None, &Query::Network("net".to_owned()))
        .unwrap()
    else {
        panic!("no networks")
    };
    let endpoints = networks[0].status.endpoints.iter();
    let shown: Vec<(&str, &str)> = endpoints
        .map(|info| (info.kind.as_str(), info.name.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("task", "web.1"),
            ("docker", "0123456789ab"),
            ("cni", "c3/eth0"),
            ("cni", "db")
        ]
    );
    let Answer::Containers(here) = cluster
        .state
        .answer(None, &Query::Containers("h2".to_owned()))
        .unwrap()
    else {
        panic!("no containers")
    };
    assert_eq!(here.iter().map(Container::name).collect::<Vec<_>>(), ["db"]);
}
