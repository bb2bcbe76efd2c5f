//! What the kernel should hold for a `NodeConfig`: the routed overlay, pure. Nothing here knows what is there already.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use model::{
    EndpointConfig, EndpointId, Mac, NetworkConfig, NetworkId, NodeConfig, NodeId, PeerConfig, Subnet, SubnetLease,
    TaskId,
    names::{self, LinkName, Namespace},
};

use super::{
    Failure,
    state::{
        AddressForm, AddressKey, FdbKey, Kind, Link, NeighbourKey, Place, Route, RouteKey, Space, Sysctl, Vxlan,
        host_prefix,
    },
};

/// The network's side of every link that it shares with a sandbox or the host.
const NETWORK_MAC: Mac = Mac([0x0e, 0x6e, 0x65, 0x74, 0x64, 0x01]);
/// The host's side of every uplink.
const HOST_MAC: Mac = Mac([0x0e, 0x6e, 0x65, 0x74, 0x64, 0x02]);
/// The next hop towards the way out: the network's end for a sandbox, the host's end for a network.
const OUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The network's end of its uplink.
const INNER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// What IPv6 gives a route without a metric (`IP6_RT_PRIO_USER`).
const IPV6_METRIC: u32 = 1024;
/// Assumed where the VTEP is on no link of the host.
const ETHERNET_MTU: u32 = 1500;
const OUTER_TTL: u8 = 64;

/// Every network namespace: nothing is configured by the kernel's own initiative, so that all that is there is ours.
const QUIET: [(&str, &str); 7] = [
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
];

/// A network's namespace routes. `accept_local`: the gateway address is that of every host, so another host's ICMP
/// errors carry a source address that is local here.
const ROUTER: [(&str, &str); 8] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/accept_local", "1"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

/// The host routes between uplinks and the outside.
const HOST: [(&str, &str); 2] = [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// The host's end of an uplink. Loose `rp_filter` (2) wins over a strict one (1) of the host's `conf/all`.
const UPLINK: [(&str, &str, &str); 7] = [
    ("net/ipv4/conf", "forwarding", "1"),
    ("net/ipv4/conf", "rp_filter", "2"),
    ("net/ipv6/conf", "disable_ipv6", "0"),
    ("net/ipv6/conf", "forwarding", "1"),
    ("net/ipv6/conf", "accept_ra", "0"),
    ("net/ipv6/conf", "accept_dad", "0"),
    ("net/ipv6/conf", "addr_gen_mode", "1"),
];

/// The network's end of an endpoint. Without `proxy_delay` a proxied answer waits for up to 0.8 s.
const ENDPOINT: [(&str, &str, &str); 4] = [
    ("net/ipv4/conf", "proxy_arp", "1"),
    ("net/ipv4/conf", "rp_filter", "0"),
    ("net/ipv4/conf", "forwarding", "1"),
    ("net/ipv4/neigh", "proxy_delay", "0"),
];

/// All that the kernel should hold of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By namespace. The host is only there while it has something of ours.
    pub spaces: BTreeMap<Place, Space<Link>>,
    /// The networks of each task whose endpoints are all known, with the endpoints' links.
    pub tasks: BTreeMap<TaskId, BTreeSet<(NetworkId, EndpointId)>>,
    /// What the configuration leaves open.
    pub failures: Vec<Failure>,
}

