//! Containers of others: their addresses, where hosts hear of them, and what leads to them.

use std::net::IpAddr;

use model::*;
use orchestrator::State;

use crate::fixture::{Cluster, key, network, node, port, sandbox, service, spec};

/// h1 to h3 and the attachable network `net`.
fn cluster() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.create_network(attachable("net", &["10.0.9.0/24", "fd00:9::/64"]));
    cluster
}

fn attachable(name: &str, subnets: &[&str]) -> NetworkSpec {
    NetworkSpec {
        attachable: true,
        ..network(name, subnets)
    }
}

fn exactly(address: &str) -> AddressWish {
    AddressWish {
        wanted: true,
        exact: Some(address.parse().unwrap()),
        within: None,
    }
}

fn named(name: &str) -> ContainerTraits {
    ContainerTraits {
        name: name.to_owned(),
        container: format!("{name}0123456789abcdef"),
        ..ContainerTraits::default()
    }
}

/// On h`node`, in a namespace of its own, with these traits.
fn placed(node: u64, id: &str, traits: ContainerTraits) -> ContainerSpec {
    ContainerSpec {
        sandbox: Some(sandbox(id, "eth0")),
        traits: Some(traits),
        ..spec(node, id, "net")
    }
}

fn member(service: &str, unready: bool, name: &str) -> ContainerTraits {
    ContainerTraits {
        service: Some(service.to_owned()),
        unready,
        ..named(name)
    }
}

fn attach(spec: ContainerSpec) -> Command {
    Command::Container(ContainerCommand::Attach {
        spec: Box::new(spec),
    })
}

fn detach(node: u64, ids: &[&str]) -> Command {
    Command::Container(ContainerCommand::Detach {
        keys: ids.iter().map(|id| key(node, id)).collect(),
    })
}

fn publish(published: u16) -> PublishSpec {
    port(published, PublishMode::Host)
}

/// What a name leads to as h`node` sees it; `None` where there is no such name.
fn lookup(cluster: &Cluster, node: u64, name: &str) -> Option<Vec<IpAddr>> {
    let view = cluster.state.view(NodeId(node));
    let record = view
        .names
        .into_iter()
        .find(|((_, known), _)| known == name)?
        .1;
    Some(sorted(&[&record.addresses]))
}

fn sorted(addresses: &[&[IpAddr]]) -> Vec<IpAddr> {
    let mut addresses = addresses.concat();
    addresses.sort();
    addresses
}

fn refused(cluster: &mut Cluster, spec: ContainerSpec, kind: Kind, words: &str) {
    let refusal = cluster.refuse(attach(spec));
    assert!(
        refusal.kind == kind && refusal.in_full().contains(words),
        "{refusal:?}"
    );
    assert!(!refusal.next.is_empty(), "{refusal}");
}

#[test]
fn the_same_key_is_the_same_endpoint_and_addresses() {
    let mut cluster = cluster();
    let first = cluster.attach(spec(1, "c1", "net"));
    assert_eq!((first.addresses.len(), first.sandbox.clone()), (2, None));
    assert_eq!(first.mac, Mac::of_endpoint(first.addresses[0]));
    assert_eq!(cluster.attach(spec(1, "c1", "net")), first);
    let other = cluster.attach(spec(2, "c1", "net"));
    assert!(
        other.id != first.id && other.addresses != first.addresses,
        "another host's is another"
    );
    assert_eq!(cluster.state.check(), Vec::<String>::new());

    // What may change changes; what is not said stays.
    let mac: Mac = "02:11:22:33:44:55".parse().unwrap();
    let silent = ContainerSpec {
        ipv4: AddressWish::default(),
        ipv6: AddressWish::default(),
        ..spec(1, "c1", "net")
    };
    let moved = ContainerSpec {
        mac: Some(mac),
        ..placed(1, "c1", named("db"))
    };
    let moved = cluster.attach(ContainerSpec {
        ipv4: silent.ipv4,
        ipv6: silent.ipv6,
        ..moved
    });
    assert_eq!(
        (moved.id, &moved.addresses, moved.mac),
        (first.id, &first.addresses, mac)
    );
    assert_eq!(
        (moved.sandbox.is_some(), moved.traits.name.as_str()),
        (true, "db")
    );
    assert_eq!(cluster.attach(silent.clone()), moved);
    let left = cluster.attach(ContainerSpec {
        left: true,
        ..silent
    });
    assert_eq!(
        left,
        Container {
            sandbox: None,
            ..moved
        }
    );
}

