//! What the rules should be, made from the view and what there is of links. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipvs::Table;
use model::{
    BalancerKind, ContainerConfig, DriverConfig, Mac, NetworkConfig, NetworkId, NodeConfig,
    SandboxId, Vni,
    names::{LinkName, Namespace},
};
use nftables::{Family, Rule, Ruleset};
use rules::{
    guard::{self, Border, Exposed, Secret},
    published::{self, Led},
    shortcut::{self, Devices},
};

use super::{
    super::{
        changed::Changed,
        plan::Observed,
        ports::Open,
        state::{ObservedLink, Place, Route, Space},
    },
    members::{Members, members},
};

/// What the rules of one namespace should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The tables `netd`, of different families; there should be no others of that name.
    pub rulesets: Vec<Arc<Ruleset>>,
    /// One more, which the kernel may refuse: the short way between endpoints.
    pub shortcut: Option<Arc<Ruleset>>,
    /// The virtual services; `None` where none are balanced.
    pub services: Option<Table>,
    /// Where callers of published ports are led; `None` on the host, and where none are.
    pub led: Option<Led>,
    /// What is to translate them.
    pub engine: BalancerKind,
    /// What stands first in the forward chains of other software; `None` where nobody else has any.
    pub passage: Option<Vec<Rule>>,
    /// The devices that chains of the short way are on, with their numbers.
    pub devices: BTreeMap<LinkName, u32>,
}

impl Wanted {
    /// The table of a family.
    pub fn table(&self, family: Family) -> Option<&Arc<Ruleset>> {
        self.rulesets
            .iter()
            .chain(&self.shortcut)
            .find(|ruleset| ruleset.family == family)
    }
}

/// What rules follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grounds {
    /// The view.
    pub config: Arc<NodeConfig>,
    /// What there is of links: rules are only made where there is a namespace.
    pub observed: Arc<Observed>,
    /// The ports that lead into networks.
    pub open: Arc<Open>,
}

/// The rules of each namespace.
pub type WantedRules = BTreeMap<Place, Arc<Wanted>>;

/// The rules that are asked for, by namespace that there is. Pure.
pub fn wanted(grounds: &Grounds) -> WantedRules {
    let overlays = grounds.overlays().map(|(id, _)| *id).collect();
    let host = (Place::Host, grounds.host());
    let all = std::iter::once(host)
        .chain(grounds.networks(&overlays))
        .chain(grounds.sandboxes());
    all.map(|(place, wanted)| (place, Arc::new(wanted)))
        .collect()
}

/// The same, where it is known what was asked for earlier: only networks that differ are made anew.
pub fn rewanted(before: &Grounds, last: &WantedRules, grounds: &Grounds) -> WantedRules {
    let changed =
        Changed::between(&before.config, &grounds.config).filter(|_| before.open == grounds.open);
    let Some(changed) = changed else {
        return wanted(grounds);
    };
    let is_moved = |network: &NetworkId| {
        let place = Place::Inside(Namespace::Network(*network));
        let [old, new] = [before, grounds].map(|it| it.observed.spaces.get(&place));
        match (old, new) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            (old, new) => old.is_some() || new.is_some(),
        }
    };
    let moved = grounds.overlays().map(|(id, _)| *id);
    let mut networks: BTreeSet<NetworkId> = moved.filter(is_moved).collect();
    networks.extend(changed.networks.iter().chain(&changed.services));
    let mut next = last.clone();
    // Those on a LAN are few, and each depends on all of its networks; the others' are all alike.
    next.retain(|place, _| match place {
        Place::Host => true,
        Place::Inside(Namespace::Network(network)) => !networks.contains(network),
        Place::Inside(Namespace::Sandbox(_) | Namespace::Container(_)) => false,
    });
    let mut members = members(&grounds.config, &networks);
    for (&network, record) in grounds.overlays().filter(|(id, _)| networks.contains(id)) {
        let place = Place::Inside(Namespace::Network(network));
        let members = members.remove(&network).unwrap_or_default();
        let grown = last
            .get(&place)
            .and_then(|last| grounds.grown(network, &members, (before, last), &changed));
        let wanted = match grown {
            Some(grown) => Some(grown),
            None => grounds.network(network, record, &members).map(Arc::new),
        };
        if let Some(wanted) = wanted {
            let same = last.get(&place).filter(|last| **last == wanted);
            next.insert(place, same.cloned().unwrap_or(wanted));
        }
    }
    for (place, wanted) in grounds.sandboxes() {
        let same = last.get(&place).filter(|last| ***last == wanted);
        next.insert(place, same.cloned().unwrap_or_else(|| Arc::new(wanted)));
    }
    next
}

