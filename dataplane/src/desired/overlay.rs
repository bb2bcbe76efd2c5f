//! The routed overlay: per network one namespace with a VXLAN device, a route per endpoint, and an
//! uplink.

use std::net::{IpAddr, Ipv6Addr};

use model::{
    DriverConfig, Kind as FailureKind, Mac, NetworkConfig, NetworkId, NodeConfig, NodeId,
    PeerConfig, SubnetLease,
    names::{self, LinkName, Namespace},
};

use super::{
    super::{
        Failure,
        state::{
            AddressForm, FdbKey, Kind, Link, Place, Route, RouteKey, Space, Vxlan, host_prefix,
        },
    },
    Desired, ETHERNET_MTU, FOREIGN, Ground, Local, QUIET, Setting, Underlay, default_of,
    host_subnet, lease_of, set_all, set_link, way_out,
};

/// Minimum MTU of IPv6 links (RFC 8200 section 5): next hops are IPv6, whatever the network's
/// family. If the path between hosts carries less, outer packets are fragmented.
const LEAST_MTU: u32 = 1280;
/// The host's side of every uplink.
const HOST_MAC: Mac = Mac([0x0e, 0x6e, 0x65, 0x74, 0x64, 0x02]);
/// The next hop towards the way out: the network's end for a sandbox, the host's end for a network.
pub const OUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The network's end of its uplink.
pub(super) const INNER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const OUTER_TTL: u8 = 64;

/// Sysctls of a network's namespace, which is a router. `accept_local`: every host has the gateway
/// address, so another host's ICMP errors have a source address that is local here.
const ROUTER: [Setting; 8] = [
    ("net/ipv4", "ip_forward", 1),
    ("net/ipv4/conf/all", "rp_filter", 0),
    ("net/ipv4/conf/default", "rp_filter", 0),
    ("net/ipv4/conf/all", "accept_local", 1),
    ("net/ipv4/conf/all", "send_redirects", 0),
    ("net/ipv4/conf/default", "send_redirects", 0),
    ("net/ipv6/conf/all", "forwarding", 1),
    ("net/ipv6/conf/default", "forwarding", 1),
];

/// The host routes between uplinks and the outside.
const HOST: [Setting; 2] = [
    ("net/ipv4", "ip_forward", 1),
    ("net/ipv6/conf/all", "forwarding", 1),
];

/// The host's end of an uplink. Loose `rp_filter` (2) wins over a strict one (1) of the host's
/// `conf/all`.
const UPLINK: [Setting; 9] = [
    ("net/ipv4/conf", "forwarding", 1),
    ("net/ipv4/conf", "rp_filter", 2),
    ("net/ipv4/conf", "accept_local", 0),
    ("net/ipv4/conf", "route_localnet", 0),
    ("net/ipv6/conf", "disable_ipv6", 0),
    ("net/ipv6/conf", "forwarding", 1),
    ("net/ipv6/conf", "accept_ra", 0),
    ("net/ipv6/conf", "accept_dad", 0),
    ("net/ipv6/conf", "addr_gen_mode", 1),
];

/// Sysctls of the network's end of an endpoint. With the default `proxy_delay` a proxied answer
/// waits up to 0.8 s.
const ENDPOINT: [Setting; 4] = [
    ("net/ipv4/conf", "proxy_arp", 1),
    ("net/ipv4/conf", "rp_filter", 0),
    ("net/ipv4/conf", "forwarding", 1),
    ("net/ipv4/neigh", "proxy_delay", 0),
];

/// A network as this host takes part in it.
pub(super) struct Member<'a> {
    pub(super) id: NetworkId,
    pub(super) network: &'a NetworkConfig,
    pub(super) node: NodeId,
    pub(super) own: &'a PeerConfig,
    pub(super) underlay: &'a Underlay,
    pub(super) mtu: u32,
}

impl Member<'_> {
    pub(super) fn place(&self) -> Place {
        Place::Inside(Namespace::Network(self.id))
    }

    /// The addresses that this host's own calls into the network bear; none where hosts may not
    /// call, or where the VTEP is on no link. The kernel refuses routes with a source that the host
    /// has not.
    fn calling(&self) -> Vec<IpAddr> {
        match self.network.reach.hosts && self.underlay.link.is_some() {
            true => self.own.calling(self.node),
            false => Vec::new(),
        }
    }

    /// What gets through to another host, where that is less than through the tunnel.
    pub(super) fn narrower(&self, peer: &PeerConfig) -> Option<u32> {
        let path = self
            .underlay
            .paths
            .get(&peer.vtep)
            .map(|&path| carried(self.network, path, self.own));
        path.map(|path| path.max(LEAST_MTU))
            .filter(|&path| path < self.mtu)
    }
}

