//! Containers of others: their addresses, where hosts hear of them, and what leads to them.

mod addresses;
mod attachment;
mod names;
mod ports;
mod view;

use std::net::IpAddr;

use model::*;
use orchestrator::State;

use crate::fixture::{Cluster, key, network, node, port, sandbox, service, spec};

/// h1 to h3 and the attachable network `net`.
fn cluster() -> Cluster {
    let mut cluster = Cluster::of(3);
    cluster.create_network(attachable("net", &["10.0.9.0/24", "fd00:9::/64"]));
    cluster
}

fn attachable(name: &str, subnets: &[&str]) -> NetworkSpec {
    NetworkSpec {
        attachable: true,
        ..network(name, subnets)
    }
}

fn exactly(address: &str) -> AddressWish {
    AddressWish {
        wanted: true,
        exact: Some(address.parse().unwrap()),
        within: None,
    }
}

fn named(name: &str) -> ContainerTraits {
    ContainerTraits {
        name: name.to_owned(),
        container: format!("{name}0123456789abcdef"),
        ..ContainerTraits::default()
    }
}

/// On h`node`, in a namespace of its own, with these traits.
fn placed(node: u64, id: &str, traits: ContainerTraits) -> ContainerSpec {
    ContainerSpec {
        sandbox: Some(sandbox(id, "eth0")),
        traits: Some(traits),
        ..spec(node, id, "net")
    }
}

fn member(service: &str, unready: bool, name: &str) -> ContainerTraits {
    ContainerTraits {
        service: Some(service.to_owned()),
        unready,
        ..named(name)
    }
}

fn attach(spec: ContainerSpec) -> Command {
    Command::Container(ContainerCommand::Attach {
        spec: Box::new(spec),
    })
}

fn detach(node: u64, ids: &[&str]) -> Command {
    Command::Container(ContainerCommand::Detach {
        keys: ids.iter().map(|id| key(node, id)).collect(),
    })
}

fn publish(published: u16) -> PublishSpec {
    port(published, PublishMode::Host)
}

/// What a name leads to as h`node` sees it; `None` where there is no such name.
fn lookup(cluster: &Cluster, node: u64, name: &str) -> Option<Vec<IpAddr>> {
    let view = cluster.state.view(NodeId(node));
    let record = view
        .names
        .into_iter()
        .find(|((_, known), _)| known == name)?
        .1;
    Some(sorted(&[&record.addresses]))
}

fn sorted(addresses: &[&[IpAddr]]) -> Vec<IpAddr> {
    let mut addresses = addresses.concat();
    addresses.sort();
    addresses
}

fn refused(cluster: &mut Cluster, spec: ContainerSpec, kind: Kind, words: &str) {
    let refusal = cluster.refuse(attach(spec));
    assert!(
        refusal.kind == kind && refusal.in_full().contains(words),
        "{refusal:?}"
    );
    assert!(!refusal.next.is_empty(), "{refusal}");
}
