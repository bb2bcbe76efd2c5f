//! The leases of one network, by owner and by address.

use std::{collections::BTreeMap, net::IpAddr, ops::Deref};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Owner;

/// The addresses of each owner. Reads like a map by owner, and is written as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leases {
    by_owner: BTreeMap<Owner, Vec<IpAddr>>,
    by_address: BTreeMap<IpAddr, Owner>,
}

impl Leases {
    pub(crate) fn insert(&mut self, owner: Owner, addresses: Vec<IpAddr>) {
        self.remove(owner);
        let owned = addresses.iter().map(|address| (*address, owner));
        self.by_address.extend(owned);
        self.by_owner.insert(owner, addresses);
    }

    /// Gives an owner more addresses, in order.
    pub(crate) fn extend(&mut self, owner: Owner, fresh: Vec<IpAddr>) {
        let owned = fresh.iter().map(|address| (*address, owner));
        self.by_address.extend(owned);
        let held = self.by_owner.entry(owner).or_default();
        held.extend(fresh);
        held.sort();
    }

    pub(crate) fn remove(&mut self, owner: Owner) -> Option<Vec<IpAddr>> {
        let addresses = self.by_owner.remove(&owner)?;
        for address in &addresses {
            self.by_address.remove(address);
        }
        Some(addresses)
    }

    pub(crate) fn holder(&self, address: IpAddr) -> Option<Owner> {
        self.by_address.get(&address).copied()
    }
}

impl Deref for Leases {
    type Target = BTreeMap<Owner, Vec<IpAddr>>;

    fn deref(&self) -> &Self::Target {
        &self.by_owner
    }
}

impl Serialize for Leases {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.by_owner.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Leases {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut leases = Self::default();
        for (owner, addresses) in BTreeMap::deserialize(from)? {
            leases.insert(owner, addresses);
        }
        Ok(leases)
    }
}
