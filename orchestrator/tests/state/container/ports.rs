//! Published ports that lead to containers.

use super::*;

#[test]
fn ports_of_containers_are_their_hosts_and_nobody_elses() {
    let mut cluster = cluster();
    let with = |node, id: &str, port| {
        placed(
            node,
            id,
            ContainerTraits {
                publish: vec![publish(port)],
                ..named(id)
            },
        )
    };
    let one = cluster.attach(with(1, "c1", 8080));
    cluster.attach(with(2, "c1", 8080));
    let view = cluster.state.view(NodeId(1));
    let (owner, port) = view.published.iter().next().unwrap();
    assert_eq!(
        (view.published.len(), owner.0, port.owner.as_str()),
        (1, Publisher::Container(one.id), "container c1")
    );
    assert_eq!(
        port.real_servers.keys().copied().collect::<Vec<_>>(),
        one.addresses
    );
    assert_eq!(
        NodeConfig::empty(NodeId(1))
            .apply(&view.snapshot())
            .unwrap()
            .published,
        view.published
    );

    refused(
        &mut cluster,
        with(1, "c2", 8080),
        Kind::Conflict,
        "taken by cni container \"c1\" on h1",
    );
    refused(
        &mut cluster,
        with(1, "c2", 2377),
        Kind::Conflict,
        "control plane",
    );
    let everywhere = PublishSpec {
        mode: PublishMode::Ingress,
        ..publish(8080)
    };
    let web = |port: &PublishSpec| ServiceSpec {
        publish: vec![port.clone()],
        ..service("web", 3, &["net"])
    };
    let refusal = cluster.refuse(Command::Service(ServiceCommand::Create {
        spec: web(&everywhere),
    }));
    assert!(
        refusal.cause.contains("c1") && !refusal.next.is_empty(),
        "{refusal}"
    );
    // A service's own port of single hosts goes where there is room.
    cluster.create_service(web(&publish(8080)));
    cluster.converge();
    let placed: Vec<String> = cluster
        .tasks("web")
        .into_iter()
        .map(|task| task.node)
        .collect();
    assert_eq!(
        placed.iter().filter(|node| node.as_str() == "h3").count(),
        1,
        "{placed:?}"
    );
    assert_eq!(
        placed.iter().filter(|node| node.is_empty()).count(),
        2,
        "{placed:?}"
    );
    refused(
        &mut cluster,
        with(3, "c3", 8080),
        Kind::Conflict,
        "taken by task web",
    );

    cluster.create_network(NetworkSpec {
        internal: true,
        ..attachable("vault", &[])
    });
    let inside = ContainerSpec {
        network: "vault".to_owned(),
        ..with(1, "c4", 8090)
    };
    refused(
        &mut cluster,
        inside,
        Kind::Precondition,
        "does not lead there",
    );
}

#[test]
fn ports_of_all_hosts_lead_to_containers_of_the_service() {
    let mut cluster = cluster();
    let everywhere = PublishSpec {
        mode: PublishMode::Ingress,
        ..publish(8080)
    };
    let web = ServiceSpec {
        publish: vec![everywhere],
        external: true,
        ..service("web", 0, &["net"])
    };
    let nothing = TaskSpec::new(Runtime::Exec {
        argv: vec![],
        env: Default::default(),
        rootfs: None,
    });
    cluster.create_service(ServiceSpec {
        task: nothing,
        ..web
    });
    let one = cluster.attach(placed(2, "c1", member("web", false, "one")));
    let caller = cluster.state.view(NodeId(3));
    let port = caller.published.values().next().unwrap();
    assert_eq!(
        port.real_servers.keys().copied().collect::<Vec<_>>(),
        one.addresses
    );
    assert_eq!(
        caller.endpoints.keys().copied().collect::<Vec<_>>(),
        [one.id],
        "and no more is known of the network"
    );
    assert_eq!((caller.names.len(), caller.containers.len()), (0, 0));
    assert_eq!(
        cluster.state.view(NodeId(2)).peers.len(),
        3,
        "its answers go back by every host"
    );
}

#[test]
fn host_ports_lead_to_containers_of_the_service_too() {
    let mut cluster = cluster();
    cluster.create_service(ServiceSpec {
        publish: vec![publish(8080)],
        ..service("web", 1, &["net"])
    });
    cluster.converge();
    let host = if cluster.task("web.1").node == "h1" {
        1
    } else {
        2
    };
    let near = cluster.attach(placed(host, "c1", member("web", false, "near")));
    cluster.attach(placed(3, "c2", member("web", false, "far")));
    let view = cluster.state.view(NodeId(host));
    let servers: Vec<IpAddr> = view
        .published
        .values()
        .flat_map(|port| port.real_servers.keys().copied())
        .collect();
    assert_eq!(
        servers,
        sorted(&[&cluster.task("web.1").addresses, &near.addresses])
    );
    assert!(
        cluster.state.view(NodeId(3)).published.is_empty(),
        "no task of it is there"
    );
}
