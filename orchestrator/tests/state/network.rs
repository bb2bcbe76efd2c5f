//! Networks: what is refused, and what defaults give.

use std::collections::BTreeMap;

use model::*;

use crate::fixture::{Cluster, network, port, service};

fn create(spec: NetworkSpec) -> Command {
    Command::Network(NetworkCommand::Create { spec })
}

fn with_mtu(mtu: &str, subnets: &[&str]) -> NetworkSpec {
    NetworkSpec {
        options: BTreeMap::from([("mtu".to_owned(), mtu.to_owned())]),
        ..network("net", subnets)
    }
}

fn info(cluster: &Cluster, name: &str) -> NetworkInfo {
    let Answer::Networks(mut networks) = cluster
        .state
        .answer(None, &Query::Network(name.to_owned()))
        .unwrap()
    else {
        panic!("no networks")
    };
    networks.remove(0)
}

#[test]
fn defaults_are_one_subnet_per_family_and_vnis_count_up() {
    let mut cluster = Cluster::of(1);
    cluster.create_network(network("a", &[]));
    cluster.create_network(network("b", &[]));
    let (a, b) = (info(&cluster, "a"), info(&cluster, "b"));
    assert_eq!(a.status.subnets[0].subnet.to_string(), "10.0.0.0/24");
    assert_eq!(a.status.subnets[0].gateway.to_string(), "10.0.0.1");
    assert!(
        a.status.subnets[1].subnet.to_string().starts_with("fd")
            && a.status.subnets[1].subnet.prefix() == 64
    );
    assert_eq!(b.status.subnets[0].subnet.to_string(), "10.0.1.0/24");
    assert_eq!(
        (u32::from(a.status.vni), u32::from(b.status.vni)),
        (4096, 4097)
    );
    cluster.apply(Command::Network(NetworkCommand::Remove {
        network: "a".to_owned(),
    }));
    cluster.create_network(network("c", &[]));
    assert_eq!(
        u32::from(info(&cluster, "c").status.vni),
        4098,
        "a freed VNI rests"
    );
}

#[test]
fn marks_of_living_networks_differ_however_many_there_were() {
    for (level, expected) in [(Level::TYPED_FAILURES, 6144), (Level::NEWEST, 6145)] {
        let mut cluster = Cluster::at(level, 1);
        cluster.create_network(network("old", &[]));
        for _ in 1..Vni::MARKS {
            cluster.create_network(network("t", &[]));
            cluster.apply(Command::Network(NetworkCommand::Remove {
                network: "t".to_owned(),
            }));
        }
        cluster.create_network(network("new", &[]));
        let vnis = ["old", "new"].map(|name| u32::from(info(&cluster, name).status.vni));
        assert_eq!(vnis, [4096, expected], "level {level}");
    }
}

#[test]
fn names_are_valid_and_unique_whatever_their_case() {
    let mut cluster = Cluster::with_network(1);
    for name in ["", "-net", ".net", "a b", "a/b", &"x".repeat(64)] {
        assert_eq!(
            cluster.refuse(create(network(name, &[]))).kind,
            Kind::Invalid,
            "{name}"
        );
    }
    assert_eq!(
        cluster.refuse(create(network("NET", &[]))).kind,
        Kind::Conflict
    );
    cluster.create_network(network("9_a.b-c", &[]));
    // They could be no end of a name.
    for name in ["a..b", "a."] {
        let refusal = cluster.refuse(create(network(name, &[])));
        assert!(
            refusal.next.contains("between other characters"),
            "{refusal}"
        );
        Cluster::at(Level::DISTINCTIONS, 1).create_network(network(name, &[]));
    }
}

#[test]
fn encryption_that_nodes_cannot_do_is_never_downgraded() {
    let mut cluster = Cluster::of(3);
    let secret = || {
        create(NetworkSpec {
            encrypted: true,
            ..network("secret", &[])
        })
    };
    cluster.say_capable(1, &[Capability::Esp]);
    let refusal = cluster.refuse(secret());
    assert!(
        refusal.cause.ends_with("of \"h2\", \"h3\"") && refusal.next.starts_with("try again"),
        "{refusal}"
    );
    cluster.say_capable(2, &[Capability::Ipvs]);
    let refusal = cluster.refuse(secret());
    assert!(
        refusal.cause.contains("CONFIG_INET6_ESP") && refusal.cause.ends_with("on \"h2\""),
        "{refusal}"
    );
    cluster.say_capable(2, &[Capability::Esp]);
    cluster.say_capable(3, &[Capability::Esp]);
    cluster.apply(secret());
}

