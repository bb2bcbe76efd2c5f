//! Published ports: who may have them, where they lead, which hosts take part.

use model::*;

use crate::fixture::{Cluster, network, port, service};

fn publishing(name: &str, replicas: u32, networks: &[&str], ports: &[PublishSpec]) -> ServiceSpec {
    ServiceSpec {
        publish: ports.to_vec(),
        ..service(name, replicas, networks)
    }
}

fn create(spec: ServiceSpec) -> Command {
    Command::Service(ServiceCommand::Create { spec })
}

#[test]
fn publishing_without_a_network_makes_one_that_is_kept() {
    let mut cluster = Cluster::of(2);
    for (name, number) in [("web", 80), ("api", 81)] {
        cluster.create_service(publishing(
            name,
            1,
            &[],
            &[port(number, PublishMode::Ingress)],
        ));
    }
    assert_eq!(cluster.service("api").status.networks, ["ingress"]);
    let refusal = cluster.refuse(Command::Network(NetworkCommand::Remove {
        network: "ingress".to_owned(),
    }));
    assert!(
        refusal.to_string().contains("is used by service"),
        "{refusal}"
    );
    // A refused service leaves no network behind.
    let mut cluster = Cluster::of(1);
    cluster.refuse(create(publishing(
        "web",
        1,
        &[],
        &[port(2377, PublishMode::Ingress)],
    )));
}

#[test]
fn every_host_learns_only_what_ports_of_all_hosts_take() {
    let mut cluster = Cluster::with_network(3);
    cluster.create_service(publishing(
        "web",
        1,
        &["net"],
        &[port(80, PublishMode::Ingress)],
    ));
    cluster.create_service(service("db", 1, &["net"]));
    cluster.converge();
    let view = cluster.state.view(NodeId(1));
    let web = view.published.values().next().unwrap();
    let servers: Vec<String> = web.real_servers.keys().map(ToString::to_string).collect();
    assert_eq!((servers.len(), web.owner.as_str()), (2, "service web"));
    for node in [1, 2, 3] {
        let view = cluster.state.view(NodeId(node));
        assert_eq!(
            view.published.values().collect::<Vec<_>>(),
            [web],
            "h{node}"
        );
        assert_eq!(view.networks.len(), 1);
        if view.tasks.is_empty() {
            assert_eq!(
                (view.endpoints.len(), view.names.len(), view.services.len()),
                (1, 0, 0),
                "h{node}"
            );
        } else if view.tasks.values().any(|task| task.service_name == "web") {
            assert_eq!(view.peers.len(), 3, "its answers go back by every host");
        }
    }
    cluster.apply(Command::Service(ServiceCommand::Remove {
        service: "web".to_owned(),
    }));
    cluster.converge();
    let idle = (1..=3)
        .map(|node| cluster.state.view(NodeId(node)))
        .find(|view| view.tasks.is_empty())
        .unwrap();
    assert_eq!(
        (
            idle.networks.len(),
            idle.endpoints.len(),
            idle.published.len()
        ),
        (0, 0, 0)
    );
}

#[test]
fn host_ports_lead_to_one_task_of_that_host() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(publishing(
        "web",
        3,
        &["net"],
        &[port(80, PublishMode::Host)],
    ));
    cluster.converge();
    let tasks = cluster.tasks("web");
    let running = |node: &str| {
        tasks
            .iter()
            .filter(|task| task.node == node && task.state == TaskState::Running)
            .count()
    };
    assert_eq!((running("h1"), running("h2")), (1, 1));
    let waiting = tasks
        .iter()
        .find(|task| task.state == TaskState::Pending)
        .unwrap();
    assert!(
        waiting.message.starts_with("waits: port 80/tcp is taken"),
        "{}",
        waiting.message
    );
    for node in [1, 2] {
        let view = cluster.state.view(NodeId(node));
        let servers: Vec<_> = view
            .published
            .values()
            .flat_map(|port| port.real_servers.keys())
            .collect();
        let own: Vec<_> = view
            .endpoints
            .values()
            .filter(|endpoint| endpoint.node == NodeId(node))
            .collect();
        assert_eq!(servers, own[0].addresses.iter().collect::<Vec<_>>());
    }
    // Another service may have the same port on other hosts, but not on all of them.
    cluster.create_service(publishing(
        "api",
        1,
        &["net"],
        &[port(80, PublishMode::Host)],
    ));
    cluster.refuse(create(publishing(
        "all",
        1,
        &["net"],
        &[port(80, PublishMode::Ingress)],
    )));
}

