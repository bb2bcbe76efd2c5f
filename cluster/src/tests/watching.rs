//! Watching: all changes once and in order, from whatever node, across leaders and restarts.

use std::{collections::BTreeSet, time::Duration};

use model::{Begin, Facts, Filter, Kind, Role, Watch, Watched};
use tokio::sync::mpsc;

use super::*;
use crate::{Told, watching};

async fn watch(member: &Node, begin: Begin) -> mpsc::Receiver<Told> {
    let watch = Watch {
        filter: Filter {
            services: BTreeSet::from(["n".to_owned()]),
            ..Filter::default()
        },
        begin,
        ..Watch::default()
    };
    member.watch(watch).await.unwrap()
}

async fn next(told: &mut mpsc::Receiver<Told>) -> Told {
    let told = tokio::time::timeout(PATIENCE, told.recv()).await;
    told.expect("nothing was told").expect("the watch ended")
}

/// The values of the number `n` that are told, until this one.
async fn values(told: &mut mpsc::Receiver<Told>, last: u32) -> Vec<u32> {
    let mut values = Vec::new();
    while values.last() != Some(&last) {
        let changes = match next(told).await.unwrap() {
            Watched::Present(changes) | Watched::Changes { changes, .. } => changes,
            _ => continue,
        };
        for change in changes {
            let Facts::Service { replicas, .. } = change.facts else {
                panic!("{change:?}")
            };
            values.push(replicas);
        }
    }
    values
}

async fn add_many(member: &Node, number: u32) {
    for _ in 0..number {
        is_done(member.propose(add("n", 1)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_is_there_then_each_change() {
    let mut lab = Lab::new(1).await;
    let worker = lab.join(Role::Worker).await;
    add_many(lab.at(0), 3).await;
    is_done(worker.propose(add("other", 1)).await);
    let mut told = watch(&worker, Begin::Snapshot).await;
    let Watched::Present(there) = next(&mut told).await.unwrap() else {
        panic!("nothing is there")
    };
    assert_eq!((there.len(), there[0].facts.name()), (1, "n"));
    let begins = next(&mut told).await.unwrap();
    assert!(matches!(begins, Watched::Begins { .. }), "{begins:?}");
    add_many(lab.at(0), 5).await;
    assert_eq!(values(&mut told, 8).await, [4, 5, 6, 7, 8]);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_service_that_is_just_gone_ends() {
    let lab = Lab::new(1).await;
    let leader = lab.at(0).consensus().unwrap().clone();
    let place = leader.watchers.clone().acquire_owned().await.unwrap();
    let gone = Some("a service that was there a moment ago".to_owned());
    let mut told = watching::begin(leader, Watch::default(), gone, place);
    let refusal = loop {
        if let Err(refusal) = next(&mut told).await {
            break refusal;
        }
    };
    assert_eq!(refusal.kind, Kind::NotFound);
    assert!(told.recv().await.is_none());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_the_next_leader() {
    let mut lab = Lab::new(3).await;
    let worker = lab.join(Role::Worker).await;
    let mut told = watch(&worker, Begin::Now).await;
    let adding = tokio::spawn({
        let worker = worker.clone();
        async move { add_many(&worker, 200).await }
    });
    assert_eq!(values(&mut told, 20).await, (1..=20).collect::<Vec<_>>());
    lab.stop(lab.leader().unwrap()).await;
    assert_eq!(values(&mut told, 200).await, (21..=200).collect::<Vec<_>>());
    adding.await.unwrap();
    lab.end().await;
}

/// Memory holds 64 changes in tests.
#[tokio::test(flavor = "multi_thread")]
async fn history_outlives_memory_restarts_and_the_log() {
    let mut lab = Lab::new(1).await;
    add_many(lab.at(0), 100).await;
    let mut told = watch(lab.at(0), Begin::After(0)).await;
    assert_eq!(values(&mut told, 100).await, (1..=100).collect::<Vec<_>>());

    let raft = &lab.at(0).consensus().unwrap().raft;
    raft.trigger().snapshot().await.unwrap();
    let is_stored = || raft.metrics().borrow().snapshot.is_some();
    eventually("a snapshot", is_stored).await;
    add_many(lab.at(0), 5).await;
    lab.restart(0).await;
    add_many(lab.at(0), 5).await;
    for begin in [Begin::After(0), Begin::At(0)] {
        let mut told = watch(lab.at(0), begin).await;
        assert_eq!(values(&mut told, 110).await, (1..=110).collect::<Vec<_>>());
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_told_what_history_has_forgotten() {
    let mut lab = Lab::new(1).await;
    add_many(lab.at(0), 100).await;
    let mut config = lab.stop(0).await;
    config.history = Limits {
        age: Duration::MAX,
        bytes: 2_000,
    };
    lab.start(0, config).await;
    add_many(lab.at(0), 1).await;

    let mut told = watch(lab.at(0), Begin::At(0)).await;
    let lost = loop {
        match next(&mut told).await.unwrap() {
            Watched::Lost { through, .. } => break through,
            Watched::Begins { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let kept = values(&mut told, 101).await;
    assert!(kept[0] > 1 && kept.len() < 100, "{kept:?}");

    let mut told = watch(lab.at(0), Begin::After(0)).await;
    let refused = loop {
        match next(&mut told).await {
            Ok(told) => assert!(matches!(told, Watched::Begins { .. }), "{told:?}"),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refused.kind, Kind::NotFound);
    assert!(refused.next.contains(&lost.to_string()), "{refused:?}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_at_the_moment_that_was_asked_for() {
    let lab = Lab::new(1).await;
    add_many(lab.at(0), 3).await;
    let watch = Watch {
        begin: Begin::At(0),
        until: Some(crate::raft::now() + 100),
        ..Watch::default()
    };
    let mut told = lab.at(0).watch(watch).await.unwrap();
    let mut changes = 0;
    loop {
        match next(&mut told).await.unwrap() {
            Watched::Changes { changes: some, .. } => changes += some.len(),
            Watched::Ends => break,
            _ => {}
        }
    }
    assert!(changes >= 3);
    assert_eq!(told.recv().await, None);
    lab.end().await;
}
