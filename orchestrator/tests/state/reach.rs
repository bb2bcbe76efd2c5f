//! Who may call endpoints of a network from outside, and what hosts are told of it.

use model::*;

use crate::fixture::{Cluster, network, service};

const OUTSIDE: &str = "198.51.100.0/24";

fn reach(network: &str, hosts: Option<bool>, expose: &[&str]) -> Command {
    let prefix = |text: &&str| text.parse().unwrap();
    Command::Network(NetworkCommand::Reach {
        network: network.to_owned(),
        hosts,
        expose: expose.iter().map(prefix).collect(),
        conceal: Vec::new(),
    })
}

fn peers(cluster: &Cluster, node: u64) -> Vec<u64> {
    let view = cluster.state.view(NodeId(node));
    view.peers.keys().map(|id| id.0).collect()
}

#[test]
fn every_host_has_part_in_a_network_that_hosts_call() {
    let mut cluster = Cluster::with_network(4);
    cluster.set_availability(1, Availability::Drain);
    cluster.set_availability(3, Availability::Drain);
    cluster.set_availability(4, Availability::Drain);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    assert_eq!(cluster.state.view(NodeId(3)).networks.len(), 0);
    assert_eq!(peers(&cluster, 2), [1, 2]);
    cluster.apply(reach("net", Some(true), &[]));
    let view = cluster.state.view(NodeId(3));
    let network = view.networks.values().next().unwrap();
    assert!(network.reach.hosts && network.reach.exposed.is_empty());
    assert_eq!(
        (view.endpoints.len(), view.services.len(), view.joined.len()),
        (1, 1, 1)
    );
    assert_eq!(peers(&cluster, 2), [1, 2, 3, 4], "who may call a task here");
    assert_eq!(
        peers(&cluster, 3),
        [1, 2, 3],
        "whom a host without a task calls"
    );
    assert_eq!(cluster.state.check_derived(), Vec::<&str>::new());
    cluster.apply(reach("net", Some(false), &[]));
    assert_eq!(cluster.state.view(NodeId(3)).networks.len(), 0);
    assert_eq!(peers(&cluster, 2), [1, 2]);
    assert_eq!(cluster.state.check_derived(), Vec::<&str>::new());
}

#[test]
fn prefixes_of_machines_come_and_go_one_by_one() {
    let mut cluster = Cluster::with_network(2);
    cluster.apply(reach("net", None, &[OUTSIDE, "203.0.113.0/24"]));
    cluster.apply(Command::Network(NetworkCommand::Reach {
        network: "net".to_owned(),
        hosts: None,
        expose: Vec::new(),
        conceal: vec!["203.0.113.0/24".parse().unwrap()],
    }));
    let view = cluster.state.view(NodeId(2));
    let network = view.networks.values().next().unwrap();
    assert!(!network.reach.hosts);
    assert_eq!(network.reach.exposed, [OUTSIDE.parse().unwrap()].into());
}

#[test]
fn internal_networks_and_prefixes_of_ours_are_refused() {
    let mut cluster = Cluster::with_network(2);
    let closed = NetworkSpec {
        internal: true,
        ..network("closed", &["10.0.20.0/24"])
    };
    cluster.create_network(closed);
    let refused = cluster.refuse(reach("closed", Some(true), &[]));
    assert!(refused.cause.contains("internal"), "{refused}");
    let refused = cluster.refuse(reach("net", None, &["10.0.0.0/8"]));
    assert_eq!(refused.kind, Kind::Conflict);
    let refused = cluster.refuse(reach("closed", None, &["2001:db8::/32"]));
    assert!(refused.cause.contains("internal"), "{refused}");
}

#[test]
fn networks_stay_closed_until_every_member_knows_the_level() {
    let mut cluster = Cluster::at(Level::COMPOUNDS, 2);
    cluster.create_network(network("net", &["10.0.9.0/24"]));
    let refused = cluster.refuse(reach("net", Some(true), &[]));
    assert!(refused.cause.contains("level 5"), "{refused}");
    cluster.raise_to(Level::REACH);
    cluster.apply(reach("net", Some(true), &[]));
}
