//! Where callers are led, and where no more: for connections that have to be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{Protocol, Subnet};
use nftables::{Change, Connection, Octets, Ruleset, Step};

use super::{CHAIN, PORTS, Port, TASKS, numbers};

/// What callers of a network's published ports are led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Led {
    /// The network's own subnets.
    pub subnets: Vec<Subnet>,
    /// By protocol and port.
    pub servers: BTreeMap<(u8, u16), BTreeSet<IpAddr>>,
}

impl Led {
    /// Where these ports lead on a network.
    pub fn of(subnets: Vec<Subnet>, ports: &[Port]) -> Self {
        let mut servers: BTreeMap<_, BTreeSet<IpAddr>> = BTreeMap::new();
        for port in ports {
            for (protocol, number) in numbers(port) {
                let addresses = port.real_servers.keys().copied();
                servers
                    .entry((protocol.number(), number))
                    .or_default()
                    .extend(addresses);
            }
        }
        Self { subnets, servers }
    }

    /// Whether a translated connection leads to a task that no longer answers there. TCP
    /// connections end by themselves; UDP and the like would stay with a removed task as long as
    /// the caller sends.
    pub fn is_stale(&self, found: &Connection) -> bool {
        let called = (found.protocol, found.port);
        let is_led = found.destination != found.server
            && !self
                .subnets
                .iter()
                .any(|own| own.contains(found.destination));
        is_led
            && found.protocol != Protocol::Tcp.number()
            && !self
                .servers
                .get(&called)
                .is_some_and(|servers| servers.contains(&found.server))
    }
}

/// Whether this changes where callers of published ports are led.
pub fn is_led_elsewhere(change: &Change) -> bool {
    change.steps.iter().any(|step| match step {
        Step::FlushChain(chain) | Step::DeleteChain(chain) => chain.starts_with(CHAIN),
        Step::DeleteElements { set, .. } | Step::DeleteSet(set) => set.starts_with(TASKS),
        Step::DeleteTable => true,
        _ => false,
    })
}

/// The ports (protocol, number) that a host led elsewhere and is not to any more.
pub fn closed(wanted: Option<&Ruleset>, observed: Option<&Ruleset>) -> BTreeSet<(u8, u16)> {
    let keys = |table: Option<&Ruleset>| -> BTreeSet<Octets> {
        let set = table.and_then(|table| table.sets.get(PORTS));
        set.into_iter()
            .flat_map(|set| set.elements.keys().map(|key| key.first))
            .collect()
    };
    let called = |key: &Octets| {
        Some((
            *key.first()?,
            u16::from_be_bytes(key.get(4..6)?.try_into().ok()?),
        ))
    };
    keys(observed)
        .difference(&keys(wanted))
        .filter_map(called)
        .collect()
}