impl Desired {
    pub(super) fn overlay(&mut self, member: Member<'_>, config: &NodeConfig) {
        let space = self.space(member.place());
        set_all(space, &QUIET);
        set_all(space, &ROUTER);
        space.links.insert(
            names::loopback_link(),
            Link {
                kind: Kind::Loopback,
                mac: None,
                mtu: None,
            },
        );
        for lease in &member.network.subnets {
            space.address(
                &names::loopback_link(),
                lease.gateway,
                AddressForm::host(lease.gateway),
            );
            space
                .routes
                .insert(RouteKey::to(lease.subnet), Route::Unreachable);
        }
        self.tunnel(&member);
        self.remotes(&member, config);
        if !member.network.internal {
            self.uplink(&member);
        }
        self.published(&member, config);
    }

    fn tunnel(&mut self, member: &Member<'_>) {
        let DriverConfig::Overlay { port, .. } = member.network.driver else {
            return;
        };
        let space = self.space(member.place());
        let link = names::vxlan_link(member.network.vni);
        let mac = Mac::of_router(member.node);
        let kind = Kind::Vxlan(Vxlan {
            vni: member.network.vni,
            local: Some(member.own.vtep),
            port,
            learning: false,
            ttl: OUTER_TTL,
            zero_checksum6: member.own.vtep.is_ipv6(),
            socket_elsewhere: true,
        });
        space.address(&link, mac.link_local().into(), AddressForm::LINK_LOCAL);
        space.links.insert(
            link,
            Link {
                kind,
                mac: Some(mac),
                mtu: Some(member.mtu),
            },
        );
    }

    fn remotes(&mut self, member: &Member<'_>, config: &NodeConfig) {
        let link = names::vxlan_link(member.network.vni);
        let remote = config
            .endpoints
            .values()
            .filter(|e| e.network == member.id && e.node != config.node);
        for endpoint in remote {
            let Some(peer) = config.peers.get(&endpoint.node) else {
                let cause = "the view does not name its VTEP";
                let why =
                    model::Failure::new(FailureKind::Precondition, cause, "update the managers");
                let why = why.about(format!("node {}", endpoint.node));
                self.note(Failure::of_network(member.id, why));
                continue;
            };
            let mac = Mac::of_router(endpoint.node);
            let via = IpAddr::V6(mac.link_local());
            let mtu = member.narrower(peer);
            let space = self.space(member.place());
            space.fdb.insert(
                FdbKey {
                    link: link.clone(),
                    mac,
                },
                peer.vtep,
            );
            space.neighbour(&link, via, mac);
            for &address in &endpoint.addresses {
                let source = lease_of(member.network, address).map(|lease| lease.gateway);
                space.route(
                    host_subnet(address),
                    Route::Unicast {
                        link: link.clone(),
                        via: Some(via),
                        source,
                        mtu,
                    },
                );
            }
        }
    }

