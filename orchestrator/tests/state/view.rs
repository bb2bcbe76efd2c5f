//! What a host is told: all that it has part in, and nothing else.

use std::net::IpAddr;

use model::*;

use crate::fixture::{Cluster, network, service};

fn two_networks() -> Cluster {
    let mut cluster = Cluster::with_network(4);
    cluster.create_network(network("other", &["10.0.10.0/24"]));
    cluster.set_availability(1, Availability::Drain);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.converge();
    cluster.set_availability(2, Availability::Pause);
    cluster.set_availability(3, Availability::Pause);
    cluster.create_service(service("db", 1, &["other"]));
    cluster.converge();
    cluster
}

fn named(cluster: &Cluster, node: u64, name: &str) -> Option<Vec<String>> {
    let view = cluster.state.view(NodeId(node));
    let record = view.names.iter().find(|((_, known), _)| known == name)?.1;
    Some(record.addresses.iter().map(IpAddr::to_string).collect())
}

fn real_servers(cluster: &Cluster, node: u64) -> Vec<String> {
    let view = cluster.state.view(NodeId(node));
    view.services
        .values()
        .flat_map(|service| service.real_servers.keys().map(IpAddr::to_string))
        .collect()
}

#[test]
fn a_host_learns_only_of_networks_that_it_has_part_in() {
    let cluster = two_networks();
    let view = cluster.state.view(NodeId(4));
    assert_eq!(view.generation, cluster.index);
    assert_eq!(
        view.networks
            .values()
            .map(|network| network.name.as_str())
            .collect::<Vec<_>>(),
        ["other"]
    );
    assert_eq!(
        view.peers.keys().copied().collect::<Vec<_>>(),
        [NodeId(1), NodeId(4)],
        "managers and itself"
    );
    assert_eq!(
        (view.endpoints.len(), view.services.len(), view.tasks.len()),
        (1, 1, 1)
    );
    assert!(view.names.keys().all(|(_, name)| name.contains("db")));
    let idle = cluster.state.view(NodeId(1));
    assert_eq!(
        (
            idle.networks.len(),
            idle.endpoints.len(),
            idle.names.len(),
            idle.peers.len()
        ),
        (0, 0, 0, 1)
    );
    let stranger = cluster.state.view(NodeId(99));
    assert_eq!(
        stranger,
        NodeConfig {
            generation: cluster.index,
            level: Level::NEWEST,
            ..NodeConfig::empty(NodeId(99))
        }
    );
}

#[test]
fn hosts_that_share_a_network_see_each_others_endpoints() {
    let cluster = two_networks();
    let view = cluster.state.view(NodeId(2));
    let peers: Vec<u64> = view.peers.keys().map(|node| node.0).collect();
    let nodes: Vec<u64> = view
        .endpoints
        .values()
        .map(|endpoint| endpoint.node.0)
        .collect();
    assert_eq!(peers, [1, 2, 3]);
    assert!(nodes.contains(&2) && nodes.contains(&3) && nodes.len() == 2);
    let (_, task) = view.tasks.iter().next().unwrap();
    assert!(view.endpoints.contains_key(&task.endpoints[0]));
    assert_eq!(
        (task.name().as_str(), task.desired),
        ("web.1", TaskState::Running)
    );
}

#[test]
fn names_lead_to_the_vip_to_every_task_and_to_one_slot() {
    let cluster = two_networks();
    let expect = |name: &str, addresses: &[&str]| {
        assert_eq!(named(&cluster, 2, name).unwrap(), addresses, "{name}");
    };
    expect("web", &["10.0.9.2", "fd00:9::2"]);
    expect(
        "tasks.web",
        &["10.0.9.3", "fd00:9::3", "10.0.9.4", "fd00:9::4"],
    );
    expect("web.1", &["10.0.9.3", "fd00:9::3"]);
    assert_eq!(named(&cluster, 2, "web.3"), None);
    let view = cluster.state.view(NodeId(2));
    let canonical = view.names.iter().filter(|(_, record)| record.canonical);
    let canonical: Vec<&String> = canonical.map(|((_, name), _)| name).collect();
    assert_eq!(canonical, ["web", "web.1", "web.2"]);
    assert_eq!(
        real_servers(&cluster, 2),
        ["10.0.9.3", "10.0.9.4", "fd00:9::3", "fd00:9::4"]
    );
}

#[test]
fn a_dnsrr_name_leads_to_running_tasks_and_exists_without() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(ServiceSpec {
        endpoint_mode: EndpointMode::Dnsrr,
        ..service("Web", 1, &["net"])
    });
    cluster.create_service(service("other", 1, &["net"]));
    cluster.settle();
    for name in ["web", "tasks.web", "web.1"] {
        assert_eq!(
            named(&cluster, 1, name).unwrap(),
            Vec::<String>::new(),
            "{name}"
        );
    }
    cluster.converge();
    for name in ["web", "tasks.web", "web.1"] {
        assert_eq!(
            named(&cluster, 1, name).unwrap(),
            ["10.0.9.2", "fd00:9::2"],
            "{name}"
        );
    }
    assert_eq!(cluster.state.view(NodeId(1)).services.len(), 1);
}