impl Grounds {
    fn overlays(&self) -> impl Iterator<Item = (&NetworkId, &NetworkConfig)> {
        let networks = self.config.networks.iter();
        networks.filter(|(_, network)| network.driver.parent().is_none())
    }

    /// What crosses the border between the networks and the outside.
    fn host(&self) -> Wanted {
        let config = &self.config;
        let leaving = || {
            self.overlays()
                .map(|(_, network)| network)
                .filter(|network| !network.internal)
        };
        let others = config
            .peers
            .iter()
            .filter(|(node, _)| **node != config.node);
        let border = Border {
            subnets: leaving()
                .flat_map(|network| network.subnets.iter().map(|lease| lease.subnet))
                .collect(),
            exposed: leaving().filter_map(exposed).collect(),
            tunnels: config.networks.values().filter_map(tunnel).collect(),
            vteps: others
                .map(|(&node, peer)| (peer.vtep, Mac::of_router(node)))
                .collect(),
            own: config.peers.get(&config.node).map(|own| own.vtep),
            secret: secret(config),
        };
        let border = || published::divert(guard::border(&border), &self.open.diversion);
        let rulesets = self.overlays().next().map(|_| border());
        let passage = if leaving().next().is_some() {
            guard::passage()
        } else {
            Vec::new()
        };
        Wanted {
            rulesets: rulesets.map(Arc::new).into_iter().collect(),
            shortcut: None,
            services: None,
            led: None,
            engine: BalancerKind::Nftables,
            passage: Some(passage),
            devices: BTreeMap::new(),
        }
    }

    /// Those of these networks that there are.
    fn networks(&self, networks: &BTreeSet<NetworkId>) -> impl Iterator<Item = (Place, Wanted)> {
        let mut members = members(&self.config, networks);
        let records = self.overlays().filter(|(id, _)| networks.contains(id));
        records.filter_map(move |(&network, record)| {
            let members = members.remove(&network).unwrap_or_default();
            let wanted = self.network(network, record, &members)?;
            Some((Place::Inside(Namespace::Network(network)), wanted))
        })
    }

    /// A network's rules where endpoints have come and nothing else is other than it was: those of
    /// the earlier ones stay. `None` where more may differ.
    fn grown(
        &self,
        network: NetworkId,
        members: &Members<'_>,
        (before, last): (&Self, &Arc<Wanted>),
        changed: &Changed,
    ) -> Option<Arc<Wanted>> {
        let (config, open) = (&self.config, &self.open);
        let is_plain =
            !open.networks.contains_key(&network) && !open.answers.contains_key(&network);
        let place = Place::Inside(Namespace::Network(network));
        let spaces = [before, self].map(|it| it.observed.spaces.get(&place));
        let is_wide = spaces.iter().flatten().all(|space| !has_narrow(space));
        if changed.shrinks || !is_plain || !is_wide {
            return None;
        }
        let [_, space] = spaces;
        let came = members.only(&changed.added);
        let whole = members.devices(config, network, space?)?;
        let part = came.devices(config, network, space?)?;
        let mut stayed: BTreeMap<LinkName, u32> = numbers(&whole).into_iter().collect();
        stayed.retain(|link, _| !part.endpoints.contains_key(link));
        if stayed != last.devices {
            return None;
        }
        let services = Some(Table::of(config, network));
        if came.is_empty() && services == last.services {
            return Some(last.clone());
        }
        let sources = came.sources();
        let mut parts = [guard::guard(&sources), guard::claims(&sources)].into_iter();
        let mut grown = Wanted::clone(last);
        for ruleset in grown.rulesets.iter_mut().chain(&mut grown.shortcut) {
            let part = parts.next().unwrap_or_else(|| shortcut::shortcut(&part));
            Arc::make_mut(ruleset).join(part);
        }
        grown.services = services;
        grown.devices.extend(numbers(&part));
        Some(Arc::new(grown))
    }