/// As telephony and TURN servers have them.
#[test]
fn a_range_is_as_long_as_one_likes_once_every_node_leads_ranges() {
    let mut cluster = Cluster::at(Level::DISTINCTIONS, 2);
    cluster.create_network(network("net", &["10.0.9.0/24"]));
    let range = |published, count| PublishSpec {
        protocol: Protocol::Udp,
        count,
        target: published,
        ..port(published, PublishMode::Ingress)
    };
    let voice = || create(publishing("voice", 1, &["net"], &[range(10_000, 10_001)]));
    let refusal = cluster.refuse(voice()).to_string();
    assert!(
        refusal.contains("service \"voice\" publishes 10001 ports"),
        "{refusal}"
    );
    cluster.raise_to(Level::NEWEST);
    cluster.apply(voice());
    for other in [range(20_000, 1), range(9_000, 1_001), range(5_000, 60_000)] {
        let refusal = cluster.refuse(create(publishing("other", 1, &["net"], &[other])));
        let holder = "by service \"voice\" already, as *:10000-20000->10000-20000/udp";
        assert!(refusal.to_string().contains(holder), "{refusal}");
    }
    cluster.create_service(publishing("other", 1, &["net"], &[range(20_001, 9_000)]));
    let many: Vec<_> = (0..1_001).map(|at| range(40_000 + 2 * at, 1)).collect();
    let refusal = cluster.refuse(create(publishing("many", 1, &["net"], &many)));
    assert!(
        refusal.to_string().contains("1001 ports in 1001 ranges"),
        "{refusal}"
    );
}

#[test]
fn a_published_port_in_use_is_refused_naming_its_holder() {
    let mut cluster = Cluster::with_network(2);
    let range = PublishSpec {
        count: 10,
        ..port(8000, PublishMode::Ingress)
    };
    cluster.create_service(publishing("web", 1, &["net"], &[range]));
    let at = |text: &str, spec| PublishSpec {
        at: PublishAt::Address(text.parse().unwrap()),
        ..spec
    };
    for (port, cause) in [
        (
            port(8009, PublishMode::Ingress),
            "by service \"web\" already, as *:8000-8009->80-89/tcp",
        ),
        (
            at("10.1.1.1", port(8000, PublishMode::Host)),
            "by service \"web\"",
        ),
        (
            port(2377, PublishMode::Host),
            "2377/tcp belongs to the cluster's control plane",
        ),
        (
            PublishSpec {
                protocol: Protocol::Udp,
                ..port(4790, PublishMode::Ingress)
            },
            "4790/udp belongs to",
        ),
        (port(0, PublishMode::Ingress), "no range of ports"),
        (
            PublishSpec {
                count: 2,
                ..port(65_535, PublishMode::Ingress)
            },
            "no range of ports",
        ),
        (
            at("224.0.0.1", port(80, PublishMode::Ingress)),
            "no host answers",
        ),
    ] {
        let refusal = cluster.refuse(create(publishing("api", 1, &["net"], &[port])));
        assert!(
            refusal.to_string().contains(cause) && !refusal.next.is_empty(),
            "{refusal}"
        );
    }
    cluster.refuse(create(publishing(
        "api",
        1,
        &["net"],
        &[port(80, PublishMode::Host), port(80, PublishMode::Host)],
    )));
    let udp = PublishSpec {
        protocol: Protocol::Udp,
        ..port(8005, PublishMode::Ingress)
    };
    cluster.create_service(publishing(
        "api",
        1,
        &["net"],
        &[port(8010, PublishMode::Ingress), udp],
    ));
    cluster.converge();
    cluster.remove_service("web");
    let early = create(publishing(
        "web2",
        1,
        &["net"],
        &[port(8000, PublishMode::Ingress)],
    ));
    assert!(
        cluster.refuse(early).next.contains("being removed"),
        "what is connected is served to its end"
    );
    cluster.converge();
    cluster.create_service(publishing(
        "web2",
        1,
        &["net"],
        &[port(8000, PublishMode::Ingress)],
    ));
}

