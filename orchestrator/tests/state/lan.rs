//! Networks on a LAN: what they need, which addresses they give, and where their tasks run.

use std::collections::BTreeSet;

use model::*;

use crate::fixture::{Cluster, network, node, service};

const LAN: &[&str] = &["192.168.7.0/29"];

fn lan(subnets: &[&str], options: &[(&str, &str)]) -> NetworkSpec {
    let options = options
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    NetworkSpec {
        driver: Driver::Macvlan,
        options,
        ..network("lan", subnets)
    }
}

fn create(spec: NetworkSpec) -> Command {
    Command::Network(NetworkCommand::Create { spec })
}

fn can(cluster: &mut Cluster, number: u64, capabilities: &[Capability]) {
    let capabilities = capabilities.iter().copied().collect();
    cluster.apply(Command::Node(NodeCommand::Report(NodeReport {
        capabilities,
        ..NodeReport::new(NodeId(number), 0)
    })));
}

#[test]
fn senseless_options_are_refused_with_sensible_ones() {
    let mut cluster = Cluster::of(1);
    for (spec, next) in [
        (lan(&[], &[("parent", "eth0")]), "--subnet"),
        (lan(LAN, &[]), "parent=eth0"),
        (lan(LAN, &[("parent", "eth0.4095")]), "parent=eth0.50"),
        (
            lan(LAN, &[("parent", "eth0"), ("macvlan_mode", "open")]),
            "macvlan_mode",
        ),
        (
            lan(LAN, &[("parent", "eth0"), ("ipvlan_mode", "l2")]),
            "macvlan_mode",
        ),
        (
            NetworkSpec {
                driver: Driver::Overlay,
                ..lan(LAN, &[("parent", "eth0")])
            },
            "mtu",
        ),
    ] {
        let refusal = cluster.refuse(create(spec));
        assert_eq!(refusal.kind, Kind::Invalid);
        assert!(refusal.next.contains(next), "{refusal}");
    }
}

#[test]
fn endpoints_get_no_addresses_of_nodes() {
    let mut cluster = Cluster::of(3);
    let mut spec = lan(LAN, &[("parent", "eth0")]);
    spec.subnets[0].gateway = Some([192, 168, 7, 6].into());
    let id = cluster.create_network(spec);
    cluster.create_service(service("web", 1, &["lan"]));
    let given: BTreeSet<String> = cluster
        .state
        .ledger()
        .leases()
        .flat_map(|lease| lease.addresses.iter().map(ToString::to_string))
        .collect();
    assert_eq!(
        given.len(),
        6,
        "three nodes, the gateway, and for the virtual IP and the slot what is left: {given:?}"
    );
    assert_eq!(cluster.state.check(), Vec::<String>::new());
    let full = cluster.refuse(Command::Service(ServiceCommand::Scale {
        service: "web".to_owned(),
        replicas: 2,
    }));
    assert_eq!(full.kind, Kind::Exhausted);

    let refusal = cluster.refuse(Command::Node(NodeCommand::Admit {
        node: node(4, Role::Worker),
    }));
    assert!(
        refusal.cause.contains("192.168.7.4") && refusal.cause.contains("lan"),
        "{refusal}"
    );
    cluster.apply(Command::Node(NodeCommand::Remove { node: NodeId(3) }));
    cluster.apply(Command::Service(ServiceCommand::Scale {
        service: "web".to_owned(),
        replicas: 2,
    }));
    assert_eq!(
        cluster
            .state
            .ledger()
            .holder(id, [192, 168, 7, 3].into())
            .map(|owner| owner.to_string()[..4].to_owned()),
        Some("slot".to_owned())
    );
    assert_eq!(cluster.state.check(), Vec::<String>::new());
    cluster.remove_service("web");
    cluster.settle();
    cluster.apply(Command::Network(NetworkCommand::Remove {
        network: "lan".to_owned(),
    }));
    assert_eq!(cluster.state.ledger().leases().count(), 0);
}

#[test]
fn a_range_narrows_what_is_given() {
    let mut cluster = Cluster::of(1);
    let mut spec = lan(&["192.168.7.0/24"], &[("parent", "eth0")]);
    spec.subnets[0].range = Some("192.168.7.64/30".parse().unwrap());
    cluster.create_network(spec);
    cluster.create_service(service("web", 3, &["lan"]));
    assert_eq!(
        cluster
            .refuse(Command::Service(ServiceCommand::Scale {
                service: "web".to_owned(),
                replicas: 4
            }))
            .kind,
        Kind::Exhausted
    );
    let mut outside = lan(&["192.168.8.0/24"], &[("parent", "eth0")]);
    (outside.name, outside.subnets[0].range) =
        ("other".to_owned(), Some("192.168.7.64/30".parse().unwrap()));
    assert!(cluster.refuse(create(outside)).next.contains("--ip-range"));
}

#[test]
fn a_kernel_that_lacks_the_devices_is_named_and_gets_no_tasks() {
    let mut cluster = Cluster::of(2);
    can(&mut cluster, 1, &[Capability::Macvlan, Capability::Vlan]);
    can(&mut cluster, 2, &[Capability::Macvlan]);
    let refusal = cluster.refuse(create(lan(LAN, &[("parent", "eth0.50")])));
    assert!(
        refusal
            .cause
            .ends_with("lacks vlan (CONFIG_VLAN_8021Q) on \"h2\""),
        "{refusal}"
    );
    cluster.create_network(lan(&["192.168.9.0/24"], &[("parent", "eth0")]));
    can(&mut cluster, 2, &[]);
    cluster.create_service(service("web", 4, &["lan"]));
    let step = cluster.step();
    for command in step {
        cluster.apply(command);
    }
    let step = cluster.step();
    let places: BTreeSet<NodeId> = step
        .iter()
        .filter_map(|command| {
            if let Command::Task(TaskCommand::Assign { node, .. }) = command {
                Some(*node)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(places, BTreeSet::from([NodeId(1)]));
}
