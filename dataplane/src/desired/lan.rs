//! Networks on a LAN: each endpoint is a macvlan or ipvlan device on the host's link, born in its
//! sandbox. There is no gateway of ours. The host and its own endpoints reach each other by the
//! shim, a device of the same kind; routes and permanent neighbours on both sides keep the shim
//! invisible to the LAN.

use std::net::IpAddr;

use model::{
    DriverConfig, IpvlanMode, Mac, MacvlanMode, NetworkConfig, NodeConfig, Parent,
    names::{self, LinkName},
};

use super::{
    super::state::{AddressForm, Kind, Layer, Link, Place, Route, Stacked},
    Desired, FOREIGN, Ground, HostLink, Local, Question, Setting, default_of, host_subnet,
    lease_of, set_link, way_out,
};

/// A VLAN of ours on the host: the host itself takes no part in it.
const VLAN: [Setting; 4] = [
    ("net/ipv4/conf", "arp_ignore", 8),
    ("net/ipv6/conf", "accept_ra", 0),
    ("net/ipv6/conf", "accept_dad", 0),
    ("net/ipv6/conf", "addr_gen_mode", 1),
];

/// The shim: answers no ARP (`arp_ignore`), accepts only packets whose answers would leave by it
/// (the LAN's broadcasts arrive here a second time), and forwards nothing.
const SHIM: [Setting; 8] = [
    ("net/ipv4/conf", "arp_ignore", 8),
    ("net/ipv4/conf", "rp_filter", 1),
    ("net/ipv4/conf", "forwarding", 0),
    ("net/ipv6/conf", "disable_ipv6", 0),
    ("net/ipv6/conf", "forwarding", 0),
    ("net/ipv6/conf", "accept_ra", 0),
    ("net/ipv6/conf", "accept_dad", 0),
    ("net/ipv6/conf", "addr_gen_mode", 1),
];

/// A network as this host takes part in it.
struct Member<'a> {
    network: &'a NetworkConfig,
    parent: &'a Parent,
    /// The host's link to the LAN.
    link: LinkName,
    layer: Layer,
    mtu: u32,
    /// The Ethernet address of that link.
    link_mac: Option<Mac>,
    /// The Ethernet address at which endpoints find their host, where they do.
    shim: Option<Mac>,
    /// The host's addresses that its endpoints reach it at.
    host: Vec<IpAddr>,
}

impl Member<'_> {
    fn stacked(&self) -> Kind {
        Kind::Stacked(Stacked {
            parent: self.link.clone(),
            layer: self.layer,
        })
    }

    /// An address of its own where the driver gives one.
    fn mac(&self, own: Mac) -> Option<Mac> {
        matches!(self.layer, Layer::Macvlan(mode) if mode != MacvlanMode::Passthru).then_some(own)
    }

    /// Layer 3 devices resolve no addresses.
    fn has_neighbours(&self) -> bool {
        self.layer != Layer::Ipvlan(IpvlanMode::L3)
    }
}

impl Desired {
    pub(super) fn lan_endpoint(
        &mut self,
        local: &Local<'_>,
        network: &NetworkConfig,
        config: &NodeConfig,
        ground: &Ground,
    ) {
        let member = match self.member(local, network, config, ground) {
            Ok(member) => member,
            Err(why) => return self.refuse(local.sandbox, why),
        };
        let own = |address: &&IpAddr| ground.addresses.iter().any(|(_, own)| own == *address);
        if let Some(address) = local.endpoint.addresses.iter().find(own) {
            let next = "move the host away from it, or make the network with an --ip-range that \
                        leaves it alone";
            let cause = format!("its address {address} is the host's own");
            return self.refuse(
                local.sandbox,
                model::Failure::new(model::Kind::Conflict, cause, next),
            );
        }
        if self
            .alone
            .get(member.parent)
            .is_some_and(|owner| *owner != local.id)
        {
            self.questions.insert(local.id, question(local, &member));
            let next = "give it fewer replicas, or use another macvlan_mode";
            let cause = format!(
                "another task of this host has {} to itself (macvlan_mode=passthru)",
                member.parent
            );
            return self.refuse(
                local.sandbox,
                model::Failure::new(model::Kind::Conflict, cause, next),
            );
        }
        let is_taken = ground.taken.contains(&local.id);
        if local.interface.is_none() && ground.alive.contains(&local.sandbox) {
            // Where it is seen whether the device has been taken there.
            self.space(local.place());
        }
        if !is_taken {
            self.port(local, &member);
        }
        if member.has_neighbours() && !is_taken {
            let open = !ground.free.contains(&local.id);
            let question = Question {
                open,
                ..question(local, &member)
            };
            self.questions.insert(local.id, question);
            if open {
                return;
            }
        }
        if let Some(link) = &local.interface {
            self.addresses(local, link, &member);
        }
        if member.shim.is_some() {
            self.shim(local, &member, config);
        }
    }

