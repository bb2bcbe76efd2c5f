//! A network's endpoints, as its rules know them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{
    EndpointConfig, EndpointId, Mac, NetworkConfig, NetworkId, NodeConfig,
    names::{self, LinkName},
};
use rules::{
    guard::Sources,
    shortcut::{Device, Devices, Endpoint},
};

use super::super::state::{ObservedLink, Route, Space};

/// A network's endpoints, by where they are.
#[derive(Default)]
pub(super) struct Members<'a> {
    gateways: Vec<IpAddr>,
    here: BTreeMap<LinkName, (EndpointId, &'a EndpointConfig)>,
    elsewhere: Vec<(EndpointId, &'a EndpointConfig)>,
}

/// Those of these networks.
pub(super) fn members<'a>(
    config: &'a NodeConfig,
    of: &BTreeSet<NetworkId>,
) -> BTreeMap<NetworkId, Members<'a>> {
    let gateways =
        |network: &NetworkConfig| network.subnets.iter().map(|lease| lease.gateway).collect();
    let networks = config.networks.iter().filter(|(id, _)| of.contains(id));
    let mut members: BTreeMap<NetworkId, Members<'_>> = networks
        .map(|(&id, network)| {
            (
                id,
                Members {
                    gateways: gateways(network),
                    ..Members::default()
                },
            )
        })
        .collect();
    for (&id, endpoint) in &config.endpoints {
        let Some(members) = members.get_mut(&endpoint.network) else {
            continue;
        };
        if endpoint.node == config.node {
            members
                .here
                .insert(names::endpoint_link(id), (id, endpoint));
        } else {
            members.elsewhere.push((id, endpoint));
        }
    }
    members
}

impl<'a> Members<'a> {
    /// Those of these endpoints.
    pub(super) fn only(&self, ids: &BTreeSet<EndpointId>) -> Members<'a> {
        let here = self.here.iter().filter(|(_, (id, _))| ids.contains(id));
        let elsewhere = self.elsewhere.iter().filter(|(id, _)| ids.contains(id));
        Members {
            gateways: self.gateways.clone(),
            here: here.map(|(link, it)| (link.clone(), *it)).collect(),
            elsewhere: elsewhere.copied().collect(),
        }
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.elsewhere.is_empty()
    }

    /// An endpoint has its addresses, and one of its link for neighbour discovery. A host sends
    /// what comes from its endpoints, and errors in its own name: the gateways'.
    pub(super) fn sources(&self) -> Sources {
        let of_endpoint = |(link, (_, endpoint)): (&LinkName, &(EndpointId, &EndpointConfig))| {
            let addresses = endpoint
                .addresses
                .iter()
                .copied()
                .chain([endpoint.mac.link_local().into()]);
            addresses
                .map(|address| (link.clone(), endpoint.mac, address))
                .collect::<Vec<_>>()
        };
        let routers: BTreeSet<Mac> = self
            .elsewhere
            .iter()
            .map(|(_, endpoint)| Mac::of_router(endpoint.node))
            .collect();
        let own = |router: Mac| {
            self.gateways
                .iter()
                .copied()
                .chain([router.link_local().into()])
        };
        Sources {
            endpoints: self.here.iter().flat_map(of_endpoint).collect(),
            remotes: self.remotes().collect(),
            routers: routers
                .into_iter()
                .flat_map(|router| own(router).map(move |address| (router, address)))
                .collect(),
            resolvers: self.gateways.clone(),
        }
    }

    fn remotes(&self) -> impl Iterator<Item = (Mac, IpAddr)> {
        let addresses = |(_, endpoint): &(EndpointId, &EndpointConfig)| {
            let router = Mac::of_router(endpoint.node);
            endpoint
                .addresses
                .iter()
                .map(|address| (router, *address))
                .collect::<Vec<_>>()
        };
        self.elsewhere.iter().flat_map(addresses)
    }

    /// `None` while there is no tunnel.
    pub(super) fn devices(
        &self,
        config: &NodeConfig,
        network: NetworkId,
        space: &Space<ObservedLink>,
    ) -> Option<Devices> {
        let tunnel = names::vxlan_link(config.networks.get(&network)?.vni);
        let index = space.links.get(&tunnel)?.index;
        let endpoints = self.here.iter().filter_map(|(link, (_, endpoint))| {
            let (index, addresses) = (space.links.get(link)?.index, endpoint.addresses.clone());
            Some((
                link.clone(),
                Endpoint {
                    index,
                    mac: endpoint.mac,
                    addresses,
                },
            ))
        });
        // A way narrower than the devices: the long way tells the sender so.
        let narrow: BTreeSet<IpAddr> = (space.routes.iter())
            .filter(|(_, route)| matches!(route, Route::Unicast { mtu: Some(_), .. }))
            .map(|(key, _)| key.destination.network())
            .collect();
        Some(Devices {
            tunnel: Device {
                link: tunnel,
                index,
                mac: Mac::of_router(config.node),
            },
            endpoints: endpoints.collect(),
            remotes: self
                .remotes()
                .filter(|(_, address)| !narrow.contains(address))
                .collect(),
        })
    }
}