#[test]
fn ports_are_not_published_where_no_network_leads() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_network(NetworkSpec {
        internal: true,
        ..network("vault", &["10.0.10.0/24"])
    });
    let refusal = cluster.refuse(create(publishing(
        "web",
        1,
        &["vault"],
        &[port(80, PublishMode::Ingress)],
    )));
    assert!(
        refusal
            .to_string()
            .contains("none of its networks leads there"),
        "{refusal}"
    );
    cluster.create_service(publishing(
        "web",
        1,
        &["vault", "net"],
        &[port(80, PublishMode::Ingress)],
    ));
    cluster.converge();
    let view = cluster.state.view(NodeId(1));
    let network = view.published.values().next().unwrap().network;
    assert_eq!(view.networks[&network].name, "net");
}

/// `web` with these ports instead.
fn update(cluster: &Cluster, ports: &[PublishSpec]) -> Command {
    let ServiceInfo { spec, version, .. } = cluster.service("web");
    let spec = ServiceSpec {
        publish: ports.to_vec(),
        ..spec
    };
    Command::Service(ServiceCommand::Update {
        service: "web".to_owned(),
        spec,
        version,
        force: false,
    })
}

#[test]
fn ports_change_on_every_host_without_replacing_tasks() {
    let mut cluster = Cluster::with_network(3);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    let tasks = cluster.tasks("web");
    let change = update(&cluster, &[port(80, PublishMode::Ingress)]);
    cluster.apply(change);
    assert!(cluster.service("web").status.update.is_none());
    assert_eq!(
        cluster.service("web").status.settled,
        0,
        "no host leads there yet"
    );
    (1..=2).for_each(|node| assert!(cluster.agent(node)));
    assert_eq!(cluster.service("web").status.settled, 0, "h3 does not");
    cluster.agent(3);
    assert_eq!(cluster.service("web").status.settled, 1);
    assert!((1..=3).all(|node| cluster.state.view(NodeId(node)).published.len() == 1));

    cluster.create_service(publishing(
        "api",
        1,
        &["net"],
        &[port(81, PublishMode::Ingress)],
    ));
    let taken = update(
        &cluster,
        &[80, 81].map(|number| port(number, PublishMode::Ingress)),
    );
    let refusal = cluster.refuse(taken);
    assert!(
        refusal.kind == Kind::Conflict && refusal.cause.contains("by service \"api\""),
        "{refusal}"
    );
    let hosts = update(&cluster, &[port(82, PublishMode::Host)]);
    assert!(cluster.refuse(hosts).cause.contains("mode=host"));

    cluster.apply(Command::Service(ServiceCommand::Rollback {
        service: "web".to_owned(),
    }));
    cluster.converge();
    let view = cluster.state.view(NodeId(3));
    assert_eq!(
        (view.published.len(), cluster.tasks("web")),
        (1, tasks),
        "api's alone; the task runs on"
    );
}

#[test]
fn a_service_on_no_network_is_refused_ports() {
    let mut cluster = Cluster::of(1);
    cluster.create_service(service("web", 1, &[]));
    let change = update(&cluster, &[port(80, PublishMode::Ingress)]);
    let refusal = cluster.refuse(change);
    assert!(
        refusal.cause.contains("is on no network") && refusal.next.contains("--publish"),
        "{refusal}"
    );
}

#[test]
fn ports_of_all_hosts_may_change_beside_ports_of_single_ones() {
    let mut cluster = Cluster::with_network(2);
    let own = port(90, PublishMode::Host);
    cluster.create_service(publishing("web", 2, &["net"], std::slice::from_ref(&own)));
    let change = update(&cluster, &[port(80, PublishMode::Ingress), own]);
    cluster.apply(change);
    let gone = update(&cluster, &[port(80, PublishMode::Ingress)]);
    assert!(cluster.refuse(gone).cause.contains("mode=host"));
}

