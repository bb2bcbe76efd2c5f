//! Which hosts are let in with which addresses and keys, and what a removed manager knows no more.

use model::*;

use crate::fixture::{Cluster, node};

fn admit(node: Node) -> Command {
    Command::Node(NodeCommand::Admit { node })
}

fn keyed(number: u64, role: Role) -> Node {
    Node {
        key: Some(KeyDigest([number as u8; 32])),
        ..node(number, role)
    }
}

fn secrets(cluster: &Cluster) -> [Secret; 2] {
    let authority = cluster.state.authority().unwrap();
    [Role::Worker, Role::Manager].map(|role| authority.secret(role).clone())
}

#[test]
fn keys_of_nodes_are_noted_once() {
    let mut cluster = Cluster::of(2);
    cluster.apply(admit(keyed(3, Role::Worker)));
    let key = |cluster: &Cluster, id| cluster.state.nodes()[&NodeId(id)].key;
    assert_eq!(key(&cluster, 3), Some(KeyDigest([3; 32])));
    let shown = |byte| {
        Command::Node(NodeCommand::SetKey {
            node: NodeId(2),
            key: KeyDigest([byte; 32]),
        })
    };
    cluster.apply(shown(2));
    cluster.refuse(shown(9));
    assert_eq!(key(&cluster, 2), Some(KeyDigest([2; 32])));
    // Asked again, a node keeps its key.
    cluster.apply(admit(node(3, Role::Worker)));
    assert_eq!(key(&cluster, 3), Some(KeyDigest([3; 32])));
}

#[test]
fn keys_of_nodes_mean_nothing_before_their_level() {
    let mut cluster = Cluster::at(Level::REACH, 1);
    cluster.apply(admit(keyed(2, Role::Worker)));
    assert_eq!(cluster.state.nodes()[&NodeId(2)].key, None);
}

#[test]
fn hosts_do_not_join_with_the_addresses_of_others() {
    let mut cluster = Cluster::of(2);
    let others = node(2, Role::Worker);
    let own = node(9, Role::Worker);
    let (loopback, link_local) = ("127.0.0.1".parse().unwrap(), "169.254.7.7".parse().unwrap());
    let taken = [
        Node {
            address: others.address,
            ..own.clone()
        },
        Node {
            vtep: others.vtep,
            ..own.clone()
        },
    ];
    for node in taken {
        let refused = cluster.refuse(admit(node));
        assert_eq!(refused.kind, Kind::Conflict);
        assert!(refused.cause.contains("\"h2\""), "{}", refused.cause);
    }
    let everybodys = [
        Node {
            vtep: loopback,
            ..own.clone()
        },
        Node {
            vtep: link_local,
            ..own.clone()
        },
        Node {
            address: (loopback, 2377).into(),
            ..own.clone()
        },
        Node {
            address: "[::ffff:127.0.0.1]:2377".parse().unwrap(),
            ..own.clone()
        },
        Node {
            address: "[fe80::7]:2377".parse().unwrap(),
            ..own.clone()
        },
    ];
    for node in everybodys {
        assert_eq!(cluster.refuse(admit(node)).kind, Kind::Invalid);
    }
    // Another netd of the same host.
    let port = (others.address.ip(), 2378).into();
    cluster.apply(admit(Node {
        address: port,
        ..own
    }));
}

#[test]
fn a_host_installed_anew_takes_its_addresses_back() {
    let mut cluster = Cluster::of(2);
    let Node { address, vtep, .. } = node(2, Role::Worker);
    let anew = Node {
        address,
        vtep,
        ..node(9, Role::Worker)
    };
    cluster.refuse(admit(anew.clone()));
    cluster.set_status(2, NodeStatus::Down);
    cluster.apply(admit(anew));
}

#[test]
fn a_removed_manager_knows_no_join_token() {
    let mut cluster = Cluster::of(3);
    cluster.apply(admit(node(4, Role::Worker)));
    let known = secrets(&cluster);
    cluster.apply(Command::Node(NodeCommand::Remove { node: NodeId(4) }));
    assert_eq!(secrets(&cluster), known, "a worker never knew the secrets");
    cluster.apply(admit(node(5, Role::Manager)));
    cluster.apply(Command::Node(NodeCommand::Remove { node: NodeId(5) }));
    let [worker, manager] = secrets(&cluster);
    assert!(!known.contains(&worker) && !known.contains(&manager) && worker != manager);
    let mut before = Cluster::at(Level::REACH, 2);
    before.apply(admit(node(3, Role::Manager)));
    let known = secrets(&before);
    before.apply(Command::Node(NodeCommand::Remove { node: NodeId(3) }));
    assert_eq!(secrets(&before), known, "nothing changes before the level");
}

#[test]
fn a_manager_is_not_removed_with_its_secrets_in_force() {
    let mut cluster = Cluster::of(2);
    cluster.apply(admit(node(3, Role::Manager)));
    let known = secrets(&cluster);
    // The leader took the command when the cluster was at the level before.
    let applied = cluster.state.apply(
        cluster.index + 1,
        Entry {
            request: RequestId(99),
            now: cluster.now,
            chance: None,
            command: Command::Node(NodeCommand::Remove { node: NodeId(3) }),
        },
    );
    assert_eq!(applied.response.unwrap_err().next, "give the command again");
    assert!(cluster.state.nodes().contains_key(&NodeId(3)));
    assert_eq!(secrets(&cluster), known);
}

#[test]
fn a_removed_manager_knows_no_key_of_encrypted_networks() {
    let mut cluster = Cluster::encrypting(3);
    cluster.apply(admit(node(4, Role::Manager)));
    cluster.agent(4);
    cluster.converge();
    let epochs = |cluster: &Cluster| {
        let view = cluster.state.view(NodeId(1));
        let mut epochs: Vec<u64> = Vec::new();
        for keys in view.keys.values() {
            epochs.extend(keys.send.iter().chain(&keys.accept).map(|one| one.epoch.0));
        }
        epochs.sort_unstable();
        epochs.dedup();
        epochs
    };
    let known = epochs(&cluster);
    assert_eq!(known.len(), 1);
    cluster.apply(Command::Node(NodeCommand::Remove { node: NodeId(4) }));
    cluster.converge();
    cluster.now += 10_000;
    cluster.converge();
    let now = epochs(&cluster);
    assert_eq!(now.len(), 1);
    assert!(now[0] > known[0], "{now:?}");
}