#[test]
fn a_requested_address_is_given_or_refused_with_the_reason() {
    let mut cluster = cluster();
    let wish = |id, address| ContainerSpec {
        ipv4: exactly(address),
        ..spec(1, id, "net")
    };
    let held = cluster.attach(wish("c1", "10.0.9.77"));
    assert_eq!(held.addresses[0], IpAddr::from([10, 0, 9, 77]));
    refused(
        &mut cluster,
        wish("c2", "10.0.9.77"),
        Kind::Conflict,
        "is held by cni container \"c1\" on h1",
    );
    refused(
        &mut cluster,
        wish("c2", "10.0.9.1"),
        Kind::Conflict,
        "the network's gateway",
    );
    refused(
        &mut cluster,
        wish("c2", "10.0.8.7"),
        Kind::Invalid,
        "10.0.9.0/24",
    );
    refused(
        &mut cluster,
        wish("c2", "10.0.9.255"),
        Kind::Invalid,
        "10.0.9.0/24",
    );
    refused(
        &mut cluster,
        wish("c2", "fd00:9::7"),
        Kind::Invalid,
        "is no IPv4 address",
    );
    refused(
        &mut cluster,
        wish("c1", "10.0.9.78"),
        Kind::Conflict,
        "has 10.0.9.77",
    );
    // All or nothing: the IPv4 address of a refused request is free.
    let both = ContainerSpec {
        ipv6: exactly("fd00:8::1"),
        ..wish("c2", "10.0.9.78")
    };
    refused(&mut cluster, both, Kind::Invalid, "fd00:9::/64");
    cluster.attach(wish("c2", "10.0.9.78"));
}

#[test]
fn an_ethernet_address_is_on_a_segment_once() {
    let mut cluster = cluster();
    let lan = |name: &str, subnet: &str| NetworkSpec {
        driver: Driver::Macvlan,
        options: [("parent".to_owned(), "eth0".to_owned())].into(),
        ..attachable(name, &[subnet])
    };
    cluster.create_network(lan("lan", "10.1.0.0/24"));
    cluster.create_network(lan("other", "10.2.0.0/24"));
    let mac = |text: &str| Some(text.parse::<Mac>().unwrap());
    let wish = |node, id, network, text| ContainerSpec {
        mac: mac(text),
        ..spec(node, id, network)
    };
    for network in ["net", "lan"] {
        let first = cluster.attach(wish(1, network, network, "02:11:22:33:44:55"));
        assert_eq!(
            cluster.attach(wish(1, network, network, "02:11:22:33:44:55")),
            first,
            "asked again"
        );
        let cause = format!(
            "02:11:22:33:44:55 on network \"{network}\" is that of cni container \"{network}\" on \
             h1"
        );
        refused(
            &mut cluster,
            wish(2, "c2", network, "02:11:22:33:44:55"),
            Kind::Conflict,
            &cause,
        );
        cluster.attach(wish(2, "c2", network, "02:11:22:33:44:56"));
        refused(
            &mut cluster,
            wish(2, "c2", network, "02:11:22:33:44:55"),
            Kind::Conflict,
            &cause,
        );
        cluster.apply(detach(2, &["c2"]));
    }
    // Networks on one link of the hosts are one segment.
    let cause = "02:11:22:33:44:55 on network \"lan\" is that of cni container \"lan\"";
    refused(
        &mut cluster,
        wish(2, "c2", "other", "02:11:22:33:44:55"),
        Kind::Conflict,
        cause,
    );
    cluster.apply(detach(1, &["lan"]));
    cluster.attach(wish(2, "c2", "other", "02:11:22:33:44:55"));

    cluster.create_network(NetworkSpec {
        driver: Driver::Ipvlan,
        ..lan("shared", "10.3.0.0/24")
    });
    refused(
        &mut cluster,
        wish(1, "c4", "shared", "02:11:22:33:44:57"),
        Kind::Invalid,
        "Ethernet address of their host",
    );

    // What is made of addresses, of hosts and of networks is taken, too.
    cluster.create_service(service("web", 1, &["net"]));
    cluster.settle();
    let task = cluster.task("web.1");
    let generated = [
        Mac::of_endpoint(task.addresses[0]),
        Mac::of_router(NodeId(2)),
        Mac::NETWORK,
    ];
    for (taken, whose) in
        generated
            .into_iter()
            .zip(["task web.1", "host \"h2\"", "the network itself"])
    {
        let spec = ContainerSpec {
            mac: Some(taken),
            ..spec(3, "c3", "net")
        };
        refused(&mut cluster, spec, Kind::Conflict, whose);
    }
    let idle = Command::Task(TaskCommand::Replace {
        task: "web.1".to_owned(),
    });
    cluster.apply(idle);
    let spec = ContainerSpec {
        mac: Some(generated[0]),
        ..spec(3, "c3", "net")
    };
    refused(&mut cluster, spec, Kind::Conflict, "task web.1");
}