#[test]
fn a_port_of_one_family_leaves_the_other_to_somebody_else() {
    let at = |text: &str| PublishSpec {
        at: PublishAt::Address(text.parse().unwrap()),
        ..port(80, PublishMode::Ingress)
    };
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(publishing("four", 1, &["net"], &[at("0.0.0.0")]));
    cluster.create_service(publishing("six", 1, &["net"], &[at("::")]));
    for taken in [
        at("0.0.0.0"),
        at("10.1.1.1"),
        at("::1"),
        port(80, PublishMode::Host),
    ] {
        let refusal = cluster.refuse(create(publishing("other", 1, &["net"], &[taken])));
        assert_eq!(refusal.kind, Kind::Conflict);
    }
    // Members of earlier versions refuse it, too.
    let mut cluster = Cluster::at(Level::TYPED_FAILURES, 1);
    cluster.create_network(network("net", &[]));
    let refusal = cluster.refuse(create(publishing("four", 1, &["net"], &[at("0.0.0.0")])));
    assert_eq!(refusal.cause, "no host answers at 0.0.0.0");
}

/// Two networks with one mark, as clusters of earlier versions have them.
fn alike(nodes: u64) -> Cluster {
    let mut cluster = Cluster::at(Level::TYPED_FAILURES, nodes);
    cluster.create_network(network("old", &[]));
    for _ in 1..Vni::MARKS {
        cluster.create_network(network("t", &[]));
        cluster.apply(Command::Network(NetworkCommand::Remove {
            network: "t".to_owned(),
        }));
    }
    cluster.create_network(network("new", &[]));
    cluster
}

#[test]
fn ports_of_a_second_network_with_one_mark_are_refused() {
    let mut cluster = alike(1);
    let first = publishing("first", 1, &["new"], &[port(80, PublishMode::Ingress)]);
    cluster.create_service(first.clone());
    let second = |number| publishing("second", 1, &["old"], &[port(number, PublishMode::Ingress)]);
    cluster.create_service(second(81));
    cluster.raise_to(Level::NEWEST);
    // What is there goes on.
    for spec in [first, second(82)] {
        let (service, version) = (spec.name.clone(), cluster.service(&spec.name).version);
        cluster.apply(Command::Service(ServiceCommand::Update {
            service,
            spec,
            version,
            force: true,
        }));
    }
    cluster.apply(Command::Service(ServiceCommand::Remove {
        service: "second".to_owned(),
    }));
    cluster.converge();
    let refusal = cluster.refuse(create(second(81)));
    assert_eq!(refusal.kind, Kind::Conflict);
    for said in ["\"old\"", "4096", "\"new\"", "6144"] {
        assert!(refusal.cause.contains(said), "{refusal}");
    }
    assert!(refusal.next.contains("another network"), "{refusal}");
    cluster.create_service(service("unpublished", 1, &["old"]));
    cluster.create_network(network("third", &[]));
    let elsewhere = publishing("second", 1, &["third"], &[port(81, PublishMode::Host)]);
    cluster.create_service(elsewhere);
}

#[test]
fn network_that_is_behind_holds_up_no_other() {
    for (level, settled) in [(Level::TYPED_FAILURES, (1, 1)), (Level::NEWEST, (0, 1))] {
        let mut cluster = Cluster::at(level, 2);
        cluster.create_network(network("a", &[]));
        cluster.create_network(network("b", &[]));
        let ports = |number| [port(number, PublishMode::Ingress)];
        cluster.create_service(publishing("on-a", 1, &["a"], &ports(80)));
        cluster.create_service(publishing("on-b", 1, &["b"], &ports(81)));
        cluster.converge();
        let Answer::Networks(networks) = cluster.state.answer(None, &Query::Networks).unwrap()
        else {
            panic!("no networks")
        };
        let a = networks.iter().find(|network| network.spec.name == "a");
        let index = cluster.index;
        for node in [1, 2] {
            let report = NodeReport {
                behind: [(a.unwrap().id, 1)].into(),
                ..NodeReport::new(NodeId(node), index)
            };
            cluster.apply(Command::Node(NodeCommand::Report(report)));
        }
        let told = (
            cluster.service("on-a").status.settled,
            cluster.service("on-b").status.settled,
        );
        assert_eq!(told, settled, "level {level}");
        for node in [1, 2] {
            cluster.report(node, index, Vec::new());
        }
        assert_eq!(cluster.service("on-a").status.settled, 1);
    }
}
