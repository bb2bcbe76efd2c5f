//! Names that lead to containers.

use super::*;

#[test]
fn container_names_give_way_to_service_names() {
    let mut cluster = cluster();
    let mut with_alias = service("web", 1, &["net"]);
    with_alias.networks[0].aliases = vec!["www".to_owned()];
    cluster.create_service(with_alias);
    cluster.converge();
    let aliases = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let db = ContainerTraits {
        aliases: aliases(&["store", "WEB", "www", "no.label"]),
        ..named("My_DB")
    };
    let db = cluster.attach(placed(1, "c1", db));
    let web = cluster.attach(placed(
        2,
        "c2",
        ContainerTraits {
            aliases: aliases(&["store"]),
            ..named("web")
        },
    ));
    assert_eq!(lookup(&cluster, 1, "my_db"), Some(db.addresses.clone()));
    assert_eq!(
        lookup(&cluster, 1, "my_db0123456"),
        Some(db.addresses.clone()),
        "twelve characters of its identity"
    );
    assert_eq!(
        lookup(&cluster, 1, "store"),
        Some(sorted(&[&db.addresses, &web.addresses])),
        "shared"
    );
    let vips = cluster.service("web").status.virtual_ips;
    assert_eq!(
        lookup(&cluster, 1, "web"),
        Some(vips.clone()),
        "a service's name is nobody else's"
    );
    assert_eq!(
        lookup(&cluster, 1, "www"),
        Some(sorted(&[&vips, &db.addresses])),
        "its aliases may be shared"
    );
    assert_eq!(lookup(&cluster, 1, "no.label"), None);
    let view = cluster.state.view(NodeId(1));
    let canonical: Vec<&str> = view
        .names
        .iter()
        .filter(|(_, record)| record.canonical)
        .map(|((_, name), _)| name.as_str())
        .collect();
    assert_eq!(
        canonical,
        ["my_db", "web", "web.1", "web012345678"],
        "each address resolves back to one name"
    );
}

#[test]
fn a_service_leads_to_the_containers_that_say_they_belong_to_it() {
    let mut cluster = cluster();
    let external = ServiceSpec {
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
        ..external
    });
    let one = cluster.attach(placed(1, "c1", member("Web", false, "one")));
    let two = cluster.attach(placed(2, "c2", member("web", true, "two")));
    let servers = |cluster: &Cluster| {
        let view = cluster.state.view(NodeId(1));
        let service = view.services.values().next().unwrap().clone();
        service
            .real_servers
            .into_iter()
            .filter(|(address, _)| address.is_ipv4())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        servers(&cluster),
        [(one.addresses[0], 1), (two.addresses[0], 0)],
        "what is not ready keeps what it has"
    );
    assert_eq!(
        lookup(&cluster, 1, "tasks.web"),
        Some(one.addresses.clone())
    );
    assert_eq!(
        lookup(&cluster, 1, "web"),
        Some(cluster.service("web").status.virtual_ips)
    );
    assert_eq!(
        lookup(&cluster, 1, "two"),
        Some(two.addresses.clone()),
        "its own name leads to it all the same"
    );
    cluster.attach(placed(2, "c2", member("web", false, "two")));
    cluster.set_status(1, NodeStatus::Down);
    assert_eq!(servers(&cluster), [(two.addresses[0], 1)]);
    assert_eq!(lookup(&cluster, 2, "one"), Some(vec![]));
}

#[test]
fn dnsrr_names_lead_to_containers_and_tasks() {
    let mut cluster = cluster();
    cluster.create_service(ServiceSpec {
        endpoint_mode: EndpointMode::Dnsrr,
        ..service("web", 1, &["net"])
    });
    cluster.converge();
    let one = cluster.attach(placed(1, "c1", member("web", false, "one")));
    let view = cluster.state.view(NodeId(1));
    let mut names = view.names.iter();
    let (_, web) = names.find(|((_, name), _)| name == "web").unwrap();
    assert_eq!(
        web.addresses,
        [&cluster.task("web.1").addresses[..], &one.addresses].concat()
    );
    assert_eq!(web.targets, ["web.1", "one"]);
}

#[test]
fn a_missing_services_name_leads_to_containers_that_claim_it() {
    let mut cluster = cluster();
    let one = cluster.attach(placed(1, "c1", member("web", false, "one")));
    let two = cluster.attach(placed(2, "c2", member("web", true, "two")));
    assert_eq!(lookup(&cluster, 2, "web"), Some(one.addresses.clone()));
    cluster.attach(placed(2, "c2", member("web", false, "two")));
    assert_eq!(
        lookup(&cluster, 2, "web"),
        Some(sorted(&[&one.addresses, &two.addresses]))
    );
}

#[test]
fn an_external_service_runs_nothing() {
    let mut cluster = cluster();
    let nothing = TaskSpec::new(Runtime::Exec {
        argv: vec![],
        env: Default::default(),
        rootfs: None,
    });
    let external = ServiceSpec {
        external: true,
        task: nothing,
        ..service("web", 0, &["net"])
    };
    let create =
        |spec: &ServiceSpec| Command::Service(ServiceCommand::Create { spec: spec.clone() });
    let on_hosts = ServiceSpec {
        publish: vec![publish(80)],
        ..external.clone()
    };
    let with_command = ServiceSpec {
        external: true,
        ..service("web", 0, &["net"])
    };
    for wrong in [
        ServiceSpec {
            replicas: 1,
            ..external.clone()
        },
        on_hosts,
        with_command,
    ] {
        assert_eq!(cluster.refuse(create(&wrong)).kind, Kind::Invalid);
    }
    cluster.refuse(create(&ServiceSpec {
        external: false,
        ..external.clone()
    }));
    cluster.apply(create(&external));
    cluster.refuse(Command::Service(ServiceCommand::Scale {
        service: "web".to_owned(),
        replicas: 1,
    }));
    let version = cluster.service("web").version;
    let spec = ServiceSpec {
        replicas: 1,
        ..service("web", 1, &["net"])
    };
    cluster.refuse(Command::Service(ServiceCommand::Update {
        service: "web".to_owned(),
        spec,
        version,
        force: false,
    }));
    cluster.remove_service("web");
    cluster.converge();
    assert_eq!(cluster.state.ledger().leases().count(), 1);
}