impl Desired {
    /// What `config` asks for on a host whose link to the other hosts has this MTU (`None`: there is no such link).
    pub fn of(config: &NodeConfig, underlay_mtu: Option<u32>) -> Self {
        let mut desired = Self::default();
        let locals = desired.sandboxes(config);
        let present: BTreeSet<NetworkId> = locals.iter().map(|local| local.endpoint.network).collect();
        if present.is_empty() {
            return desired;
        }
        let Some(own) = config.peers.get(&config.node) else {
            desired.fail("tunnel", format!("the view names no VTEP of this host, node {}", config.node));
            desired.tasks.retain(|_, joints| joints.is_empty());
            return desired;
        };
        if underlay_mtu.is_none() {
            let next = "`ip address` lists this host's addresses; join again with the right --data-path-addr";
            desired.fail("tunnel", format!("this host's VTEP {} is on none of its links; next: {next}", own.vtep));
        }
        for id in present {
            let Some(network) = config.networks.get(&id) else { continue };
            let mtu = mtu(network, own, underlay_mtu);
            desired.network(Member { id, network, node: config.node, own, mtu }, config);
        }
        // In the order of each task's interfaces: the first with a way out is the one that is taken.
        for local in &locals {
            let Some(network) = config.networks.get(&local.endpoint.network) else { continue };
            desired.endpoint(local, network, mtu(network, own, underlay_mtu));
        }
        desired
    }