    fn uplink(&mut self, member: &Member<'_>) {
        let (place, inner, outer) = (
            member.place(),
            names::network_uplink_link(),
            names::uplink_link(member.network.vni),
        );
        let host = self.space(Place::Host);
        set_all(host, &HOST);
        set_link(host, &outer, &UPLINK);
        let peer = Kind::Veth {
            peer_place: place,
            peer: inner.clone(),
        };
        host.links.insert(
            outer.clone(),
            Link {
                kind: peer,
                mac: Some(HOST_MAC),
                mtu: Some(member.mtu),
            },
        );
        host.address(&outer, OUTER.into(), AddressForm::LINK_LOCAL);
        host.neighbour(&outer, INNER.into(), Mac::NETWORK);
        let calling = member.calling();
        for &address in calling.iter().filter(|own| **own != member.own.vtep) {
            let form = AddressForm {
                prefix: host_prefix(address),
                prefix_route: false,
            };
            host.address(&outer, address, form);
        }
        for lease in &member.network.subnets {
            let of_family = |own: &&IpAddr| own.is_ipv4() == lease.subnet.network().is_ipv4();
            let inwards = Route::Unicast {
                link: outer.clone(),
                via: Some(INNER.into()),
                source: calling.iter().find(of_family).copied(),
                mtu: None,
            };
            host.route(Some(lease.subnet), inwards);
        }

        let space = self.space(place);
        let peer = Kind::Veth {
            peer_place: Place::Host,
            peer: outer,
        };
        space.links.insert(
            inner.clone(),
            Link {
                kind: peer,
                mac: Some(Mac::NETWORK),
                mtu: Some(member.mtu),
            },
        );
        space.address(&inner, INNER.into(), AddressForm::LINK_LOCAL);
        space.neighbour(&inner, OUTER.into(), HOST_MAC);
        // The first gateway of a family is the source address of the namespace's own packets: the
        // uplink has no other.
        for lease in member.network.subnets.iter().rev() {
            let source = Some(lease.gateway);
            let outwards = Route::Unicast {
                link: inner.clone(),
                via: Some(OUTER.into()),
                source,
                mtu: None,
            };
            space.route(default_of(lease.gateway), outwards);
        }
    }

    /// The network's end of an endpoint; returns its name.
    fn outer_end(
        &mut self,
        local: &Local<'_>,
        network: &NetworkConfig,
        other: Kind,
        mtu: u32,
    ) -> LinkName {
        let outer = names::endpoint_link(local.id);
        let space = self.space(Place::Inside(Namespace::Network(local.endpoint.network)));
        space.links.insert(
            outer.clone(),
            Link {
                kind: other,
                mac: Some(Mac::NETWORK),
                mtu: Some(mtu),
            },
        );
        space.shape(
            &outer,
            local.bandwidth.ingress_rate,
            local.bandwidth.ingress_burst,
        );
        set_link(space, &outer, &ENDPOINT);
        space.address(&outer, OUTER.into(), AddressForm::LINK_LOCAL);
        for &address in &local.endpoint.addresses {
            let source = lease_of(network, address).map(|lease| lease.gateway);
            space.route(
                host_subnet(address),
                Route::Unicast {
                    link: outer.clone(),
                    via: None,
                    source,
                    mtu: None,
                },
            );
            space.neighbour(&outer, address, local.endpoint.mac);
        }
        outer
    }

    /// The network's end of a device that Docker moves into a container. The container resolves the
    /// gateway's address; for IPv6 neighbour discovery only a holder of the address on this link
    /// may answer.
    pub(super) fn handed_endpoint(
        &mut self,
        local: &Local<'_>,
        network: &NetworkConfig,
        mtu: u32,
        ground: &Ground,
    ) {
        let kind = Kind::Handed {
            peer: names::handed_link(local.id),
            mac: local.endpoint.mac,
        };
        let outer = self.outer_end(local, network, kind, mtu);
        self.handed.insert(local.id);
        if ground.alive.contains(&local.sandbox) {
            // Its questions for names are redirected there.
            self.space(local.place());
        }
        let space = self.space(Place::Inside(Namespace::Network(local.endpoint.network)));
        for lease in local
            .endpoint
            .addresses
            .iter()
            .filter_map(|&address| lease_of(network, address))
        {
            if lease.gateway.is_ipv6() {
                space.address(
                    &outer,
                    lease.gateway,
                    AddressForm {
                        prefix: 128,
                        prefix_route: false,
                    },
                );
            }
        }
    }

    pub(super) fn overlay_endpoint(
        &mut self,
        local: &Local<'_>,
        inner: &LinkName,
        network: &NetworkConfig,
        mtu: u32,
    ) {
        let (near, far) = (
            Place::Inside(Namespace::Network(local.endpoint.network)),
            local.place(),
        );
        let kind = Kind::Veth {
            peer_place: far,
            peer: inner.clone(),
        };
        let outer = self.outer_end(local, network, kind, mtu);
        let space = self.space(far);
        if far.is_foreign() {
            set_link(space, inner, &FOREIGN);
        }
        let peer = Kind::Veth {
            peer_place: near,
            peer: outer,
        };
        space.links.insert(
            inner.clone(),
            Link {
                kind: peer,
                mac: Some(local.endpoint.mac),
                mtu: Some(mtu),
            },
        );
        space.address(
            inner,
            local.endpoint.mac.link_local().into(),
            AddressForm::LINK_LOCAL,
        );
        space.shape(
            inner,
            local.bandwidth.egress_rate,
            local.bandwidth.egress_burst,
        );
        space.neighbour(inner, OUTER.into(), Mac::NETWORK);
        for &address in &local.endpoint.addresses {
            let Some(lease) = lease_of(network, address) else {
                continue;
            };
            inside(
                space,
                &Inside {
                    link: inner,
                    address,
                    lease,
                    place: far,
                },
                network,
            );
        }
    }
}

