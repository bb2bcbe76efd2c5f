//! What may be attached to which network.

use super::*;

#[test]
fn only_attachable_networks_take_containers() {
    let mut cluster = cluster();
    cluster.create_network(network("closed", &[]));
    cluster.create_network(attachable("other", &[]));
    refused(
        &mut cluster,
        spec(1, "c1", "closed"),
        Kind::Precondition,
        "swarmctl network create --attachable",
    );
    refused(
        &mut cluster,
        spec(1, "c1", "nowhere"),
        Kind::NotFound,
        "nowhere",
    );
    refused(&mut cluster, spec(9, "c1", "net"), Kind::NotFound, "node");
    cluster.attach(spec(1, "c1", "net"));
    refused(
        &mut cluster,
        spec(1, "c1", "other"),
        Kind::Conflict,
        "is on network \"net\"",
    );
    let lan = NetworkSpec {
        driver: Driver::Macvlan,
        options: [("parent".to_owned(), "eth0".to_owned())].into(),
        ..attachable("lan", &["10.1.0.0/24"])
    };
    cluster.create_network(lan);
    cluster.say_capable(2, &[]);
    refused(
        &mut cluster,
        spec(2, "c2", "lan"),
        Kind::Precondition,
        "macvlan",
    );
    cluster.attach(spec(1, "c2", "lan"));
}

#[test]
fn senseless_attachments_are_refused() {
    let mut cluster = cluster();
    let of = |path: &str, interface: &str| {
        let sandbox = Sandbox {
            path: path.to_owned(),
            identity: None,
            interface: Some(interface.to_owned()),
        };
        ContainerSpec {
            sandbox: Some(sandbox),
            ..spec(1, "c1", "net")
        }
    };
    let with = |traits| ContainerSpec {
        traits: Some(traits),
        ..spec(1, "c1", "net")
    };
    let ingress = PublishSpec {
        mode: PublishMode::Ingress,
        ..publish(80)
    };
    for wrong in [
        of("run/netns/a", "eth0"),
        of("/run/netns/a", "eth0/1"),
        ContainerSpec {
            left: true,
            ..of("/run/netns/a", "eth0")
        },
        ContainerSpec {
            mac: Some(Mac([1, 0, 0, 0, 0, 1])),
            ..spec(1, "c1", "net")
        },
        ContainerSpec {
            mac: Some(Mac([0xff; 6])),
            ..spec(1, "c1", "net")
        },
        ContainerSpec {
            mac: Some(Mac([0; 6])),
            ..spec(1, "c1", "net")
        },
        spec(1, "", "net"),
        with(ContainerTraits {
            publish: vec![ingress],
            ..named("c")
        }),
        with(ContainerTraits {
            publish: vec![publish(0)],
            ..named("c")
        }),
        with(named(&"n".repeat(513))),
    ] {
        assert_eq!(cluster.refuse(attach(wrong)).kind, Kind::Invalid);
    }
}

#[test]
fn a_network_stays_while_containers_hold_addresses_there() {
    let mut cluster = cluster();
    cluster.attach(ContainerSpec {
        traits: Some(named("db")),
        ..spec(2, "c1", "net")
    });
    let remove = || {
        Command::Network(NetworkCommand::Remove {
            network: "net".to_owned(),
        })
    };
    let refusal = cluster.refuse(remove());
    assert!(
        refusal.cause.contains("cni container \"db\" on h2"),
        "{refusal}"
    );
    cluster.apply(detach(2, &["c1"]));
    cluster.apply(remove());
}

#[test]
fn a_network_without_a_name_gets_one_and_only_one() {
    let mut cluster = cluster();
    let labels = [("netd.unnamed".to_owned(), "true".to_owned())].into();
    let id = cluster.create_network(NetworkSpec {
        labels,
        ..attachable("docker-1", &["10.0.8.0/30"])
    });
    cluster.attach(placed(1, "c1", named("db")));
    cluster.attach(ContainerSpec {
        network: "docker-1".to_owned(),
        ..placed(1, "c2", named("web"))
    });
    let name = |network: &str, name: &str| {
        Command::Network(NetworkCommand::Name {
            network: network.to_owned(),
            name: name.to_owned(),
        })
    };
    assert_eq!(cluster.refuse(name("docker-1", "Net")).kind, Kind::Conflict);
    assert_eq!(cluster.refuse(name("docker-1", "a b")).kind, Kind::Invalid);
    cluster.apply(name("docker-1", "front"));
    assert_eq!(cluster.network("front"), id);
    assert_eq!(cluster.state.view(NodeId(1)).networks[&id].name, "front");
    cluster.apply(name(&id.to_string(), "front"));
    assert_eq!(
        cluster.refuse(name("front", "back")).kind,
        Kind::Precondition
    );
    assert_eq!(
        cluster.refuse(name("net", "other")).kind,
        Kind::Precondition
    );
    let full = cluster.refuse(attach(spec(1, "c3", "front")));
    assert!(full.cause.contains("\"front\""), "{full}");
}
