//! Whether a host that joins may have its addresses.

use std::net::IpAddr;

use ipam::Owner;
use model::{Driver, Kind, Node, NodeStatus, Refusal};

use crate::state::State;

/// Refuses a node that could not reach the others: its address lies inside a network, or its
/// tunnels use another address family.
pub(super) fn refuse_misfit(state: &State, node: &Node) -> Result<(), Refusal> {
    let hostname = &node.hostname;
    for network in state.networks.values() {
        let holds = |address: &IpAddr| match network.spec.driver {
            Driver::Overlay => network
                .subnets
                .iter()
                .any(|lease| lease.subnet.contains(*address)),
            // On a LAN only an address that is leased conflicts.
            Driver::Macvlan | Driver::Ipvlan => {
                matches!(
                    state.ledger.holder(network.id, *address),
                    Some(Owner::Slot(..) | Owner::Vip(_) | Owner::Container(_))
                )
            }
        };
        if let Some(address) = [node.vtep, node.address.ip()]
            .iter()
            .find(|address| holds(address))
        {
            let name = &network.spec.name;
            let cause = format!(
                "host {hostname:?} has the address {address}, which belongs to network {name:?}"
            );
            let next = format!(
                "join with an address outside of it, or remove that network: `swarmctl network rm \
                 {name}`"
            );
            return Err(Refusal::new(Kind::Conflict, cause, next));
        }
    }
    let differs =
        |other: &&Node| other.id != node.id && other.vtep.is_ipv6() != node.vtep.is_ipv6();
    match state.nodes.values().find(differs) {
        None => Ok(()),
        Some(other) => {
            let cause = format!(
                "tunnels end at {} on host {hostname:?} and at {} on others",
                node.vtep, other.vtep
            );
            let next =
                "join with `--data-path-addr` and an address of the family that the others have";
            Err(Refusal::new(Kind::Conflict, cause, next))
        }
    }
}

/// Refuses addresses that are not the node's alone: those that another node has and, where there
/// are others, those that every host has. The ones of a node that is down may be taken: its host
/// may have been installed anew.
pub(super) fn refuse_others(state: &State, node: &Node) -> Result<(), Refusal> {
    let hostname = &node.hostname;
    let others = state.nodes.values().filter(|other| other.id != node.id);
    for other in others {
        let everybodys = [node.address.ip(), node.vtep];
        if let Some(address) = everybodys.into_iter().find(is_everybodys) {
            let cause = format!(
                "host {hostname:?} has the address {address}, at which other hosts reach themselves"
            );
            let next = "give one of the host's own addresses with `--advertise-addr` or \
                        `--data-path-addr`";
            return Err(Refusal::new(Kind::Invalid, cause, next));
        }
        let taken = if other.address == node.address {
            other.address.to_string()
        } else if other.vtep == node.vtep {
            other.vtep.to_string()
        } else {
            continue;
        };
        if other.status != NodeStatus::Down {
            let (name, id) = (&other.hostname, other.id);
            let cause = format!(
                "host {hostname:?} has the address {taken}, which is that of node {name:?} ({id})"
            );
            let next = format!(
                "join with an address of its own (`--advertise-addr`, `--data-path-addr`); where \
                 this is the same host, installed anew, wait until `swarmctl node ls` says that it \
                 is down, or remove it: `swarmctl node rm --force {id}`"
            );
            return Err(Refusal::new(Kind::Conflict, cause, next));
        }
    }
    Ok(())
}

/// Loopback (RFC 1122, RFC 4291) and link-local addresses (RFC 3927, RFC 4291).
fn is_everybodys(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}