    fn network(
        &self,
        network: NetworkId,
        record: &NetworkConfig,
        members: &Members<'_>,
    ) -> Option<Wanted> {
        let (config, open) = (&self.config, &self.open);
        let place = Place::Inside(Namespace::Network(network));
        let space = self.observed.spaces.get(&place)?;
        let own = config.peers.get(&config.node);
        let services = Some(Table::of(config, network));
        let sources = members.sources();
        let ports = open
            .networks
            .get(&network)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let guard = published::balance(guard::guard(&sources), ports);
        let guard = open
            .answers
            .get(&network)
            .into_iter()
            .fold(guard, published::answer);
        let found = members.devices(config, network, space);
        let subnets = record.subnets.iter().map(|lease| lease.subnet).collect();
        Some(Wanted {
            rulesets: [guard, guard::claims(&sources)].map(Arc::new).to_vec(),
            shortcut: found.as_ref().map(shortcut::shortcut).map(Arc::new),
            services,
            led: (!ports.is_empty()).then(|| Led::of(subnets, ports)),
            engine: own.map(|own| own.balancer).unwrap_or_default(),
            passage: None,
            devices: found.iter().flat_map(numbers).collect(),
        })
    }

    /// The sandboxes that names or virtual IPs are translated in. Those on a LAN have no namespace
    /// of ours on their packets' way: they do it by themselves.
    fn sandboxes(&self) -> impl Iterator<Item = (Place, Wanted)> {
        let config = &self.config;
        let places = config
            .resolving()
            .map(|sandbox| (sandbox, Place::Inside(config.namespace_of(sandbox))));
        // A container's namespace may not be there yet.
        let there = places
            .filter(|(_, place)| !place.is_foreign() || self.observed.spaces.contains_key(place));
        there.map(|(sandbox, place)| (place, self.sandbox(sandbox)))
    }

    fn sandbox(&self, sandbox: SandboxId) -> Wanted {
        let config = &self.config;
        let container = config.containers.get(&sandbox);
        let is_on_lan = container.is_none_or(|container| config.is_on_lan(container));
        let services = is_on_lan.then(|| Table::of_sandbox(config, sandbox));
        // Without a virtual IP nothing is tracked there, and no rule costs anything.
        let tracks = services
            .as_ref()
            .is_some_and(|table| !table.services.is_empty());
        let rulesets = match container.is_some_and(ContainerConfig::has_engine) {
            true => vec![guard::instead_of_engine()],
            false => std::iter::once(guard::names())
                .chain(tracks.then(guard::untracked_names))
                .collect(),
        };
        Wanted {
            rulesets: rulesets.into_iter().map(Arc::new).collect(),
            shortcut: None,
            services,
            led: None,
            // Their packets come from the namespace itself, where nftables costs those of virtual
            // IPs only.
            engine: BalancerKind::Nftables,
            passage: None,
            devices: BTreeMap::new(),
        }
    }
}

/// Whether less gets through to some endpoint than through the tunnel.
fn has_narrow(space: &Space<ObservedLink>) -> bool {
    let mut routes = space.routes.values();
    routes.any(|route| matches!(route, Route::Unicast { mtu: Some(_), .. }))
}

/// The devices that there are chains on.
fn numbers(devices: &Devices) -> Vec<(LinkName, u32)> {
    let endpoints = devices.endpoints.iter();
    let endpoints = endpoints.map(|(link, endpoint)| (link.clone(), endpoint.index));
    let tunnel = (devices.tunnel.link.clone(), devices.tunnel.index);
    endpoints.chain([tunnel]).collect()
}

fn secret(config: &NodeConfig) -> Option<Secret> {
    let tunnels = config
        .networks
        .values()
        .filter_map(|network| match network.driver {
            DriverConfig::Overlay {
                port,
                encrypted: true,
            } => Some((port, network.vni)),
            _ => None,
        });
    let (ports, vnis): (Vec<u16>, Vec<Vni>) = tunnels.unzip();
    Some(Secret {
        port: *ports.first()?,
        vnis,
    })
}

fn exposed(network: &NetworkConfig) -> Option<Exposed> {
    let callers: Vec<_> = network.reach.exposed.iter().copied().collect();
    let vni = network.vni;
    (!callers.is_empty()).then_some(Exposed { vni, callers })
}

/// UDP port and network identifier.
fn tunnel(network: &NetworkConfig) -> Option<(u16, Vni)> {
    let DriverConfig::Overlay { port, .. } = network.driver else {
        return None;
    };
    Some((port, network.vni))
}