    fn sandboxes<'a>(&mut self, config: &'a NodeConfig) -> Vec<Local<'a>> {
        let mut locals = Vec::new();
        for (&task, asked) in &config.tasks {
            let space = self.space(Place::Inside(Namespace::Sandbox(task)));
            set_all(space, &QUIET);
            space.links.insert(names::loopback_link(), Link { kind: Kind::Loopback, mac: None, mtu: None });
            let known = asked.endpoints.iter().enumerate().filter_map(|(index, &id)| {
                let endpoint = config.endpoints.get(&id).filter(|e| config.networks.contains_key(&e.network))?;
                Some(Local { id, task, index, endpoint })
            });
            let known: Vec<Local<'a>> = known.collect();
            if known.len() == asked.endpoints.len() {
                let joints = known.iter().map(|local| (local.endpoint.network, local.id)).collect();
                self.tasks.insert(task, joints);
            } else {
                self.fail(&format!("task {}", asked.name()), "the view lacks one of its endpoints".to_owned());
            }
            locals.extend(known);
        }
        locals
    }

    fn network(&mut self, member: Member<'_>, config: &NodeConfig) {
        let space = self.space(member.place());
        set_all(space, &QUIET);
        set_all(space, &ROUTER);
        space.links.insert(names::loopback_link(), Link { kind: Kind::Loopback, mac: None, mtu: None });
        for lease in &member.network.subnets {
            space.address(&names::loopback_link(), lease.gateway, AddressForm::host(lease.gateway));
            space.routes.insert(RouteKey::to(lease.subnet), Route::Unreachable);
        }
        self.tunnel(&member);
        self.remotes(&member, config);
        if !member.network.internal {
            self.uplink(&member);
        }
    }

    fn tunnel(&mut self, member: &Member<'_>) {
        let space = self.space(member.place());
        let link = names::vxlan_link(member.network.vni);
        let mac = Mac::of_router(member.node);
        let kind = Kind::Vxlan(Vxlan {
            vni: member.network.vni,
            local: Some(member.own.vtep),
            port: names::VXLAN_PORT,
            learning: false,
            ttl: OUTER_TTL,
            zero_checksum6: member.own.vtep.is_ipv6(),
            socket_elsewhere: true,
        });
        space.address(&link, mac.link_local().into(), AddressForm::LINK_LOCAL);
        space.links.insert(link, Link { kind, mac: Some(mac), mtu: Some(member.mtu) });
    }

    fn remotes(&mut self, member: &Member<'_>, config: &NodeConfig) {
        let link = names::vxlan_link(member.network.vni);
        let remote = config.endpoints.values().filter(|e| e.network == member.id && e.node != config.node);
        for endpoint in remote {
            let Some(peer) = config.peers.get(&endpoint.node) else {
                self.fail(&format!("node {}", endpoint.node), "the view does not name its VTEP".to_owned());
                continue;
            };
            let mac = Mac::of_router(endpoint.node);
            let via = IpAddr::V6(mac.link_local());
            let space = self.space(member.place());
            space.fdb.insert(FdbKey { link: link.clone(), mac }, peer.vtep);
            space.neighbour(&link, via, mac);
            for &address in &endpoint.addresses {
                let source = lease_of(member.network, address).map(|lease| lease.gateway);
                space.route(host_subnet(address), Route::Unicast { link: link.clone(), via: Some(via), source });
            }
        }
    }

    fn uplink(&mut self, member: &Member<'_>) {
        let (place, inner, outer) =
            (member.place(), names::network_uplink_link(), names::uplink_link(member.network.vni));
        let host = self.space(Place::Host);
        set_all(host, &HOST);
        set_link(host, &outer, &UPLINK);
        let peer = Kind::Veth { peer_place: place, peer: inner.clone() };
        host.links.insert(outer.clone(), Link { kind: peer, mac: Some(HOST_MAC), mtu: Some(member.mtu) });
        host.address(&outer, OUTER.into(), AddressForm::LINK_LOCAL);
        host.neighbour(&outer, INNER.into(), NETWORK_MAC);
        for lease in &member.network.subnets {
            let inwards = Route::Unicast { link: outer.clone(), via: Some(INNER.into()), source: None };
            host.route(Some(lease.subnet), inwards);
        }

        let space = self.space(place);
        let peer = Kind::Veth { peer_place: Place::Host, peer: outer };
        space.links.insert(inner.clone(), Link { kind: peer, mac: Some(NETWORK_MAC), mtu: Some(member.mtu) });
        space.address(&inner, INNER.into(), AddressForm::LINK_LOCAL);
        space.neighbour(&inner, OUTER.into(), HOST_MAC);
        // The first gateway of a family is the source of what the namespace itself sends out: the uplink has no other.
        for lease in member.network.subnets.iter().rev() {
            let source = Some(lease.gateway);
            let outwards = Route::Unicast { link: inner.clone(), via: Some(OUTER.into()), source };
            space.route(default_of(lease.gateway), outwards);
        }
    }

    fn endpoint(&mut self, local: &Local<'_>, network: &NetworkConfig, mtu: u32) {
        let (near, far) = (Place::Inside(Namespace::Network(local.endpoint.network)), local.sandbox());
        let (outer, inner) = (names::endpoint_link(local.id), names::sandbox_link(local.index));
        let space = self.space(near);
        let peer = Kind::Veth { peer_place: far, peer: inner.clone() };
        space.links.insert(outer.clone(), Link { kind: peer, mac: Some(NETWORK_MAC), mtu: Some(mtu) });
        set_link(space, &outer, &ENDPOINT);
        space.address(&outer, OUTER.into(), AddressForm::LINK_LOCAL);
        for &address in &local.endpoint.addresses {
            let source = lease_of(network, address).map(|lease| lease.gateway);
            space.route(host_subnet(address), Route::Unicast { link: outer.clone(), via: None, source });
            space.neighbour(&outer, address, local.endpoint.mac);
        }
        let space = self.space(far);
        let peer = Kind::Veth { peer_place: near, peer: outer };
        space.links.insert(inner.clone(), Link { kind: peer, mac: Some(local.endpoint.mac), mtu: Some(mtu) });
        space.address(&inner, local.endpoint.mac.link_local().into(), AddressForm::LINK_LOCAL);
        space.neighbour(&inner, OUTER.into(), NETWORK_MAC);
        for &address in &local.endpoint.addresses {
            let Some(lease) = lease_of(network, address) else { continue };
            inside(space, &Inside { link: &inner, address, lease }, network);
        }
    }

    fn space(&mut self, place: Place) -> &mut Space<Link> {
        self.spaces.entry(place).or_default()
    }

    fn fail(&mut self, object: &str, reason: String) {
        let failure = Failure { object: object.to_owned(), reason };
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }
}

/// One address of an endpoint as its sandbox sees it.
struct Inside<'a> {
    link: &'a LinkName,
    address: IpAddr,
    lease: &'a SubnetLease,
}