#[test]
fn a_task_takes_traffic_only_while_it_runs_and_should() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.settle();
    assert_eq!(real_servers(&cluster, 1), Vec::<String>::new());
    cluster.converge();
    let task = cluster.task("web.2");
    cluster.word(&task, TaskState::Failed);
    assert_eq!(real_servers(&cluster, 1), ["10.0.9.3", "fd00:9::3"]);
    assert_eq!(named(&cluster, 1, "web.2").unwrap(), Vec::<String>::new());
    assert_eq!(
        cluster.state.view(NodeId(1)).endpoints.len(),
        1,
        "an ended task has no endpoint"
    );
    cluster.scale("web", 0);
    cluster.settle();
    let view = cluster.state.view(NodeId(1));
    let weights: Vec<u16> = view
        .services
        .values()
        .flat_map(|web| web.real_servers.values().copied())
        .collect();
    assert_eq!(weights, [0, 0], "nothing new comes, what is there goes on");
    assert_eq!(
        view.endpoints.len(),
        1,
        "and it is reachable until it has stopped"
    );
}

#[test]
fn a_lost_nodes_tasks_yield_their_address_to_successors() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.converge();
    cluster.set_status(2, NodeStatus::Down);
    assert_eq!(real_servers(&cluster, 1), ["10.0.9.3", "fd00:9::3"]);
    let holders = |cluster: &Cluster| -> Vec<u64> {
        cluster
            .state
            .view(NodeId(1))
            .endpoints
            .values()
            .map(|endpoint| endpoint.node.0)
            .collect()
    };
    assert!(
        holders(&cluster).contains(&2),
        "nobody else has the address"
    );
    cluster.converge();
    assert_eq!(holders(&cluster), [1, 1]);
    cluster.set_status(2, NodeStatus::Ready);
    assert_eq!(
        holders(&cluster),
        [1, 1],
        "the one that should run keeps it"
    );
    let returned = cluster.state.view(NodeId(2));
    assert_eq!(
        returned
            .tasks
            .values()
            .map(|task| task.desired)
            .collect::<Vec<_>>(),
        [TaskState::Shutdown]
    );
}

#[test]
fn a_lost_run_yields_its_address_to_an_older_stopping_one() {
    let mut cluster = Cluster::with_network(3);
    cluster.create_service(service("watch", 3, &["net"]));
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    let held_by = |cluster: &Cluster| {
        let Answer::Networks(networks) = cluster
            .state
            .answer(None, &Query::Network("net".to_owned()))
            .unwrap()
        else {
            panic!("no networks")
        };
        networks[0]
            .status
            .endpoints
            .iter()
            .find(|endpoint| endpoint.name == "web.1")
            .unwrap()
            .node
            .clone()
    };
    assert_eq!(held_by(&cluster), "h1");
    cluster.set_status(1, NodeStatus::Down);
    cluster.converge();
    let successor = held_by(&cluster);
    assert_ne!(successor, "h1");
    cluster.set_status(1, NodeStatus::Ready);
    assert_eq!(held_by(&cluster), successor);
    cluster.set_status(successor[1..].parse().unwrap(), NodeStatus::Down);
    assert_eq!(held_by(&cluster), "h1");
}

#[test]
fn a_service_being_removed_has_no_name_and_a_closed_vip() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(service("web", 1, &["net"]));
    cluster.converge();
    cluster.remove_service("web");
    cluster.settle();
    let view = cluster.state.view(NodeId(1));
    assert_eq!(
        (view.names.len(), view.services.len(), view.endpoints.len()),
        (0, 1, 1)
    );
    assert!(
        view.services
            .values()
            .flat_map(|web| web.real_servers.values())
            .all(|weight| *weight == 0)
    );
    cluster.drain();
    let view = cluster.state.view(NodeId(1));
    assert_eq!(
        view.tasks.values().next().unwrap().desired,
        TaskState::Remove
    );
    cluster.converge();
    let view = cluster.state.view(NodeId(1));
    assert_eq!(
        (view.tasks.len(), view.networks.len(), view.endpoints.len()),
        (0, 0, 0)
    );
}

#[test]
fn a_service_of_thousands_is_in_every_view() {
    let mut cluster = Cluster::of(20);
    cluster.create_network(network("wide", &["10.1.0.0/16", "fd00:1::/64"]));
    cluster.create_service(service("web", 2_000, &["wide"]));
    cluster.converge();
    let view = cluster.state.view(NodeId(1));
    assert_eq!(
        (view.endpoints.len(), view.tasks.len(), view.peers.len()),
        (2_000, 100, 20)
    );
    assert_eq!(
        view.services.values().next().unwrap().real_servers.len(),
        4_000
    );
    assert_eq!(cluster.service("web").status.running, 2_000);
}
