//! Managers whose log is missing, another one or out of order: they do not vote, say so, and the
//! rest of their host goes on.

use std::{fs, path::Path};

use model::{Command, Failure, Level, NodeCommand, Role, StateMachine};

use super::*;
use crate::{Halt, comparison};

/// What a manager says of itself that does not vote.
fn ailment(member: &Node) -> Failure {
    let ailment = member.ailment().borrow().clone();
    ailment.expect("the manager says that it does not vote")
}

/// Stops the third of three managers, and starts it with what this leaves of its log.
async fn restarted(lab: &mut Lab, spoil: impl FnOnce(&Path)) -> Failure {
    eventually("the log is remembered", || {
        lab.path(2).join("identity/log.json").exists()
    })
    .await;
    let config = lab.stop(2).await;
    spoil(&lab.path(2).join("raft"));
    lab.start(2, config).await;
    let ailment = ailment(lab.at(2));
    // It has its view, follows its cluster as a node, and its commands are carried out.
    is_done(lab.at(2).propose(add("n", 10)).await);
    assert!(lab.at(2).consensus().is_none());
    eventually("the others have the entry", || total(lab.at(0), "n") == 11).await;
    ailment
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_without_its_log_does_not_vote() {
    let mut lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("n", 1)).await);
    let told = restarted(&mut lab, |log| fs::remove_dir_all(log).unwrap()).await;
    assert!(told.cause.contains("does not vote"), "{told:?}");
    assert!(told.next.contains("swarmctl node rm --force"), "{told:?}");
    // One more, and there is no majority: what was acknowledged is not lost.
    lab.stop(1).await;
    let alone = lab.at(0).consensus().unwrap();
    eventually("nobody leads", || !alone.standing.leads()).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_with_an_empty_log_does_not_vote() {
    let mut lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("n", 1)).await);
    let empty = |raft: &Path| {
        for directory in [raft.to_owned(), raft.join("log")] {
            for file in fs::read_dir(directory).into_iter().flatten().flatten() {
                if file.path().is_file() && file.file_name() != "name.json" {
                    fs::remove_file(file.path()).unwrap();
                }
            }
        }
    };
    restarted(&mut lab, empty).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_with_a_damaged_log_does_not_vote() {
    let mut lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("n", 1)).await);
    let spoil = |raft: &Path| {
        for name in ["snapshot", "log.redb"] {
            fs::write(raft.join(name), b"L6\nno snapshot").unwrap();
        }
    };
    restarted(&mut lab, spoil).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_comes_back_once_it_was_removed() {
    let mut lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("n", 1)).await);
    restarted(&mut lab, |log| fs::remove_dir_all(log).unwrap()).await;
    let node = lab.at(2).node();
    let request = RequestId(rand::random());
    let command = Command::Node(NodeCommand::Remove { node });
    is_done(lab.at(0).propose(Proposal { request, command }).await);
    lab.at(2).leave(true).await.unwrap();
    lab.join(Role::Manager).await;
    eventually("it has what was written", || total(lab.at(3), "n") == 11).await;
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_whose_raft_panics_does_not_go_on() {
    let lab = Lab::new(1).await;
    let raft = &lab.at(0).consensus().unwrap().raft;
    raft.external_request(|_| panic!("as if openraft had"));
    let halted = tokio::time::timeout(PATIENCE, lab.at(0).halted()).await;
    assert!(matches!(halted, Ok(crate::Halt::Panicked)), "{halted:?}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_whose_state_differs_does_not_vote_on() {
    let mut lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("n", 1)).await);
    let odd = lab.at(2).consensus().unwrap();
    eventually("it has the entry", || total(lab.at(2), "n") == 1).await;
    odd.machine.spoil(|toy| toy.set("n", 7));
    // The first entry of a leader is where states are compared.
    while lab.leader() != Some(1) {
        let raft = &lab.at(1).consensus().unwrap().raft;
        raft.trigger().elect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let common = |member: &Node| {
        let digests = member.consensus().unwrap().machine.digests();
        digests.last().map(|digest| digest.index)
    };
    eventually("all have digests of the same index", || {
        let last = common(lab.at(0));
        last.is_some() && (1..3).all(|position| common(lab.at(position)) == last)
    })
    .await;
    for position in [0, 1] {
        let consensus = lab.at(position).consensus().unwrap();
        comparison::look(lab.at(position), consensus).await;
    }
    comparison::look(lab.at(2), odd).await;
    assert!(matches!(lab.at(2).halted().await, Halt::Differs));
    lab.restart(2).await;
    let told = ailment(lab.at(2));
    assert!(
        told.cause.contains("its state was not that of managers"),
        "{told:?}"
    );
    for position in [0, 1] {
        let ailment = lab.at(position).ailment().borrow().clone();
        assert_eq!(ailment, None, "it is of the majority");
    }
    is_done(lab.at(2).propose(add("n", 1)).await);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_changed_is_not_believed() {
    let mut lab = Lab::new(3).await;
    is_done(lab.at(0).propose(add("number", 1)).await);
    let consensus = lab.at(2).consensus().unwrap().clone();
    let level = || consensus.machine.read(|toy| toy.level());
    eventually("the cluster has its level", || level() == Level::NEWEST).await;
    eventually("it has the entry", || total(lab.at(2), "number") == 1).await;
    let snapshot = lab.path(2).join("raft/snapshot");
    consensus.raft.trigger().snapshot().await.unwrap();
    eventually("there is a snapshot", || snapshot.exists()).await;
    drop(consensus);
    let changed = |raft: &Path| {
        let path = raft.join("snapshot");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"number\":1"));
        fs::write(&path, text.replace("\"number\":1", "\"number\":2")).unwrap();
    };
    is_done(lab.at(0).propose(add("n", 1)).await);
    let told = restarted(&mut lab, changed).await;
    assert!(
        told.cause.contains("its checksum is another one"),
        "{told:?}"
    );
    lab.end().await;
}