fn inside(space: &mut Space<Link>, at: &Inside<'_>, network: &NetworkConfig) {
    let form = AddressForm { prefix: at.lease.subnet.prefix(), prefix_route: false };
    space.address(at.link, at.address, form);
    let via = match at.lease.gateway {
        IpAddr::V4(gateway) => {
            space.neighbour(at.link, gateway.into(), NETWORK_MAC);
            let on_link = Route::Unicast { link: at.link.clone(), via: None, source: Some(at.address) };
            space.route(host_subnet(gateway.into()), on_link);
            IpAddr::V4(gateway)
        }
        IpAddr::V6(_) => OUTER.into(),
    };
    let gateway = Route::Unicast { link: at.link.clone(), via: Some(via), source: Some(at.address) };
    let family = |lease: &&SubnetLease| lease.subnet.is_ipv6() == at.address.is_ipv6();
    for lease in network.subnets.iter().filter(family) {
        space.route(Some(lease.subnet), gateway.clone());
    }
    if let Some(everything) = default_of(at.address).filter(|_| !network.internal) {
        space.routes.entry(RouteKey::to(everything)).or_insert(gateway);
    }
}

/// A network as this host takes part in it.
struct Member<'a> {
    id: NetworkId,
    network: &'a NetworkConfig,
    node: NodeId,
    own: &'a PeerConfig,
    mtu: u32,
}

impl Member<'_> {
    fn place(&self) -> Place {
        Place::Inside(Namespace::Network(self.id))
    }
}

/// An endpoint of a task of this host.
struct Local<'a> {
    id: EndpointId,
    task: TaskId,
    index: usize,
    endpoint: &'a EndpointConfig,
}

impl Local<'_> {
    fn sandbox(&self) -> Place {
        Place::Inside(Namespace::Sandbox(self.task))
    }
}

impl Space<Link> {
    fn address(&mut self, link: &LinkName, address: IpAddr, form: AddressForm) {
        self.addresses.insert(AddressKey { link: link.clone(), address }, form);
    }

    fn neighbour(&mut self, link: &LinkName, address: IpAddr, mac: Mac) {
        self.neighbours.insert(NeighbourKey { link: link.clone(), address }, mac);
    }

    fn route(&mut self, destination: Option<Subnet>, route: Route) {
        if let Some(destination) = destination {
            self.routes.insert(RouteKey::to(destination), route);
        }
    }
}

impl AddressForm {
    const LINK_LOCAL: Self = Self { prefix: 64, prefix_route: true };

    fn host(address: IpAddr) -> Self {
        Self { prefix: host_prefix(address), prefix_route: true }
    }
}

impl RouteKey {
    fn to(destination: Subnet) -> Self {
        Self { destination, metric: if destination.is_ipv6() { IPV6_METRIC } else { 0 }, nth: 0 }
    }
}

/// VXLAN's overhead (RFC 7348 section 5): outer IP, UDP 8, VXLAN 8, inner Ethernet 14.
fn mtu(network: &NetworkConfig, own: &PeerConfig, underlay: Option<u32>) -> u32 {
    let overhead = if own.vtep.is_ipv4() { 50 } else { 70 };
    network.mtu.unwrap_or_else(|| underlay.unwrap_or(ETHERNET_MTU).saturating_sub(overhead))
}

fn lease_of(network: &NetworkConfig, address: IpAddr) -> Option<&SubnetLease> {
    network.subnets.iter().find(|lease| lease.subnet.contains(address))
}

fn host_subnet(address: IpAddr) -> Option<Subnet> {
    Subnet::around(address, host_prefix(address))
}

fn default_of(address: IpAddr) -> Option<Subnet> {
    let zero = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Subnet::around(zero, 0)
}

fn set_all(space: &mut Space<Link>, values: &[(&str, &str)]) {
    space.sysctls.extend(values.iter().map(|(path, value)| (Sysctl::of_namespace(path), (*value).to_owned())));
}

fn set_link(space: &mut Space<Link>, link: &LinkName, values: &[(&str, &str, &str)]) {
    let values = values.iter().map(|(table, name, value)| (Sysctl::of_link(table, link, name), (*value).to_owned()));
    space.sysctls.extend(values);
}