    /// Where a link is for one endpoint only, it is whose it was.
    pub(super) fn give_alone(
        &mut self,
        config: &NodeConfig,
        locals: &[Local<'_>],
        ground: &Ground,
    ) {
        for had_it in [true, false] {
            for local in locals
                .iter()
                .filter(|local| ground.free.contains(&local.id) == had_it)
            {
                let driver = config
                    .networks
                    .get(&local.endpoint.network)
                    .map(|network| &network.driver);
                if let Some(DriverConfig::Macvlan {
                    parent,
                    mode: MacvlanMode::Passthru,
                }) = driver
                {
                    self.alone.entry(parent.clone()).or_insert(local.id);
                }
            }
        }
    }

    fn member<'a>(
        &mut self,
        local: &Local<'_>,
        network: &'a NetworkConfig,
        config: &NodeConfig,
        ground: &Ground,
    ) -> Result<Member<'a>, model::Failure> {
        let (parent, layer) = match &network.driver {
            DriverConfig::Macvlan { parent, mode } => (parent, Layer::Macvlan(*mode)),
            DriverConfig::Ipvlan { parent, mode } => (parent, Layer::Ipvlan(*mode)),
            DriverConfig::Overlay { .. } => {
                let cause = "an overlay is on no link of the host";
                return Err(model::Failure::new(
                    model::Kind::Invalid,
                    cause,
                    "update the managers",
                ));
            }
        };
        let (link, found) = self
            .parent(parent, ground)
            .ok_or_else(|| no_link(parent, network))?;
        if names::is_host_link(link.as_str()) {
            self.users.entry(link.clone()).or_insert(local.sandbox);
        }
        let shim = match layer {
            Layer::Macvlan(MacvlanMode::Bridge) => Some(Mac::of_shim(config.node, network.vni)),
            Layer::Ipvlan(_) => found.mac,
            _ => None,
        };
        let host = own_addresses(network, config, ground);
        let mtu = network.mtu.unwrap_or(found.mtu);
        Ok(Member {
            network,
            parent,
            link,
            layer,
            mtu,
            link_mac: found.mac,
            shim,
            host,
        })
    }

    /// The host's link for a parent: the link of that name, or its VLAN, which is made if it is
    /// missing.
    fn parent(&mut self, parent: &Parent, ground: &Ground) -> Option<(LinkName, HostLink)> {
        let named = |name: &str| {
            LinkName::parse(name)
                .and_then(|name| Some((name.clone(), ground.links.get(&name)?.clone())))
        };
        if let Some(found) = named(&parent.to_string()) {
            return Some(found);
        }
        let (vlan, (below, base)) = (parent.vlan()?, named(parent.link())?);
        let layer = Layer::Vlan(vlan);
        let is_it = |name: &LinkName, link: &HostLink| {
            link.stacked
                .as_ref()
                .is_some_and(|found| found.parent == below && found.layer == layer)
                && !names::is_host_link(name.as_str())
        };
        if let Some((name, link)) = ground.links.iter().find(|(name, link)| is_it(name, link)) {
            return Some((name.clone(), link.clone()));
        }
        let name = names::vlan_link(parent.link(), vlan);
        let host = self.space(Place::Host);
        let kind = Kind::Stacked(Stacked {
            parent: below,
            layer,
        });
        host.links.insert(
            name.clone(),
            Link {
                kind,
                mac: None,
                mtu: Some(base.mtu),
            },
        );
        set_link(host, &name, &VLAN);
        Some((
            name,
            HostLink {
                stacked: None,
                ..base
            },
        ))
    }

    fn port(&mut self, local: &Local<'_>, member: &Member<'_>) {
        let (place, link) = local.port();
        if place == Place::Host {
            self.users.insert(link.clone(), local.sandbox);
        }
        let space = self.space(place);
        let mac = member.mac(local.endpoint.mac);
        space.links.insert(
            link.clone(),
            Link {
                kind: member.stacked(),
                mac,
                mtu: Some(member.mtu),
            },
        );
        if place == Place::Host {
            set_link(space, &link, &VLAN);
            return;
        }
        space.shape(
            &link,
            local.bandwidth.egress_rate,
            local.bandwidth.egress_burst,
        );
        if place.is_foreign() {
            set_link(space, &link, &FOREIGN);
        }
        space.address(
            &link,
            local.endpoint.mac.link_local().into(),
            AddressForm::LINK_LOCAL,
        );
    }

    /// What makes an endpoint's addresses usable.
    fn addresses(&mut self, local: &Local<'_>, link: &LinkName, member: &Member<'_>) {
        let place = local.place();
        let space = self.space(place);
        for &address in &local.endpoint.addresses {
            let Some(lease) = lease_of(member.network, address) else {
                continue;
            };
            space.address(
                link,
                address,
                AddressForm {
                    prefix: lease.subnet.prefix(),
                    prefix_route: true,
                },
            );
            let via = member.has_neighbours().then_some(lease.gateway);
            let outwards = Route::Unicast {
                link: link.clone(),
                via,
                source: Some(address),
                mtu: None,
            };
            if let Some(everything) = default_of(address).filter(|_| !member.network.internal) {
                space
                    .routes
                    .entry(way_out(place, everything))
                    .or_insert(outwards);
            }
            let Some(shim) = member.shim else { continue };
            for &host in member
                .host
                .iter()
                .filter(|host| host.is_ipv4() == address.is_ipv4())
            {
                if member.has_neighbours() {
                    space.neighbour(link, host, shim);
                }
                if !lease.subnet.contains(host) {
                    let there = Route::Unicast {
                        link: link.clone(),
                        via: None,
                        source: Some(address),
                        mtu: None,
                    };
                    space.route(host_subnet(host), there);
                }
            }
        }
    }

    /// The host's side of what its endpoints have of it.
    fn shim(&mut self, local: &Local<'_>, member: &Member<'_>, config: &NodeConfig) {
        let link = names::shim_link(member.network.vni);
        self.users.entry(link.clone()).or_insert(local.sandbox);
        let host = self.space(Place::Host);
        let mac = member.mac(Mac::of_shim(config.node, member.network.vni));
        host.links.insert(
            link.clone(),
            Link {
                kind: member.stacked(),
                mac,
                mtu: Some(member.mtu),
            },
        );
        set_link(host, &link, &SHIM);
        let mac = member
            .mac(local.endpoint.mac)
            .or(member.link_mac)
            .filter(|_| member.has_neighbours());
        for &address in &local.endpoint.addresses {
            let Some(&source) = member
                .host
                .iter()
                .find(|own| own.is_ipv4() == address.is_ipv4())
            else {
                continue;
            };
            host.route(
                host_subnet(address),
                Route::Unicast {
                    link: link.clone(),
                    via: None,
                    source: Some(source),
                    mtu: None,
                },
            );
            if let Some(mac) = mac {
                host.neighbour(&link, address, mac);
            }
        }
    }
}

