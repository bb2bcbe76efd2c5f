//! Where callers are led, and where no more: for connections that have to be forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{Protocol, Subnet};
use nftables::{Change, Connection, Octets, Ruleset, Step};

use super::{CHAIN, Grain, PORTS, Port, TASKS, last};

/// What callers of a network's published ports are led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Led {
    /// The network's own subnets.
    pub subnets: Vec<Subnet>,
    /// By protocol and port.
    pub servers: BTreeMap<(u8, u16), BTreeSet<IpAddr>>,
    /// By protocol, first port and last port.
    pub ranges: BTreeMap<(u8, u16, u16), BTreeSet<IpAddr>>,
}

impl Led {
    /// Where these ports lead on a network.
    pub fn of(subnets: Vec<Subnet>, ports: &[Port]) -> Self {
        let (mut servers, mut ranges) = (BTreeMap::new(), BTreeMap::new());
        for port in ports {
            let (protocol, end) = (port.protocol.number(), last(port.published, port.count));
            let own = || port.real_servers.keys().copied();
            if Grain::of(port.count) == Grain::Range {
                let known: &mut BTreeSet<IpAddr> =
                    ranges.entry((protocol, port.published, end)).or_default();
                known.extend(own());
                continue;
            }
            for number in port.published..=end {
                let known: &mut BTreeSet<IpAddr> = servers.entry((protocol, number)).or_default();
                known.extend(own());
            }
        }
        Self {
            subnets,
            servers,
            ranges,
        }
    }

    /// Whether a translated connection leads to a task that no longer answers there. TCP
    /// connections end by themselves; UDP and the like would stay with a removed task as long as
    /// the caller sends.
    pub fn is_stale(&self, found: &Connection) -> bool {
        let is_led = found.destination != found.server
            && !self
                .subnets
                .iter()
                .any(|own| own.contains(found.destination));
        is_led && found.protocol != Protocol::Tcp.number() && !self.leads_to(found)
    }

    fn leads_to(&self, found: &Connection) -> bool {
        let single = self.servers.get(&(found.protocol, found.port));
        let of_ranges = self
            .ranges
            .iter()
            .filter(|((protocol, first, last), _)| {
                *protocol == found.protocol && (*first..=*last).contains(&found.port)
            })
            .map(|(_, servers)| servers);
        single
            .into_iter()
            .chain(of_ranges)
            .any(|servers| servers.contains(&found.server))
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
    called(observed)
        .difference(&called(wanted))
        .copied()
        .collect()
}

/// The ports that a table leads elsewhere.
fn called(table: Option<&Ruleset>) -> BTreeSet<(u8, u16)> {
    let sets = table.into_iter().flat_map(|table| {
        let set = |grain: Grain| table.sets.get(&grain.name(PORTS));
        Grain::ALL.into_iter().filter_map(set)
    });
    let keys = sets.flat_map(|set| set.elements.keys());
    let numbers = keys.filter_map(|key| {
        let ((protocol, first), (_, last)) = (of_key(&key.first)?, of_key(&key.last)?);
        Some((first..=last).map(move |port| (protocol, port)))
    });
    numbers.flatten().collect()
}

fn of_key(key: &Octets) -> Option<(u8, u16)> {
    let port = u16::from_be_bytes(key.get(4..6)?.try_into().ok()?);
    Some((*key.first()?, port))
}