/// One address of an endpoint as its sandbox sees it.
struct Inside<'a> {
    link: &'a LinkName,
    address: IpAddr,
    lease: &'a SubnetLease,
    place: Place,
}

fn inside(space: &mut Space<Link>, at: &Inside<'_>, network: &NetworkConfig) {
    let form = AddressForm {
        prefix: at.lease.subnet.prefix(),
        prefix_route: false,
    };
    space.address(at.link, at.address, form);
    let via = match at.lease.gateway {
        IpAddr::V4(gateway) => {
            space.neighbour(at.link, gateway.into(), Mac::NETWORK);
            let on_link = Route::Unicast {
                link: at.link.clone(),
                via: None,
                source: Some(at.address),
                mtu: None,
            };
            space.route(host_subnet(gateway.into()), on_link);
            IpAddr::V4(gateway)
        }
        IpAddr::V6(_) => OUTER.into(),
    };
    let gateway = Route::Unicast {
        link: at.link.clone(),
        via: Some(via),
        source: Some(at.address),
        mtu: None,
    };
    let family = |lease: &&SubnetLease| lease.subnet.is_ipv6() == at.address.is_ipv6();
    for lease in network.subnets.iter().filter(family) {
        space.route(Some(lease.subnet), gateway.clone());
    }
    if let Some(everything) = default_of(at.address).filter(|_| !network.internal) {
        space
            .routes
            .entry(way_out(at.place, everything))
            .or_insert(gateway);
    }
}

/// MTU of a network: the user's, or the uplink's minus the overhead.
pub(super) fn mtu(network: &NetworkConfig, own: &PeerConfig, underlay: Option<u32>) -> u32 {
    network
        .mtu
        .unwrap_or_else(|| carried(network, underlay.unwrap_or(ETHERNET_MTU), own))
        .max(LEAST_MTU)
}

fn carried(network: &NetworkConfig, underlay: u32, own: &PeerConfig) -> u32 {
    let outside = match network.driver {
        DriverConfig::Overlay {
            encrypted: true, ..
        } => Outside::Encrypted,
        _ => Outside::Plain,
    };
    inner_mtu(underlay, own.vtep, outside)
}

/// How tunnel packets travel between hosts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outside {
    Plain,
    Encrypted,
}

/// VXLAN adds the outer IP header, UDP 8, its own 8, and the inner Ethernet header 14 (RFC 7348
/// section 5). ESP with AES-GCM adds 8 and an IV of 8 in front, and behind a trailer of 2, filled
/// up so that what is encrypted is a multiple of 4, and the check value of 16 (RFC 4303 section
/// 2.4, RFC 4106).
fn inner_mtu(underlay: u32, vtep: IpAddr, outside: Outside) -> u32 {
    let inside = underlay.saturating_sub(if vtep.is_ipv4() { 20 } else { 40 });
    let inside = if outside == Outside::Encrypted {
        (inside.saturating_sub(8 + 8 + 16) / 4 * 4).saturating_sub(2)
    } else {
        inside
    };
    inside.saturating_sub(8 + 8 + 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overhead_is_exact_for_both_families_and_encryption() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(
            [v4, v6].map(|vtep| inner_mtu(1500, vtep, Outside::Plain)),
            [1450, 1430]
        );
        assert_eq!(
            [v4, v6].map(|vtep| inner_mtu(1500, vtep, Outside::Encrypted)),
            [1416, 1396]
        );
        assert_eq!(
            [1501, 1503, 1504].map(|underlay| inner_mtu(underlay, v4, Outside::Encrypted)),
            [1416, 1416, 1420]
        );
    }
}
