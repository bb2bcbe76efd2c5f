//! Planned stops: withdrawn first, then known to be so, then drained, and only then asked to stop.

use model::*;

use crate::fixture::{Cluster, report, service};

/// One replica on each node, with 10 s for its connections.
fn cluster(nodes: u64) -> Cluster {
    let mut cluster = Cluster::with_network(nodes);
    cluster.create_service(service("web", u32::try_from(nodes).unwrap(), &["net"]));
    cluster.converge();
    cluster
}

fn replace(task: &str) -> Command {
    Command::Task(TaskCommand::Replace {
        task: task.to_owned(),
    })
}

fn weights(cluster: &Cluster) -> Vec<u16> {
    let view = cluster.state.view(NodeId(1));
    view.services
        .values()
        .flat_map(|service| service.real_servers.values().copied())
        .collect()
}

fn acknowledge(cluster: &mut Cluster, node: u64) {
    cluster.report(node, cluster.index, Vec::new());
}

fn connections(cluster: &mut Cluster, task: &TaskInfo, count: u32) {
    let said = TaskReport {
        connections: Some(count),
        ..report(task.id, TaskState::Running)
    };
    cluster.report(task.node_id.unwrap().0, 0, vec![said]);
}

#[test]
fn a_withdrawn_task_stops_once_all_know_and_it_is_idle() {
    let mut cluster = cluster(2);
    let old = cluster.task("web.1");
    cluster.apply(replace("web.1"));
    assert_eq!(weights(&cluster), [0, 1, 0, 1], "both families");
    let named =
        &cluster.state.view(NodeId(1)).names[&(cluster.network("net"), "tasks.web".to_owned())];
    assert_eq!(named.addresses.len(), 2);
    acknowledge(&mut cluster, 1);
    assert!(!cluster.settle());
    assert!(
        cluster
            .task("web.1")
            .message
            .contains("waits until h2 knows")
    );
    acknowledge(&mut cluster, 2);
    cluster.settle();
    assert!(cluster.state.view(old.node_id.unwrap()).tasks[&old.id].draining);
    connections(&mut cluster, &old, 3);
    assert!(!cluster.settle());
    assert_eq!(cluster.task("web.1").message, "draining: 3 connections");
    connections(&mut cluster, &old, 0);
    cluster.settle();
    let next = cluster.task("web.1");
    assert_eq!(
        (next.state, &next.addresses),
        (TaskState::Pending, &old.addresses)
    );
    cluster.converge();
    assert_eq!(weights(&cluster), [1, 1, 1, 1]);
}

#[test]
fn the_drain_time_begins_when_all_know() {
    let mut cluster = cluster(2);
    let old = cluster.task("web.1");
    cluster.apply(replace("web.1"));
    cluster.now += 20_000;
    assert!(!cluster.settle(), "h1 and h2 have not heard");
    (1..=2).for_each(|node| acknowledge(&mut cluster, node));
    cluster.settle();
    connections(&mut cluster, &old, 3);
    cluster.now += 9_999;
    assert!(!cluster.settle());
    cluster.now += 1;
    assert!(cluster.settle());
    assert_eq!(
        cluster.task(&old.id.to_string()).desired_state,
        TaskState::Shutdown
    );
}

#[test]
fn a_silent_or_failing_node_delays_a_drain_for_a_limited_time() {
    for is_down in [true, false] {
        let mut cluster = cluster(2);
        let old = cluster.task("web.1");
        cluster.apply(replace("web.1"));
        acknowledge(&mut cluster, 1);
        cluster.now += 29_999;
        assert!(!cluster.settle());
        if is_down {
            cluster.set_status(2, NodeStatus::Down);
        } else {
            cluster.now += 1;
        }
        cluster.settle();
        assert!(cluster.state.view(NodeId(1)).tasks[&old.id].draining);
    }
}

#[test]
fn a_task_without_traffic_stops_at_once() {
    let mut cluster = cluster(2);
    let lost = cluster.task("web.2");
    cluster.set_status(lost.node_id.unwrap().0, NodeStatus::Down);
    cluster.scale("web", 1);
    cluster.settle();
    assert_eq!(
        cluster.task(&lost.id.to_string()).desired_state,
        TaskState::Remove,
        "its node is down"
    );
    cluster.scale("web", 3);
    cluster.settle();
    let starting = cluster.task("web.3");
    cluster.apply(replace("web.3"));
    assert_eq!(
        cluster.task(&starting.id.to_string()).desired_state,
        TaskState::Shutdown,
        "it does not run yet"
    );
    cluster.create_service(service("alone", 1, &[]));
    cluster.converge();
    let alone = cluster.task("alone.1");
    cluster.apply(replace("alone.1"));
    assert_eq!(
        cluster.task(&alone.id.to_string()).desired_state,
        TaskState::Shutdown,
        "it is on no network"
    );
}

#[test]
fn a_leader_with_a_slow_clock_restarts_the_drain_time() {
    let mut cluster = cluster(1);
    let old = cluster.task("web.1");
    cluster.apply(replace("web.1"));
    acknowledge(&mut cluster, 1);
    cluster.settle();
    connections(&mut cluster, &old, 1);
    cluster.now -= 60_000;
    assert_eq!(
        cluster.step(),
        [Command::Task(TaskCommand::Drain { task: old.id })]
    );
    cluster.settle();
    cluster.now += 9_999;
    assert!(!cluster.settle());
    cluster.now += 1;
    assert!(cluster.settle());
}

#[test]
fn dnsrr_addresses_are_kept_until_clients_forget_them() {
    let mut cluster = Cluster::with_network(1);
    cluster.create_service(ServiceSpec {
        endpoint_mode: EndpointMode::Dnsrr,
        ..service("web", 1, &["net"])
    });
    cluster.converge();
    let old = cluster.task("web.1");
    cluster.apply(replace("web.1"));
    acknowledge(&mut cluster, 1);
    cluster.settle();
    connections(&mut cluster, &old, 0);
    cluster.now += 4_999;
    assert!(!cluster.settle());
    cluster.now += 1;
    assert!(cluster.settle());
}

#[test]
fn counts_from_before_all_knew_are_not_heard() {
    let mut cluster = cluster(2);
    let old = cluster.task("web.1");
    cluster.apply(replace("web.1"));
    connections(&mut cluster, &old, 0);
    (1..=2).for_each(|node| acknowledge(&mut cluster, node));
    cluster.settle();
    assert_eq!(cluster.task("web.1").message, "draining");
}

#[test]
fn an_unhealthy_task_gets_no_traffic_while_it_is_ended() {
    let mut cluster = cluster(1);
    let old = cluster.task("web.1");
    let said = TaskReport {
        unhealthy: true,
        ..report(old.id, TaskState::Running)
    };
    cluster.report(1, cluster.index, vec![said]);
    assert_eq!(weights(&cluster), [0, 0]);
    assert!(!cluster.settle());
    cluster.word(&old, TaskState::Failed);
    cluster.now += 4_999;
    assert!(!cluster.settle());
    cluster.now += 1;
    cluster.converge();
    assert_eq!(weights(&cluster), [1, 1]);
}

#[test]
fn a_task_that_has_ended_is_not_replaced_by_hand() {
    let mut cluster = cluster(1);
    let task = cluster.task("web.1");
    cluster.word(&task, TaskState::Failed);
    let refusal = cluster.refuse(replace("web.1"));
    assert!(
        refusal.cause.contains("has ended") && refusal.next.contains("swarmctl service ps web"),
        "{refusal}"
    );
}