#[test]
fn generated_ethernet_addresses_avoid_chosen_ones() {
    let mut cluster = cluster();
    let chosen = ContainerSpec {
        mac: Some(Mac::of_endpoint([10, 0, 9, 77].into())),
        ..spec(1, "c1", "net")
    };
    let chosen = cluster.attach(chosen);
    let made = cluster.attach(ContainerSpec {
        ipv4: exactly("10.0.9.77"),
        ..spec(2, "c2", "net")
    });
    assert!(
        made.mac != chosen.mac && made.mac.0[0] & 1 == 0,
        "{}",
        made.mac
    );
    let only_v6 = |id, address| {
        let spec = ContainerSpec {
            ipv6: exactly(address),
            ipv4: AddressWish::default(),
            ..spec(1, id, "net")
        };
        attach(spec)
    };
    let macs = [("c3", "fd00:9::1:0:9"), ("c4", "fd00:9::2:0:9")].map(|(id, address)| {
        let Outcome::Container(container) = cluster.apply(only_v6(id, address)) else {
            panic!("no container")
        };
        container.mac
    });
    assert_ne!(macs[0], macs[1], "their addresses end alike");
    // The next slot's address is 10.0.9.x: somebody has chosen what would be made of it.
    let next = cluster.attach(spec(1, "c5", "net")).addresses[0];
    let IpAddr::V4(next) = next else {
        panic!("{next}")
    };
    for above in 1..=3 {
        let mac = Some(Mac::of_endpoint(
            std::net::Ipv4Addr::from(u32::from(next) + above).into(),
        ));
        cluster.attach(ContainerSpec {
            mac,
            ipv4: AddressWish::default(),
            ..spec(3, &format!("d{above}"), "net")
        });
    }
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    let view = cluster
        .state
        .view(NodeId(cluster.task("web.1").node_id.unwrap().0));
    let macs: Vec<Mac> = view
        .endpoints
        .values()
        .map(|endpoint| endpoint.mac)
        .collect();
    let made = Mac::of_endpoint(cluster.task("web.1").addresses[0]);
    assert!(macs.len() == 1 && macs[0] != made, "{macs:?} {made}");
}

#[test]
fn a_family_newly_wished_for_is_added_and_the_others_stay() {
    let mut cluster = cluster();
    let only_v6 = ContainerSpec {
        ipv4: AddressWish::default(),
        ..spec(1, "c1", "net")
    };
    let first = cluster.attach(only_v6);
    assert!(first.addresses.len() == 1 && first.addresses[0].is_ipv6());
    let both = cluster.attach(spec(1, "c1", "net"));
    assert!(
        both.addresses[0].is_ipv4()
            && both.addresses[1] == first.addresses[0]
            && both.mac == first.mac
    );
    assert_eq!(cluster.state.check(), Vec::<String>::new());
    cluster.create_network(attachable("four", &["10.0.7.0/24"]));
    assert_eq!(
        cluster.attach(spec(1, "c4", "four")).addresses.len(),
        1,
        "families that the network has"
    );
    let six = ContainerSpec {
        ipv4: AddressWish::default(),
        ..spec(1, "c6", "four")
    };
    refused(&mut cluster, six, Kind::Invalid, "no address");
}

