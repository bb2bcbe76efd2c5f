//! The table that a rule set was made for. Pure.

use std::{collections::BTreeMap, iter, net::IpAddr};

use nftables::{Data, Ip, Key, Ruleset, Type, address};

use super::{balance_of, names};
use crate::{Table, VirtualService};

/// The virtual services that a rule set was made for. Other differences show when the rule set is
/// made from them again and compared.
pub(super) fn table(ruleset: &Ruleset) -> Table {
    let mut table = Table::default();
    for version in Ip::BOTH {
        let names = names(version);
        let size = Type::from(version).size();
        for (key, _) in elements(ruleset, names.services) {
            table
                .services
                .extend(address(&key.first).map(|vip| (vip, VirtualService::default())));
        }
        for (key, data) in elements(ruleset, names.modes) {
            let service = address(&key.first).and_then(|vip| table.services.get_mut(&vip));
            let Some((service, mode)) = service.zip(value(data)) else {
                continue;
            };
            service.balance = balance_of(mode);
        }
        for (key, data) in elements(ruleset, names.weights) {
            let weight = value(data).and_then(|weight| u16::try_from(weight).ok());
            let Some(((vip, server), weight)) = pair(key, size).zip(weight) else {
                continue;
            };
            table
                .services
                .get_mut(&vip)
                .and_then(|service| service.real_servers.insert(server, weight));
        }
    }
    table.hairpins = hairpins(ruleset);
    table
}

pub(crate) fn hairpins(ruleset: &Ruleset) -> BTreeMap<IpAddr, IpAddr> {
    let of_version = |version: Ip| {
        let hairpins = elements(ruleset, names(version).hairpins);
        hairpins.filter_map(move |(key, data)| {
            let gateway = if let Data::Value(value) = data {
                address(value)
            } else {
                None
            };
            let (local, _) = pair(key, Type::from(version).size())?;
            Some((local, gateway?))
        })
    };
    Ip::BOTH.into_iter().flat_map(of_version).collect()
}

pub(crate) fn elements<'a>(
    ruleset: &'a Ruleset,
    set: &str,
) -> Box<dyn Iterator<Item = (&'a Key, &'a Data)> + 'a> {
    match ruleset.sets.get(set) {
        Some(set) => Box::new(set.elements.iter()),
        None => Box::new(iter::empty()),
    }
}

pub(super) fn pair(key: &Key, size: usize) -> Option<(IpAddr, IpAddr)> {
    let (first, second) = key.first.split_at_checked(size)?;
    address(first).zip(address(second))
}

pub(crate) fn value(data: &Data) -> Option<u32> {
    let Data::Value(value) = data else {
        return None;
    };
    Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?))
}
