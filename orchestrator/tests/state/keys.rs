//! Keys of encrypted networks: who has which, how they change, and that nobody sends what its peer
//! does not accept.

use std::collections::{BTreeMap, BTreeSet};

use model::*;
use proptest::prelude::*;

use crate::fixture::{Cluster, content, network, node, service};

const MINUTE: Millis = 60_000;

fn keys(cluster: &Cluster, of: u64, with: u64) -> PeerKeys {
    cluster
        .state
        .view(NodeId(of))
        .keys
        .get(&NodeId(with))
        .cloned()
        .unwrap_or_default()
}

fn epochs(associations: &[Association]) -> Vec<u64> {
    associations
        .iter()
        .map(|association| association.epoch.0)
        .collect()
}

fn lost(cluster: &mut Cluster, node: u64, lost: &[(u64, Spi)]) {
    let lost = lost
        .iter()
        .map(|&(peer, spi)| (NodeId(peer), spi))
        .collect();
    let capabilities = [Capability::Esp].into();
    let applied = cluster.state.nodes()[&NodeId(node)].applied;
    cluster.apply(Command::Node(NodeCommand::Report(NodeReport {
        lost,
        capabilities,
        ..NodeReport::new(NodeId(node), applied)
    })));
}

/// What a node's kernel has: its view as it is now.
fn take(cluster: &mut Cluster, node: u64) {
    cluster.agent(node);
}

#[test]
fn two_hosts_of_an_encrypted_network_alone_share_keys() {
    let mut cluster = Cluster::encrypting(3);
    cluster.scale("web", 2);
    cluster.converge();
    let members: Vec<u64> = cluster
        .tasks("web")
        .iter()
        .filter_map(|task| task.node_id.map(|id| id.0))
        .collect();
    let (a, b) = (members[0], members[1]);
    assert_eq!(keys(&cluster, a, b).send, keys(&cluster, b, a).accept);
    assert_eq!(keys(&cluster, b, a).send, keys(&cluster, a, b).accept);
    let other = (1..=3).find(|node| !members.contains(node)).unwrap();
    assert!(cluster.state.view(NodeId(other)).keys.is_empty());
    assert_eq!(cluster.state.view(NodeId(a)).keys.len(), 1);
}

#[test]
fn associations_never_share_a_key_and_views_hold_no_secret() {
    let mut cluster = Cluster::encrypting(4);
    cluster.apply(Command::Keys(KeysCommand::Rotate));
    let mut seen = BTreeSet::new();
    for view in (1..=4).map(|node| cluster.state.view(NodeId(node))) {
        let accepted = view.keys.values().flat_map(|keys| &keys.accept);
        assert!(
            accepted
                .into_iter()
                .all(|association| seen.insert(*association.key.secret()))
        );
        let text = serde_json::to_string(&view.snapshot()).unwrap();
        let secrets = cluster.log.iter().filter_map(|entry| entry.chance.as_ref());
        for secret in secrets.map(|key| serde_json::to_string(key).unwrap()) {
            assert!(!text.contains(secret.trim_matches('"')));
        }
    }
    assert_eq!(seen.len(), 4 * 3 * 2);
    assert!(
        !format!("{:?}", cluster.state).contains(&"7".repeat(8)),
        "keys show in no log"
    );
}

#[test]
fn keys_change_in_three_steps_acknowledged_by_every_host() {
    let mut cluster = Cluster::encrypting(2);
    cluster.apply(Command::Keys(KeysCommand::Rotate));
    let refusal = cluster.refuse(Command::Keys(KeysCommand::Rotate));
    assert!(refusal.cause.ends_with("waits for h1, h2"), "{refusal}");
    let of = |cluster: &Cluster| {
        (
            epochs(&keys(cluster, 1, 2).send),
            epochs(&keys(cluster, 1, 2).accept),
        )
    };
    assert_eq!(of(&cluster), (vec![1], vec![1, 2]));
    take(&mut cluster, 1);
    assert!(!cluster.settle(), "h2 does not accept the new key yet");
    take(&mut cluster, 2);
    assert!(cluster.settle());
    assert_eq!(
        of(&cluster),
        (vec![2, 1], vec![1, 2]),
        "what was sent before may still be on its way"
    );
    (1..=2).for_each(|node| take(&mut cluster, node));
    assert!(!cluster.settle());
    cluster.now += 3_000;
    assert!(cluster.settle());
    assert_eq!(of(&cluster), (vec![2], vec![2]));
    assert!(!cluster.settle());
}

