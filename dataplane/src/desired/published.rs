//! Routing of published ports: on the called host a table by mark that leads into the network; on a
//! task's host one table per host that may have been called, which also lead the answers back to
//! hosts themselves and to those whom a network is exposed to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use model::{
    Mac, NetworkId, NodeConfig, NodeId, PublishMode,
    names::{self, LinkName},
};
use nftables::Ip;
use rules::published::{MARK_MASK, mark};

use super::{
    super::{
        policy::{HOST_TABLES, PEER_TABLES, Policy},
        state::{AddressForm, FdbKey, Place, Route, RouteKey, Space},
    },
    Desired, Setting, default_of, host_subnet,
    overlay::{INNER, Member},
    set_link,
};
use crate::state::Link;

/// Answers come out of the network with a source that is the host's own, and go on to its loopback.
const ANSWERED: [Setting; 2] = [
    ("net/ipv4/conf", "accept_local", 1),
    ("net/ipv4/conf", "route_localnet", 1),
];
/// Address of the uplink: on a link without an IPv4 address loose `rp_filter` drops every packet.
const UPLINK: Ipv4Addr = Ipv4Addr::new(169, 254, 110, 1);
/// Behind the rule for local addresses, before that of the main table. Rules of the answering hosts
/// come second.
const UNMARKED: u32 = 1_000;
const MARKED: u32 = 1_001;

/// Whether other hosts lead callers into this network.
pub fn is_ingress(config: &NodeConfig, network: NetworkId) -> bool {
    config
        .published
        .values()
        .any(|port| port.network == network && port.spec.mode == PublishMode::Ingress)
}

/// Whether callers may come to this network by any host, and call all there is.
fn is_open(config: &NodeConfig, network: NetworkId) -> bool {
    let record = config.networks.get(&network);
    record.is_some_and(|record| record.reach.is_open() && !record.internal)
}

/// Whether a task here may answer whom another host led into this network.
pub fn answers(config: &NodeConfig, network: NetworkId) -> bool {
    let is_here = |node: NodeId, of: NetworkId| node == config.node && of == network;
    (is_ingress(config, network) || is_open(config, network))
        && config
            .endpoints
            .values()
            .any(|endpoint| is_here(endpoint.node, endpoint.network))
}

/// Connection marks of the hosts that callers may have called, which are also the numbers of their
/// tables. Hosts whose ids collide in these bits get different marks.
pub fn marks_of_peers(config: &NodeConfig) -> BTreeMap<NodeId, u32> {
    let (mut marks, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for &peer in config.peers.keys().filter(|peer| **peer != config.node) {
        let folded = (peer.0 ^ peer.0 >> 32) as u32;
        let mut mark = folded | PEER_TABLES;
        while !taken.insert(mark) {
            mark = mark.wrapping_add(1) | PEER_TABLES;
        }
        marks.insert(peer, mark);
    }
    marks
}

impl Desired {
    pub(super) fn published(&mut self, member: &Member<'_>, config: &NodeConfig) {
        if config
            .published
            .values()
            .any(|port| port.network == member.id)
            && !member.network.internal
        {
            self.lead_in(member);
        }
        if answers(config, member.id) {
            self.lead_back(member, config);
        }
    }

    /// Everything that is marked goes into the network, whatever its address.
    fn lead_in(&mut self, member: &Member<'_>) {
        let (vni, mark) = (member.network.vni, mark(member.network.vni));
        let mut diverted = self.diverted.iter();
        if let Some((first, _)) = diverted.find(|(_, other)| **other == mark) {
            self.undiverted.insert(member.id, *first);
            return;
        }
        self.diverted.insert(member.id, mark);
        let link = names::uplink_link(vni);
        let table = HOST_TABLES | u32::from(vni);
        let host = self.space(Place::Host);
        set_link(host, &link, &ANSWERED);
        host.address(
            &link,
            UPLINK.into(),
            AddressForm {
                prefix: 32,
                prefix_route: true,
            },
        );
        let inwards = |link: &LinkName| Route::Unicast {
            link: link.clone(),
            via: Some(INNER.into()),
            source: None,
            mtu: None,
        };
        for version in Ip::BOTH {
            host.table(table, any(version), inwards(&link));
            let policy = Policy {
                version,
                preference: 0,
                mark,
                mask: MARK_MASK,
                table: Some(table),
            };
            host.policies.rules.insert(policy);
        }
        host.table(table, Ipv6Addr::LOCALHOST.into(), Route::Local { link });
    }

    /// Answers that bear the mark of another host leave by it.
    fn lead_back(&mut self, member: &Member<'_>, config: &NodeConfig) {
        let link = names::vxlan_link(member.network.vni);
        let space = self.space(member.place());
        for version in Ip::BOTH {
            let unmarked = Policy {
                version,
                preference: UNMARKED,
                mark: 0,
                mask: PEER_TABLES,
                table: None,
            };
            space.policies.rules.insert(unmarked);
        }
        for (node, mark) in marks_of_peers(config) {
            let Some(peer) = config.peers.get(&node) else {
                continue;
            };
            let router = Mac::of_router(node);
            let via = IpAddr::V6(router.link_local());
            space.fdb.insert(
                FdbKey {
                    link: link.clone(),
                    mac: router,
                },
                peer.vtep,
            );
            space.neighbour(&link, via, router);
            let back = Route::Unicast {
                link: link.clone(),
                via: Some(via),
                source: None,
                mtu: member.narrower(peer),
            };
            for version in Ip::BOTH {
                space.table(mark, any(version), back.clone());
                let policy = Policy {
                    version,
                    preference: MARKED,
                    mark,
                    mask: u32::MAX,
                    table: Some(mark),
                };
                space.policies.rules.insert(policy);
            }
        }
    }
}

impl Space<Link> {
    /// A route of another table than the main one: to everything, or to one address.
    fn table(&mut self, table: u32, destination: IpAddr, route: Route) {
        let subnet = if destination.is_unspecified() {
            default_of(destination)
        } else {
            host_subnet(destination)
        };
        if let Some(subnet) = subnet {
            self.routes.insert(
                RouteKey {
                    table,
                    ..RouteKey::to(subnet)
                },
                route,
            );
        }
    }
}

fn any(version: Ip) -> IpAddr {
    match version {
        Ip::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Ip::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}
