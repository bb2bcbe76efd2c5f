//! Tests of the data plane without a kernel: configurations in, plans out.

mod containers;
mod lan;
mod partial;
mod plan;
mod published;
mod reach;
#[path = "../../tests/support/records.rs"]
mod records;
mod routes;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use model::{
    ContainerConfig, ContainerEndpoint, ContainerRuntime, DriverConfig, EndpointConfig, EndpointId,
    Mac, MacvlanMode, NetworkConfig, NetworkId, NodeConfig, NodeId, Records, SandboxId, ServiceId,
    SubnetLease, TaskConfig, TaskId, Vni,
    names::{self, LinkName, Namespace},
};

use super::{
    desired::{Desired, Ground, HostLink, Underlay},
    newer,
    plan::{Change, Observed, Op, plan, replan},
    state::{
        AddressForm, AddressKey, FdbKey, Kind, Layer, Link, MAIN_TABLE, NeighbourKey, ObservedKind,
        ObservedLink, Place, Route, RouteKey, Space, Stacked,
    },
    status::judge,
};

const NETWORK: Place = Place::Inside(Namespace::Network(NetworkId(7)));
const SANDBOX: Place = Place::Inside(Namespace::Sandbox(SandboxId(1)));

fn ground(link: Option<u32>) -> Ground {
    Ground {
        underlay: Underlay {
            link,
            ..Underlay::default()
        },
        ..Ground::default()
    }
}

fn space_of(observed: &mut Observed, place: Place) -> &mut Space<ObservedLink> {
    Arc::make_mut(observed.spaces.get_mut(&place).unwrap())
}

/// A kernel that has all that is desired.
fn kernel(desired: &Desired) -> Observed {
    let mut numbers = BTreeMap::new();
    for (&place, space) in &desired.spaces {
        numbers.extend(
            space
                .links
                .keys()
                .zip(1..)
                .map(|(name, index)| ((place, name.clone()), index)),
        );
    }
    let number = |place: Place, name: &LinkName| numbers[&(place, name.clone())];
    let observe = |place: Place, name: &LinkName, link: &Link| ObservedLink {
        index: number(place, name),
        kind: match &link.kind {
            Kind::Stacked(stacked) => ObservedKind::Stacked(stacked.clone()),
            Kind::Loopback => ObservedKind::Other,
            Kind::Vxlan(vxlan) => ObservedKind::Vxlan(vxlan.clone()),
            Kind::Veth { peer_place, peer } => ObservedKind::Veth(number(*peer_place, peer)),
            Kind::Handed { .. } => ObservedKind::Veth(99),
        },
        mac: link.mac,
        mtu: link.mtu.unwrap_or(65536),
        up: true,
        ours: false,
    };
    let spaces = desired.spaces.iter().map(|(&place, space)| {
        let links = space
            .links
            .iter()
            .map(|(name, link)| (name.clone(), observe(place, name, link)))
            .collect();
        let Space {
            addresses,
            neighbours,
            fdb,
            routes,
            policies,
            shapes,
            sysctls,
            ..
        } = Space::clone(space);
        (
            place,
            Arc::new(Space {
                links,
                addresses,
                neighbours,
                fdb,
                routes,
                policies,
                shapes,
                sysctls,
            }),
        )
    });
    Observed {
        spaces: spaces.collect(),
    }
}

/// Two hosts with one task each on a network of both families; this is the first.
fn config() -> NodeConfig {
    let peer = |vtep: &str| records::peer(vtep.to_owned(), ip(vtep));
    NodeConfig {
        generation: 1,
        peers: Records::from([
            (NodeId(1), peer("192.0.2.1")),
            (NodeId(2), peer("192.0.2.2")),
        ]),
        networks: Records::from([(NetworkId(7), network())]),
        endpoints: Records::from([
            (EndpointId(1), endpoint(1, "11")),
            (EndpointId(2), endpoint(2, "12")),
        ]),
        tasks: Records::from([(TaskId(1), task())]),
        ..NodeConfig::empty(NodeId(1))
    }
}

fn v4_only(mut config: NodeConfig) -> NodeConfig {
    config
        .networks
        .values_mut()
        .for_each(|network| network.subnets.truncate(1));
    config
        .endpoints
        .values_mut()
        .for_each(|endpoint| endpoint.addresses.truncate(1));
    config
}

fn internal(mut config: NodeConfig) -> NodeConfig {
    config
        .networks
        .values_mut()
        .for_each(|network| network.internal = true);
    config
}

fn network() -> NetworkConfig {
    let subnets = vec![
        lease("10.0.9.0/24", "10.0.9.1"),
        lease("fd00:9::/64", "fd00:9::1"),
    ];
    records::overlay("my-net", Vni::FIRST, subnets)
}

fn lease(subnet: &str, gateway: &str) -> SubnetLease {
    SubnetLease {
        subnet: subnet.parse().unwrap(),
        gateway: ip(gateway),
    }
}

fn endpoint(node: u64, last: &str) -> EndpointConfig {
    let addresses = vec![
        ip(&format!("10.0.9.{last}")),
        ip(&format!("fd00:9::{last}")),
    ];
    records::endpoint(NetworkId(7), NodeId(node), SandboxId(node), addresses)
}

fn task() -> TaskConfig {
    records::task(1, EndpointId(1))
}

fn vx() -> LinkName {
    names::vxlan_link(Vni::FIRST)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link_name(name: &str) -> LinkName {
    LinkName::parse(name).unwrap()
}