#[test]
fn keys_change_by_themselves_twice_a_day() {
    let mut cluster = Cluster::encrypting(2);
    cluster.now += 12 * 60 * MINUTE - 1;
    assert!(!cluster.settle());
    cluster.now += 1;
    assert!(cluster.settle());
    (0..2).for_each(|_| cluster.converge());
    cluster.now += 3_000;
    cluster.converge();
    assert_eq!(epochs(&keys(&cluster, 1, 2).send), [2]);
}

#[test]
fn a_host_that_is_down_delays_new_keys_for_ten_minutes() {
    let mut cluster = Cluster::encrypting(3);
    cluster.apply(Command::Keys(KeysCommand::Rotate));
    [1, 2].into_iter().for_each(|node| take(&mut cluster, node));
    cluster.now += 60 * MINUTE;
    assert!(
        !cluster.settle(),
        "h3 is there and has not accepted the new key"
    );
    let mut cluster = Cluster::encrypting(3);
    cluster.set_status(3, NodeStatus::Down);
    cluster.apply(Command::Keys(KeysCommand::Rotate));
    [1, 2].into_iter().for_each(|node| take(&mut cluster, node));
    cluster.settle();
    assert_eq!(
        epochs(&keys(&cluster, 1, 2).send),
        [1],
        "h3 may only be cut off from managers"
    );
    cluster.now += 10 * MINUTE;
    cluster.settle();
    assert_eq!(epochs(&keys(&cluster, 1, 2).send), [2, 1]);
}

#[test]
fn a_lost_association_is_replaced_once_for_its_direction_only() {
    let mut cluster = Cluster::encrypting(3);
    let all = |cluster: &Cluster| {
        (1..=3)
            .map(|node| cluster.state.view(NodeId(node)).keys)
            .collect::<Vec<_>>()
    };
    let before = all(&cluster);
    let spi = keys(&cluster, 1, 2).send[0].spi;
    lost(&mut cluster, 1, &[(2, spi)]);
    let fresh = keys(&cluster, 1, 2).send;
    assert!(fresh.len() == 1 && fresh[0].spi != spi);
    assert_eq!(fresh, keys(&cluster, 2, 1).accept);
    for (pair, direction) in [
        ((1, 3), "send"),
        ((2, 1), "send"),
        ((3, 1), "send"),
        ((2, 3), "send"),
    ] {
        let now = keys(&cluster, pair.0, pair.1).send;
        assert_eq!(
            now,
            before[pair.0 as usize - 1][&NodeId(pair.1)].send,
            "{pair:?} {direction}"
        );
    }
    let after = content(&cluster.state);
    lost(&mut cluster, 2, &[(1, spi)]);
    lost(&mut cluster, 3, &[(1, Spi(7)), (9, spi)]);
    assert_eq!(
        content(&cluster.state),
        after,
        "the receiver's word comes late, the others' are about nothing"
    );
    // The receiver alone has lost it: it would take what it has had before.
    let spi = keys(&cluster, 2, 3).accept[0].spi;
    lost(&mut cluster, 2, &[(3, spi)]);
    assert_ne!(keys(&cluster, 3, 2).send[0].spi, spi);
}

#[test]
fn numbers_of_associations_are_never_given_out_twice() {
    let mut cluster = Cluster::encrypting(2);
    let first = keys(&cluster, 1, 2).send[0].clone();
    cluster.remove_service("web");
    cluster.converge();
    cluster.apply(Command::Network(NetworkCommand::Remove {
        network: "secret".to_owned(),
    }));
    let refusal = cluster.refuse(Command::Keys(KeysCommand::Rotate));
    assert!(
        refusal.cause.starts_with("no network is encrypted")
            && refusal.next.contains("--encrypted"),
        "{refusal}"
    );
    assert!(
        !content(&cluster.state)["keys"].to_string().contains("key"),
        "keys that protect nothing are forgotten"
    );
    cluster.create_network(NetworkSpec {
        encrypted: true,
        ..network("secret", &[])
    });
    cluster.create_service(service("web", 2, &["secret"]));
    cluster.converge();
    let again = keys(&cluster, 1, 2).send[0].clone();
    assert!(again.spi > first.spi && again.epoch > first.epoch && again.key != first.key);
}