/// The question is sent where the answer arrives: an ipvlan device receives only packets to its own
/// addresses, its parent all.
fn question(local: &Local<'_>, member: &Member<'_>) -> Question {
    let (place, link) = match member.layer {
        Layer::Ipvlan(_) => (Place::Host, member.link.clone()),
        _ => local.port(),
    };
    let (sandbox, port) = (local.sandbox, local.port());
    Question {
        sandbox,
        port,
        place,
        link,
        addresses: local.endpoint.addresses.clone(),
        open: true,
    }
}

/// Those in the network's subnets; in a family that has none there, the one that its tunnels end
/// at.
fn own_addresses(network: &NetworkConfig, config: &NodeConfig, ground: &Ground) -> Vec<IpAddr> {
    let inside = |address: &IpAddr| {
        network
            .subnets
            .iter()
            .any(|lease| lease.subnet.contains(*address))
    };
    let mut found: Vec<IpAddr> = ground
        .addresses
        .iter()
        .map(|(_, own)| *own)
        .filter(inside)
        .collect();
    let vtep = config.peers.get(&config.node).map(|own| own.vtep);
    found.extend(vtep.filter(|vtep| !found.iter().any(|own| own.is_ipv4() == vtep.is_ipv4())));
    found
}

fn no_link(parent: &Parent, network: &NetworkConfig) -> model::Failure {
    let name = &network.name;
    let next = "make it there, and the task starts by itself; `ip link` lists what there is";
    let link = parent.link();
    let cause = format!("this host has no link {link}, the parent of network {name:?}");
    model::Failure::new(model::Kind::Precondition, cause, next)
}
