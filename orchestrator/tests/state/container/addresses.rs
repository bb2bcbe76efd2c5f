//! Addresses of containers: what is given, chosen, refused, and goes back.

use super::*;

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