#[test]
fn only_attachable_networks_take_containers() {
    let mut cluster = cluster();
    cluster.create_network(network("closed", &[]));
    cluster.create_network(attachable("other", &[]));
    refused(
        &mut cluster,
        spec(1, "c1", "closed"),
        Kind::Precondition,
        "swarmctl network create --attachable",
    );
    refused(
        &mut cluster,
        spec(1, "c1", "nowhere"),
        Kind::NotFound,
        "nowhere",
    );
    refused(&mut cluster, spec(9, "c1", "net"), Kind::NotFound, "node");
    cluster.attach(spec(1, "c1", "net"));
    refused(
        &mut cluster,
        spec(1, "c1", "other"),
        Kind::Conflict,
        "is on network \"net\"",
    );
    let lan = NetworkSpec {
        driver: Driver::Macvlan,
        options: [("parent".to_owned(), "eth0".to_owned())].into(),
        ..attachable("lan", &["10.1.0.0/24"])
    };
    cluster.create_network(lan);
    cluster.say_capable(2, &[]);
    refused(
        &mut cluster,
        spec(2, "c2", "lan"),
        Kind::Precondition,
        "macvlan",
    );
    cluster.attach(spec(1, "c2", "lan"));
}

#[test]
fn senseless_attachments_are_refused() {
    let mut cluster = cluster();
    let of = |path: &str, interface: &str| {
        let sandbox = Sandbox {
            path: path.to_owned(),
            identity: None,
            interface: Some(interface.to_owned()),
        };
        ContainerSpec {
            sandbox: Some(sandbox),
            ..spec(1, "c1", "net")
        }
    };
    let with = |traits| ContainerSpec {
        traits: Some(traits),
        ..spec(1, "c1", "net")
    };
    let ingress = PublishSpec {
        mode: PublishMode::Ingress,
        ..publish(80)
    };
    for wrong in [
        of("run/netns/a", "eth0"),
        of("/run/netns/a", "eth0/1"),
        ContainerSpec {
            left: true,
            ..of("/run/netns/a", "eth0")
        },
        ContainerSpec {
            mac: Some(Mac([1, 0, 0, 0, 0, 1])),
            ..spec(1, "c1", "net")
        },
        ContainerSpec {
            mac: Some(Mac([0xff; 6])),
            ..spec(1, "c1", "net")
        },
        ContainerSpec {
            mac: Some(Mac([0; 6])),
            ..spec(1, "c1", "net")
        },
        spec(1, "", "net"),
        with(ContainerTraits {
            publish: vec![ingress],
            ..named("c")
        }),
        with(ContainerTraits {
            publish: vec![publish(0)],
            ..named("c")
        }),
        with(named(&"n".repeat(256))),
    ] {
        assert_eq!(cluster.refuse(attach(wrong)).kind, Kind::Invalid);
    }
}

#[test]
fn addresses_of_detached_containers_go_back_and_rest() {
    let mut cluster = cluster();
    let first = cluster.attach(spec(1, "c1", "net"));
    let by_name = cluster.attach(ContainerSpec {
        ipv4: exactly("10.0.9.3"),
        ..spec(3, "c3", "net")
    });
    cluster.apply(detach(1, &["c1", "never seen"]));
    cluster.apply(Command::Node(NodeCommand::Remove { node: NodeId(3) }));
    assert_eq!(cluster.state.check(), Vec::<String>::new());
    assert_eq!(cluster.state.ledger().leases().count(), 1, "the gateway's");
    let next = cluster.attach(spec(1, "c2", "net"));
    assert!(
        [&first, &by_name]
            .iter()
            .all(|gone| gone.addresses[0] != next.addresses[0]),
        "they rest"
    );
    cluster.apply(detach(1, &["c1"]));
}

