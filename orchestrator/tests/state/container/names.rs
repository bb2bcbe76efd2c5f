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
        aliases: aliases(&["store", "WEB", "www", "two.labels.", "a..b"]),
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
    assert_eq!(
        lookup(&cluster, 1, "two.labels"),
        Some(db.addresses.clone())
    );
    assert_eq!(lookup(&cluster, 1, "a..b"), None);
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

/// What `node inspect` says of a host, beside what its kernel lacks.
fn lacks(cluster: &Cluster, node: u64) -> Vec<Failure> {
    let query = Query::Node(NodeId(node).to_string());
    match cluster.state.answer(None, &query).unwrap() {
        Answer::Nodes(nodes) => nodes[0].causes.clone(),
        other => panic!("no nodes: {other:?}"),
    }
}

#[test]
fn containers_have_dotted_names_from_the_fifth_level_on() {
    let aliases = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut cluster = Cluster::at(Level::DISTINCTIONS, 2);
    cluster.create_network(attachable("net", &["10.0.9.0/24"]));
    let traits = ContainerTraits {
        aliases: aliases(&["API.example.com.", "plain", "web.1"]),
        ..named("db.example.com")
    };
    let spec = ContainerSpec {
        ipv6: AddressWish::default(),
        ..placed(1, "c1", traits)
    };
    let db = cluster.attach(spec);
    let found = |cluster: &Cluster, name: &str| lookup(cluster, 1, name).is_some();
    let dotted = ["db.example.com", "api.example.com"];
    assert!(found(&cluster, "plain") && !dotted.iter().any(|name| found(&cluster, name)));
    assert_eq!(lacks(&cluster, 1), []);
    cluster.raise_to(Level::COMPOUNDS);
    for name in dotted {
        assert_eq!(lookup(&cluster, 1, name), Some(db.addresses.clone()));
    }
    let told = lacks(&cluster, 1);
    assert!(
        told.len() == 1 && told[0].object == "container db.example.com",
        "{told:?}"
    );
    assert!(told[0].cause.contains("\"web.1\" is reserved"), "{told:?}");
}

#[test]
fn names_that_lead_elsewhere_are_told_with_where() {
    let mut cluster = cluster();
    let mut web = service("web", 1, &["net"]);
    web.networks[0].aliases = vec!["api.example.com".to_owned()];
    cluster.create_service(web);
    cluster.create_service(ServiceSpec {
        stack: Some("shop".to_owned()),
        ..service("db", 1, &["net"])
    });
    cluster.converge();
    let aliases = ["WEB", "www", "db.shop", "api.example.com", "a b"];
    let traits = ContainerTraits {
        aliases: aliases.map(str::to_owned).into(),
        ..named("Api.example.com")
    };
    let container = cluster.attach(placed(1, "c1", traits));
    let vips = cluster.service("db").status.virtual_ips;
    assert_eq!(lookup(&cluster, 1, "db.shop"), Some(vips));
    assert_eq!(
        lookup(&cluster, 1, "www"),
        Some(container.addresses.clone())
    );
    let causes: Vec<String> = lacks(&cluster, 1)
        .iter()
        .map(Failure::in_one_line)
        .collect();
    let told = |what: &str| causes.iter().any(|cause| cause.contains(what));
    assert!(
        told("\"WEB\" does not lead to it on network \"net\": service \"web\" is called so")
            && told("\"db.shop\" does not lead to it on network \"net\": it is of stack \"shop\"")
            && told("\"Api.example.com\" does not lead to it on network \"net\": it is an alias")
            && told("\"a b\" is no name of DNS"),
        "{causes:#?}"
    );
    assert_eq!(causes.len(), 4);
    assert_eq!(lacks(&cluster, 2), []);
    let change = cluster.state.present(None, 100).into_iter();
    let told = change.filter_map(|change| match change.facts {
        Facts::Container { causes, .. } => Some(causes.len()),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [4]);
    let served = ContainerTraits {
        service: Some("web".to_owned()),
        aliases: ["web".to_owned()].into(),
        ..named("backend")
    };
    cluster.attach(placed(2, "c2", served));
    assert_eq!(lacks(&cluster, 2), [], "it leads there by the service");
}

/// A pod's name and its namespace may be longer than DNS allows.
#[test]
fn names_that_are_too_long_keep_no_container_from_starting() {
    let name = format!("{}x-kube-system", "pod.".repeat(70));
    let long = |cluster: &mut Cluster| {
        cluster.create_network(attachable("net", &["10.0.9.0/24", "fd00:9::/64"]));
        attach(placed(1, "c1", named(&name)))
    };
    let mut before = Cluster::at(Level::DISTINCTIONS, 1);
    let command = long(&mut before);
    assert_eq!(before.refuse(command).kind, Kind::Invalid);
    let mut cluster = Cluster::of(1);
    let command = long(&mut cluster);
    cluster.apply(command);
    let told = lacks(&cluster, 1);
    assert!(
        told.len() == 1 && told[0].cause.contains("too long for DNS"),
        "{told:?}"
    );
}

#[test]
fn a_name_leads_to_its_container_or_the_host_says_why_not() {
    let names = [
        "web",
        "WEB.",
        "web.1",
        "tasks.web",
        "www",
        "www.example.com",
        "db",
        "shop-db",
        "db.shop",
        "x.Shop",
        "db.1.shop",
        "a.b",
        "a..b",
        "-a",
        "other",
        "_dns",
        "_x",
        "7",
        "1.2.3.4",
    ];
    for (name, is_own) in names.iter().flat_map(|name| [(name, true), (name, false)]) {
        let mut cluster = cluster();
        let mut web = service("web", 1, &["net"]);
        web.networks[0].aliases = ["www", "www.example.com"].map(str::to_owned).into();
        cluster.create_service(web);
        cluster.create_service(ServiceSpec {
            stack: Some("shop".to_owned()),
            ..service("shop-db", 1, &["net"])
        });
        cluster.converge();
        let traits = ContainerTraits {
            container: "c".repeat(64),
            name: if is_own {
                (*name).to_owned()
            } else {
                "c1".to_owned()
            },
            aliases: [(*name).to_owned()]
                .into_iter()
                .filter(|_| !is_own)
                .collect(),
            ..ContainerTraits::default()
        };
        let container = cluster.attach(placed(1, "c1", traits));
        let asked = name.to_ascii_lowercase();
        let found = lookup(&cluster, 2, asked.strip_suffix('.').unwrap_or(&asked));
        let leads = found.is_some_and(|found| found.contains(&container.addresses[0]));
        let told = lacks(&cluster, 1);
        assert_eq!(leads, told.is_empty(), "{name}, {is_own}: {told:?}");
    }
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