#[test]
fn a_host_that_joins_anew_shares_no_key_with_its_former_self() {
    let mut cluster = Cluster::encrypting(2);
    let before = keys(&cluster, 1, 2);
    cluster.apply(Command::Node(NodeCommand::Remove { node: NodeId(2) }));
    assert!(
        !content(&cluster.state)["keys"]
            .to_string()
            .contains(&NodeId(2).to_string())
    );
    cluster.apply(Command::Node(NodeCommand::Admit {
        node: node(2, Role::Worker),
    }));
    cluster.say_capable(2, &[Capability::Esp]);
    cluster.set_status(2, NodeStatus::Ready);
    cluster.converge();
    let after = keys(&cluster, 1, 2);
    assert!(
        before.accept[0].spi != after.accept[0].spi && before.accept[0].key != after.accept[0].key
    );
}

#[test]
fn a_host_that_cannot_encrypt_gets_no_encrypted_task() {
    let mut cluster = Cluster::encrypting(1);
    cluster.apply(Command::Node(NodeCommand::Admit {
        node: node(2, Role::Worker),
    }));
    cluster.set_status(2, NodeStatus::Ready);
    cluster.say_capable(2, &[Capability::Ipvs]);
    cluster.scale("web", 3);
    cluster.converge();
    assert!(cluster.tasks("web").iter().all(|task| task.node == "h1"));
    cluster.set_availability(1, Availability::Drain);
    cluster.converge();
    let message = cluster.task("web.1").message;
    assert!(
        message.contains("\"secret\"")
            && message.contains("CONFIG_INET_ESP")
            && message.contains("on \"h2\"; next: run a kernel"),
        "{message}"
    );
    cluster.create_service(service("plain", 1, &[]));
    cluster.converge();
    assert_eq!(cluster.task("plain.1").node, "h2");
}

#[derive(Clone, Debug)]
enum Event {
    Rotate,
    Step,
    Agent(u64),
    Silent(u64),
    Heard(u64),
    Pass(Millis),
    Scale(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let node = || 1..=3u64;
    prop_oneof![
        1 => Just(Event::Rotate),
        4 => Just(Event::Step),
        6 => node().prop_map(Event::Agent),
        1 => node().prop_map(Event::Silent),
        1 => node().prop_map(Event::Heard),
        2 => (0..10_000u64).prop_map(Event::Pass),
        1 => (2..5u32).prop_map(Event::Scale),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn nobody_sends_with_keys_that_the_peer_does_not_accept(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut cluster = Cluster::encrypting(3);
        let views = (1..=3).map(|node| (node, cluster.state.view(NodeId(node))));
        let mut held: BTreeMap<u64, NodeConfig> = views.collect();
        let start = cluster.now;
        for event in events {
            match event {
                Event::Rotate => drop(cluster.send(Command::Keys(KeysCommand::Rotate))),
                Event::Step => {
                    let commands = cluster.step();
                    commands.into_iter().for_each(|command| drop(cluster.send(command)));
                }
                Event::Agent(node) => {
                    held.insert(node, cluster.state.view(NodeId(node)));
                    cluster.agent(node);
                }
                Event::Silent(node) => cluster.set_status(node, NodeStatus::Down),
                Event::Heard(node) => cluster.set_status(node, NodeStatus::Ready),
                // Nobody is down for so long that it is given up.
                Event::Pass(time) => {
                    cluster.now = (cluster.now + time).min(start + 10 * MINUTE - 1);
                }
                Event::Scale(replicas) => cluster.scale("web", replicas),
            }
            for (node, view) in &mut held {
                // Between hosts whose tasks are gone nothing is sent, whatever they have not heard
                // yet.
                let now = cluster.state.view(NodeId(*node)).keys;
                view.keys.retain(|peer, _| now.contains_key(peer));
            }
            for (a, one) in &held {
                for (b, other) in &held {
                    let sends = one.keys.get(&NodeId(*b)).and_then(|keys| keys.send.first());
                    let accepts = other.keys.get(&NodeId(*a)).map(|keys| &keys.accept);
                    let (Some(sends), Some(accepts)) = (sends, accepts) else { continue };
                    prop_assert!(accepts.contains(sends), "h{} sends {} to h{}", a, sends.epoch, b);
                }
            }
        }
    }
}
