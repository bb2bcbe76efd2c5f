//! Each node's view: streamed, kept on disk, resumed; its reports and its being alive.

use std::time::Duration;

use model::{NetworkId, NodeConfig, NodeId, NodeReport, NodeStatus, Role};

use super::*;

fn number(view: &NodeConfig, name: &str) -> Option<String> {
    view.names
        .get(&(NetworkId(1), name.to_owned()))
        .map(|record| record.addresses[0].to_string())
}

async fn sees(member: &Node, name: &str, value: &str) {
    let mut view = member.view();
    let seen = view.wait_for(|view| number(view, name).as_deref() == Some(value));
    assert!(
        tokio::time::timeout(PATIENCE, seen).await.is_ok(),
        "{name} never became {value}"
    );
}

fn record(lab: &Lab, node: NodeId) -> model::Node {
    lab.at(0).consensus().unwrap().node(node).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_resumes_from_its_disk_with_no_manager() {
    let mut lab = Lab::new(1).await;
    let worker = lab.join(Role::Worker).await;
    is_done(worker.propose(add("n", 5)).await);
    sees(&worker, "n", "0.0.0.5").await;

    let (manager, node) = (lab.stop(0).await, lab.stop(1).await);
    lab.start(1, node).await;
    let resumed = lab.at(1).view().borrow().clone();
    assert_eq!(number(&resumed, "n").as_deref(), Some("0.0.0.5"));

    lab.start(0, manager).await;
    is_done(lab.at(1).propose(add("n", 1)).await);
    sees(lab.at(1), "n", "0.0.0.6").await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_go_on_after_the_leader_dies() {
    let mut lab = Lab::new(3).await;
    let worker = lab.join(Role::Worker).await;
    is_done(worker.propose(add("n", 1)).await);
    let before = worker.view().borrow().generation;
    lab.stop(lab.leader().unwrap()).await;
    is_done(worker.propose(add("n", 1)).await);
    sees(&worker, "n", "0.0.0.2").await;
    assert!(worker.view().borrow().generation > before);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_reaches_the_log_even_if_the_leader_was_away() {
    let mut lab = Lab::new(1).await;
    let worker = lab.join(Role::Worker).await;
    let manager = lab.stop(0).await;
    let report = |applied| NodeReport::new(worker.node(), applied);
    worker.report(report(7));
    worker.report(report(8));
    lab.start(0, manager).await;
    eventually("the report is in the log", || {
        record(&lab, worker.node()).applied == 8
    })
    .await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_down_and_a_returning_one_is_ready() {
    let mut lab = Lab::new(1).await;
    let worker = lab.join(Role::Worker).await.node();
    let is = |lab: &Lab, status| record(lab, worker).status == status;
    eventually("both are ready", || is(&lab, NodeStatus::Ready)).await;
    eventually("the leader hears itself", || {
        record(&lab, lab.at(0).node()).status == NodeStatus::Ready
    })
    .await;
    let config = lab.stop(1).await;
    eventually("the worker is down", || is(&lab, NodeStatus::Down)).await;
    lab.start(1, config).await;
    eventually("the worker is ready", || is(&lab, NodeStatus::Ready)).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_a_node_within_a_second() {
    let mut lab = Lab::new(1).await;
    let worker = lab.join(Role::Worker).await;
    is_done(worker.propose(add("n", 1)).await);
    let seen = tokio::time::timeout(Duration::from_secs(1), sees(&worker, "n", "0.0.0.1")).await;
    assert!(seen.is_ok());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_manager_keeps_its_address_and_view() {
    let mut lab = Lab::new(1).await;
    is_done(lab.at(0).propose(add("n", 3)).await);
    sees(lab.at(0), "n", "0.0.0.3").await;
    let before = address(lab.at(0));
    lab.restart(0).await;
    assert_eq!(
        number(&lab.at(0).view().borrow(), "n").as_deref(),
        Some("0.0.0.3")
    );
    assert_eq!(address(lab.at(0)), before);
    is_done(lab.at(0).propose(add("n", 1)).await);
    sees(lab.at(0), "n", "0.0.0.4").await;
    lab.end().await;
}
