//! Networks by name, by VNI and by kind.

use std::collections::{BTreeMap, BTreeSet};

use model::{Network, NetworkId, Vni};

use super::groups::{Groups, Values};

/// What networks are looked up by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks {
    known: BTreeMap<NetworkId, Known>,
    by_name: Groups<String, NetworkId>,
    by_vni: Groups<Vni, NetworkId>,
    by_mark: Groups<u16, NetworkId>,
    lans: BTreeSet<NetworkId>,
    encrypted: BTreeSet<NetworkId>,
    open: BTreeSet<NetworkId>,
}

/// What the maps know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// In lower case.
    name: String,
    vni: Vni,
}

impl Networks {
    /// Follows a network.
    pub(super) fn put(&mut self, id: NetworkId, network: Option<&Network>) {
        if let Some(old) = self.known.remove(&id) {
            self.by_name.remove(&old.name, &id);
            self.by_vni.remove(&old.vni, &id);
            self.by_mark.remove(&old.vni.mark(), &id);
            self.lans.remove(&id);
            self.encrypted.remove(&id);
            self.open.remove(&id);
        }
        let Some(network) = network else { return };
        let known = Known {
            name: network.spec.name.to_ascii_lowercase(),
            vni: network.vni,
        };
        self.by_name.insert(known.name.clone(), id);
        self.by_vni.insert(known.vni, id);
        self.by_mark.insert(known.vni.mark(), id);
        if network.spec.driver.is_lan() {
            self.lans.insert(id);
        }
        if network.spec.encrypted {
            self.encrypted.insert(id);
        }
        if network.reach.is_open() {
            self.open.insert(id);
        }
        self.known.insert(id, known);
    }

    /// Networks that every host has part in, because callers may come to any.
    pub(crate) fn open(&self) -> impl Iterator<Item = &NetworkId> {
        self.open.iter()
    }

    /// Whether this is one of them.
    pub(crate) fn is_open(&self, network: NetworkId) -> bool {
        self.open.contains(&network)
    }

    /// Networks of this name, which is in lower case.
    pub(crate) fn named<'a>(&'a self, name: &str) -> Values<'a, NetworkId> {
        self.by_name.of(name)
    }

    /// Whether a network has this VNI.
    pub(crate) fn has_vni(&self, vni: Vni) -> bool {
        self.by_vni.of(&vni).next().is_some()
    }

    /// Networks whose packets bear the same mark.
    pub(crate) fn marked(&self, mark: u16) -> Values<'_, NetworkId> {
        self.by_mark.of(&mark)
    }

    /// Networks on a LAN of the hosts.
    pub(crate) fn lans(&self) -> impl Iterator<Item = &NetworkId> {
        self.lans.iter()
    }

    /// Encrypted networks.
    pub(crate) fn encrypted(&self) -> impl Iterator<Item = &NetworkId> {
        self.encrypted.iter()
    }
}
