//! Services by name, network, claimed name and published port.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    NetworkId, ServiceId,
    dns_name::{Holder, last_of_dotted},
};

use super::groups::{Groups, Values};
use crate::{claims::Claims, record::ServiceRecord};

/// What services are looked up by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Services {
    known: BTreeMap<ServiceId, Known>,
    by_name: Groups<String, ServiceId>,
    on_network: Groups<NetworkId, ServiceId>,
    /// By the network of their ports that every host answers at.
    by_ingress: Groups<NetworkId, ServiceId>,
    /// Those that publish ports.
    publishing: BTreeSet<ServiceId>,
    owning: Groups<(NetworkId, String), ServiceId>,
    sharing: Groups<(NetworkId, String), ServiceId>,
    /// By their stack.
    in_stack: Groups<(NetworkId, String), ServiceId>,
    /// By the last labels of their dotted aliases.
    ending: Groups<(NetworkId, String), ServiceId>,
}

/// What the maps know of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// Of its spec. All of this follows from the spec.
    version: u64,
    /// In lower case.
    name: String,
    networks: Vec<NetworkId>,
    ingress: Option<NetworkId>,
    publishes: bool,
    claims: Vec<(NetworkId, Claims)>,
}

/// Whom the views of hosts show a service to.
pub(super) struct Reach<'a> {
    pub(super) networks: &'a [NetworkId],
    /// The network of its ports that every host answers at.
    pub(super) ingress: Option<NetworkId>,
}

impl Known {
    fn of(record: &ServiceRecord, ingress: Option<NetworkId>) -> Self {
        let service = &record.service;
        Self {
            version: record.version,
            name: service.spec.name.to_ascii_lowercase(),
            networks: service.networks.clone(),
            ingress,
            publishes: !service.spec.publish.is_empty(),
            claims: Claims::of_service(service).collect(),
        }
    }
}

impl Services {
    /// Whether this service is known with its present spec.
    pub(super) fn knows(&self, id: ServiceId, record: &ServiceRecord) -> bool {
        let known = self.known.get(&id);
        known.is_some_and(|known| known.version == record.version)
    }

    /// Follows a service with a new spec. `ingress` is the network of its ports that every host
    /// answers at.
    pub(super) fn put(
        &mut self,
        id: ServiceId,
        record: &ServiceRecord,
        ingress: Option<NetworkId>,
    ) {
        self.remove(id);
        let known = Known::of(record, ingress);
        self.by_name.insert(known.name.clone(), id);
        for network in &known.networks {
            self.on_network.insert(*network, id);
        }
        if let Some(ingress) = known.ingress {
            self.by_ingress.insert(ingress, id);
        }
        if known.publishes {
            self.publishing.insert(id);
        }
        for (network, claims) in &known.claims {
            for name in &claims.own {
                self.owning.insert((*network, name.clone()), id);
            }
            for name in &claims.shared {
                self.sharing.insert((*network, name.clone()), id);
            }
            if let Some(stack) = &claims.stack {
                self.in_stack.insert((*network, stack.clone()), id);
            }
            for ending in claims.endings() {
                self.ending.insert((*network, ending.to_owned()), id);
            }
        }
        self.known.insert(id, known);
    }

    pub(super) fn remove(&mut self, id: ServiceId) {
        let Some(old) = self.known.remove(&id) else {
            return;
        };
        self.by_name.remove(&old.name, &id);
        for network in &old.networks {
            self.on_network.remove(network, &id);
        }
        if let Some(ingress) = old.ingress {
            self.by_ingress.remove(&ingress, &id);
        }
        self.publishing.remove(&id);
        for (network, claims) in old.claims {
            for ending in claims.endings() {
                self.ending.remove(&(network, ending.to_owned()), &id);
            }
            if let Some(stack) = claims.stack {
                self.in_stack.remove(&(network, stack), &id);
            }
            for name in claims.own {
                self.owning.remove(&(network, name), &id);
            }
            for name in claims.shared {
                self.sharing.remove(&(network, name), &id);
            }
        }
    }

    /// Whom the views of hosts show it to.
    pub(super) fn reach(&self, id: ServiceId) -> Option<Reach<'_>> {
        let known = self.known.get(&id)?;
        Some(Reach {
            networks: &known.networks,
            ingress: known.ingress,
        })
    }

    /// Services of this name, which is in lower case.
    pub(crate) fn named<'a>(&'a self, name: &str) -> Values<'a, ServiceId> {
        self.by_name.of(name)
    }

    /// Services on a network, by id.
    pub(crate) fn on_network(&self, network: NetworkId) -> Values<'_, ServiceId> {
        self.on_network.of(&network)
    }

    /// Whether every host leads to this network, because of a service's ports.
    pub(crate) fn is_ingress(&self, network: NetworkId) -> bool {
        self.by_ingress.of(&network).next().is_some()
    }

    /// The networks that every host leads to.
    pub(crate) fn ingress_networks(&self) -> impl Iterator<Item = &NetworkId> {
        self.by_ingress.keys()
    }

    /// Services that publish ports, by id.
    pub(crate) fn publishing(&self) -> impl Iterator<Item = &ServiceId> {
        self.publishing.iter()
    }

    /// The services that another one with these claims on a network would clash with, by id.
    pub(crate) fn rivals(&self, network: NetworkId, claims: &Claims) -> BTreeSet<ServiceId> {
        let mut rivals = BTreeSet::new();
        for name in &claims.own {
            let key = (network, name.clone());
            rivals.extend(self.owning.of(&key).chain(self.sharing.of(&key)));
        }
        for name in &claims.shared {
            rivals.extend(self.owning.of(&(network, name.clone())));
        }
        for ending in claims.endings() {
            rivals.extend(self.in_stack.of(&(network, ending.to_owned())));
        }
        if let Some(stack) = &claims.stack {
            rivals.extend(self.ending.of(&(network, stack.clone())));
        }
        rivals
    }

    /// To whom a name on a network belongs, which is in lower case: of several services the first.
    pub(crate) fn holder(&self, network: NetworkId, name: &str) -> Option<(Holder, ServiceId)> {
        let first = |of: &Groups<(NetworkId, String), ServiceId>, name: &str| {
            of.of(&(network, name.to_owned())).next().copied()
        };
        let stack = last_of_dotted(name).and_then(|last| first(&self.in_stack, last));
        let of_stack = stack.map(|id| (Holder::Stack, id));
        let of_service = || Some((Holder::Service, first(&self.owning, name)?));
        let of_alias = || Some((Holder::Alias, first(&self.sharing, name)?));
        of_stack.or_else(of_service).or_else(of_alias)
    }
}
