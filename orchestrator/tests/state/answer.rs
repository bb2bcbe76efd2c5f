//! Answers to people, and how the objects they name are found.

use model::*;

use crate::fixture::{Cluster, service};

fn with_web() -> Cluster {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.converge();
    cluster
}

#[test]
fn objects_are_found_by_name_id_and_unique_prefix() {
    let cluster = with_web();
    let by_name = cluster.service("web");
    let id = by_name.id.to_string();
    for text in ["WEB", &id, &id[..6]] {
        assert_eq!(cluster.service(text), by_name, "{text}");
    }
    let task = cluster.task("web.2");
    assert_eq!(cluster.task(&task.id.to_string()), task);
    let refusal = cluster
        .state
        .answer(None, &Query::Node("0000".to_owned()))
        .unwrap_err();
    assert!(refusal.cause.contains("2 nodes"), "{refusal}");
    for query in [
        Query::Node(String::new()),
        Query::Network("x".to_owned()),
        Query::Service("x".to_owned()),
        Query::Task("web.9".to_owned()),
        Query::Tasks(Some("x".to_owned())),
    ] {
        assert_eq!(
            cluster.state.answer(None, &query).unwrap_err().kind,
            Kind::NotFound,
            "{query:?}"
        );
    }
}

#[test]
fn a_running_task_is_settled_once_every_host_has_applied_it() {
    let mut cluster = Cluster::with_network(2);
    cluster.create_service(service("web", 2, &["net"]));
    cluster.settle();
    let running: Vec<TaskInfo> = cluster.tasks("web");
    running
        .iter()
        .for_each(|task| cluster.word(task, TaskState::Running));
    let info = cluster.service("web");
    assert_eq!((info.status.running, info.status.settled), (2, 0));
    cluster.agent(1);
    assert_eq!(
        cluster.service("web").status.settled,
        0,
        "h2 has not applied it"
    );
    cluster.agent(2);
    assert_eq!(cluster.service("web").status.settled, 2);
}

#[test]
fn a_host_that_is_down_is_not_waited_for() {
    let mut cluster = with_web();
    cluster.set_status(2, NodeStatus::Down);
    cluster.converge();
    let info = cluster.service("web");
    assert_eq!((info.status.running, info.status.settled), (2, 2));
}

#[test]
fn a_network_lists_its_endpoints_and_the_leader_is_marked() {
    let cluster = with_web();
    let Answer::Networks(networks) = cluster
        .state
        .answer(None, &Query::Network("net".to_owned()))
        .unwrap()
    else {
        panic!("no networks")
    };
    let names: Vec<(&str, &str)> = networks[0]
        .status
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.name.as_str(), endpoint.node.as_str()))
        .collect();
    assert_eq!(names, [("web.1", "h1"), ("web.2", "h2")]);
    let Answer::Nodes(nodes) = cluster
        .state
        .answer(Some(NodeId(2)), &Query::Nodes)
        .unwrap()
    else {
        panic!("no nodes")
    };
    assert_eq!(
        nodes.iter().map(|node| node.leader).collect::<Vec<_>>(),
        [false, true]
    );
}

#[test]
fn questions_that_only_a_node_can_answer_are_refused() {
    let cluster = Cluster::of(1);
    for query in [Query::Token(Role::Worker), Query::Node("self".to_owned())] {
        assert!(cluster.state.answer(None, &query).is_err());
    }
}