#[test]
fn unknown_options_and_impossible_mtus_are_refused() {
    let mut cluster = Cluster::of(1);
    let options = BTreeMap::from([("colour".to_owned(), "red".to_owned())]);
    let refusal = cluster.refuse(create(NetworkSpec {
        options,
        ..network("net", &[])
    }));
    assert!(refusal.cause.contains("colour"), "{refusal}");
    for (mtu, subnets) in [
        ("1279", &[][..]),
        ("1279", &["fd00::/64"]),
        ("1279", &["10.0.9.0/24"]),
        ("65536", &[]),
        ("big", &[]),
        ("", &[]),
    ] {
        assert_eq!(
            cluster.refuse(create(with_mtu(mtu, subnets))).kind,
            Kind::Invalid,
            "{mtu}"
        );
    }
    cluster.create_network(with_mtu("1280", &["10.0.9.0/24"]));
}

#[test]
fn overlaps_are_refused_naming_the_network() {
    let mut cluster = Cluster::with_network(1);
    let refusal = cluster.refuse(create(network("b", &["10.0.10.0/24", "10.0.0.0/16"])));
    assert_eq!(refusal.kind, Kind::Conflict);
    assert!(refusal.cause.contains("\"net\""), "{refusal}");
    assert_eq!(
        cluster
            .refuse(create(network("b", &["10.1.0.0/24", "10.1.0.0/25"])))
            .kind,
        Kind::Conflict
    );
}

#[test]
fn a_subnet_that_holds_a_nodes_address_is_refused() {
    let refusal = Cluster::of(2).refuse(create(network("net", &["192.168.0.0/16"])));
    assert_eq!(refusal.kind, Kind::Conflict);
    assert!(refusal.cause.contains("192.168.7.1"), "{refusal}");
}

#[test]
fn default_subnets_keep_clear_of_nodes() {
    let mut cluster = Cluster::of(1);
    let node = Node {
        vtep: [10, 0, 0, 5].into(),
        ..crate::fixture::node(2, Role::Worker)
    };
    cluster.apply(Command::Node(NodeCommand::Admit { node }));
    cluster.create_network(network("net", &[]));
    assert_eq!(
        info(&cluster, "net").status.subnets[0].subnet.to_string(),
        "10.0.1.0/24"
    );
}

#[test]
fn subnets_keep_clear_of_what_links_of_nodes_are_on() {
    let mut cluster = Cluster::of(2);
    let subnet = |text: &str| text.parse::<Subnet>().unwrap();
    let on_link = ["10.0.0.0/23", "192.168.7.0/24", "fd00:9::/64"]
        .map(subnet)
        .into();
    cluster.apply(Command::Node(NodeCommand::Report(NodeReport {
        on_link,
        ..NodeReport::new(NodeId(2), 0)
    })));
    for wanted in ["10.0.1.0/24", "10.0.0.0/16", "fd00:9::/64"] {
        let refusal = cluster.refuse(create(network("net", &[wanted])));
        let named = refusal.cause.contains("which a link of node h2 is on");
        assert!(
            refusal.kind == Kind::Conflict && named && refusal.next.contains("default pools"),
            "{refusal}"
        );
    }
    cluster.create_network(network("free", &[]));
    assert_eq!(
        info(&cluster, "free").status.subnets[0].subnet,
        subnet("10.0.2.0/24")
    );
}

#[test]
fn a_gateway_outside_its_subnet_is_refused() {
    let mut spec = network("net", &["10.0.9.0/24"]);
    spec.subnets[0].gateway = Some([10, 0, 8, 1].into());
    assert_eq!(Cluster::of(1).refuse(create(spec)).kind, Kind::Invalid);
}

#[test]
fn a_network_in_use_stays_and_the_refusal_names_the_service() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(service("web", 1, &["net"]));
    let remove = || {
        Command::Network(NetworkCommand::Remove {
            network: "net".to_owned(),
        })
    };
    let refusal = cluster.refuse(remove());
    assert!(
        refusal.cause.contains("\"web\"") && refusal.next.contains("swarmctl service rm web"),
        "{refusal}"
    );
    cluster.remove_service("web");
    assert!(cluster.refuse(remove()).next.contains("try again"));
    cluster.converge();
    cluster.apply(remove());
    assert_eq!(cluster.state.ledger().leases().count(), 0);
    assert_eq!(cluster.refuse(remove()).kind, Kind::NotFound);
}

#[test]
fn a_network_spends_no_address_on_hosts() {
    let mut cluster = Cluster::of(40);
    cluster.create_network(network("small", &["10.0.9.0/27"]));
    // One for the gateway, one for the virtual IP, the rest for tasks, though every host leads
    // there.
    let port = port(80, PublishMode::Ingress);
    cluster.create_service(ServiceSpec {
        publish: vec![port],
        ..service("web", 28, &["small"])
    });
    cluster.converge();
    assert_eq!(cluster.service("web").status.running, 28);
    assert!((1..=40).all(|node| cluster.state.view(NodeId(node)).networks.len() == 1));
}