#[test]
fn a_network_stays_while_containers_hold_addresses_there() {
    let mut cluster = cluster();
    cluster.attach(ContainerSpec {
        traits: Some(named("db")),
        ..spec(2, "c1", "net")
    });
    let remove = || {
        Command::Network(NetworkCommand::Remove {
            network: "net".to_owned(),
        })
    };
    let refusal = cluster.refuse(remove());
    assert!(
        refusal.cause.contains("cni container \"db\" on h2"),
        "{refusal}"
    );
    cluster.apply(detach(2, &["c1"]));
    cluster.apply(remove());
}

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

#[test]
fn a_network_without_a_name_gets_one_and_only_one() {
    let mut cluster = cluster();
    let labels = [("netd.unnamed".to_owned(), "true".to_owned())].into();
    let id = cluster.create_network(NetworkSpec {
        labels,
        ..attachable("docker-1", &["10.0.8.0/30"])
    });
    cluster.attach(placed(1, "c1", named("db")));
    cluster.attach(ContainerSpec {
        network: "docker-1".to_owned(),
        ..placed(1, "c2", named("web"))
    });
    let name = |network: &str, name: &str| {
        Command::Network(NetworkCommand::Name {
            network: network.to_owned(),
            name: name.to_owned(),
        })
    };
    assert_eq!(cluster.refuse(name("docker-1", "Net")).kind, Kind::Conflict);
    assert_eq!(cluster.refuse(name("docker-1", "a b")).kind, Kind::Invalid);
    cluster.apply(name("docker-1", "front"));
    assert_eq!(cluster.network("front"), id);
    assert_eq!(cluster.state.view(NodeId(1)).networks[&id].name, "front");
    cluster.apply(name(&id.to_string(), "front"));
    assert_eq!(
        cluster.refuse(name("front", "back")).kind,
        Kind::Precondition
    );
    assert_eq!(
        cluster.refuse(name("net", "other")).kind,
        Kind::Precondition
    );
    let full = cluster.refuse(attach(spec(1, "c3", "front")));
    assert!(full.cause.contains("\"front\""), "{full}");
}

#[test]
fn a_node_may_not_have_the_address_of_a_container() {
    let mut cluster = Cluster::of(1);
    let lan = NetworkSpec {
        driver: Driver::Macvlan,
        options: [("parent".to_owned(), "eth0".to_owned())].into(),
        ..attachable("net", &["192.168.7.0/24"])
    };
    cluster.create_network(lan);
    let own = ContainerSpec {
        ipv4: exactly("192.168.7.1"),
        ..spec(1, "c1", "net")
    };
    refused(&mut cluster, own, Kind::Conflict, "gateway");
    cluster.attach(ContainerSpec {
        ipv4: exactly("192.168.7.4"),
        ..spec(1, "c1", "net")
    });
    let refusal = cluster.refuse(Command::Node(NodeCommand::Admit {
        node: node(4, Role::Worker),
    }));
    assert!(refusal.cause.contains("192.168.7.4"), "{refusal}");
}

#[test]
fn the_ledger_check_finds_containers_and_leases_that_differ() {
    let mut cluster = cluster();
    let container = cluster.attach(spec(1, "c1", "net"));
    let mut snapshot = crate::fixture::json(&cluster.state);
    let id = container.id.to_string();
    let wrong = |snapshot: &serde_json::Value| {
        State::restore(snapshot.to_string().as_bytes(), Level::NEWEST)
            .unwrap()
            .check()
            .join("\n")
    };
    snapshot["containers"][&id]["addresses"][0] = "10.0.9.200".into();
    assert!(
        wrong(&snapshot).contains("holds [10.0.9.200"),
        "{}",
        wrong(&snapshot)
    );
    snapshot["containers"].as_object_mut().unwrap().remove(&id);
    assert!(
        wrong(&snapshot).contains(&format!("container/{id} on network")),
        "{}",
        wrong(&snapshot)
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
