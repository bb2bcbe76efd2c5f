//! The nftables balancer: virtual services as one table of maps. A packet costs one look-up,
//! however many services there are. Address-only DNAT works for every protocol. The client's
//! address is hidden only if it is balanced to itself.

mod read_back;
mod ruleset;

use std::{collections::BTreeMap, mem, net::IpAddr, sync::Arc, time::Instant};

use model::{Balance, Scheduler};
use nftables::{
    Change, Data, Family, Ip, NftError, Ruleset, Socket, Type, address, difference, octets,
};

use crate::{
    Balancer, BalancerError, Observed, Op, Table, Traffic,
    connections::Connections,
    crowd::Crowd,
    moment::Moment,
    sysctl::{Sysctls, TRACKING},
};

pub(crate) use read_back::{elements, hairpins, value};
use read_back::{pair, table};
use ruleset::part;
use ruleset::ruleset;
pub(crate) use ruleset::{middle_of_tcp, of_version, sources, with_hairpins};
pub use ruleset::{turn, unreachable};

/// The nftables table of the engine, family `inet`.
pub const TABLE: &str = model::names::BALANCER_TABLE;
/// The part of a mode that is the affinity in seconds; the scheduler is above.
const AFFINITY_BITS: u32 = 28;
/// The balancer moves the source ports of connections to virtual IPs into this range, so that a
/// packet of such a connection can be told by its port.
pub const BALANCED_PORTS: (u16, u16) = (0x4000, 0x7fff);

/// Where the clients of virtual services are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Behind the namespace, which routes for them.
    Routed,
    /// In the namespace itself.
    Local,
}

/// The engine in one network namespace.
pub struct Nftables {
    clients: Clients,
    crowd: Crowd,
    socket: Socket,
    sysctls: Sysctls,
    connections: Connections,
    seen: Seen,
}

/// What was found in the kernel.
enum Seen {
    Nothing,
    /// The rule set of a table.
    Whole(Arc<Table>, Moment),
    /// Something else.
    Damaged(Option<Ruleset>),
}

/// The table that is to be, what it takes, and when, if it is known.
type Prepared = (Arc<Table>, Option<Change>, Option<Moment>);

impl Nftables {
    /// In the calling thread's network namespace; afterwards it can be used from any thread.
    pub fn open(clients: Clients) -> Result<Self, BalancerError> {
        let mut socket = Socket::open()?;
        nftables::load(&mut socket);
        let crowd = Crowd::of_kernel(&mut socket);
        let sysctls = Sysctls::open(TRACKING.iter().copied()).map_err(BalancerError::Sysctl)?;
        Ok(Self {
            clients,
            crowd,
            socket,
            sysctls,
            connections: Connections::translated(),
            seen: Seen::Nothing,
        })
    }

    /// The desired rule set; `None` in a sandbox without virtual services, where no packet is to be
    /// matched.
    fn wanted(&self, table: &Table) -> Option<Ruleset> {
        self.is_needed(table)
            .then(|| ruleset(table, self.clients, self.crowd))
    }

    fn is_needed(&self, table: &Table) -> bool {
        self.clients == Clients::Routed || !table.services.is_empty()
    }

    fn read(&mut self) -> Result<Observed, NftError> {
        let now = Moment::now(&mut self.socket)?;
        if let Seen::Whole(table, at) = &self.seen
            && *at == now
        {
            return Ok(Observed {
                table: table.clone(),
                damage: Vec::new(),
            });
        }
        let found = nftables::observe(&mut self.socket, Family::Inet, TABLE)?;
        let table = Arc::new(found.as_ref().map(table).unwrap_or_default());
        let change = difference(self.wanted(&table).as_ref(), found.as_ref());
        self.seen = match &change {
            Some(_) => Seen::Damaged(found),
            None => Seen::Whole(table.clone(), now),
        };
        let steps = change.map(|change| change.steps).unwrap_or_default();
        Ok(Observed {
            table,
            damage: steps.iter().map(ToString::to_string).collect(),
        })
    }

    fn prepare(&mut self, ops: &[Op]) -> Result<Prepared, NftError> {
        if matches!(self.seen, Seen::Nothing) {
            self.read()?;
        }
        match mem::replace(&mut self.seen, Seen::Nothing) {
            Seen::Whole(mut table, at) => {
                let wanted = |table: &Table| {
                    self.is_needed(table)
                        .then(|| part(table, self.clients, self.crowd, ops))
                };
                let before = wanted(&table);
                ops.iter()
                    .for_each(|op| Arc::make_mut(&mut table).apply(op));
                let change = difference(wanted(&table).as_ref(), before.as_ref());
                Ok((table, change, Some(at)))
            }
            Seen::Damaged(found) => {
                let mut desired = found.as_ref().map(table).unwrap_or_default();
                ops.iter().for_each(|op| desired.apply(op));
                let change = difference(self.wanted(&desired).as_ref(), found.as_ref());
                Ok((Arc::new(desired), change, None))
            }
            Seen::Nothing => Ok((Arc::default(), None, None)),
        }
    }
}

impl Balancer for Nftables {
    fn observe(&mut self) -> Result<Observed, BalancerError> {
        let mut observed = self.read()?;
        observed.damage.extend(self.sysctls.damage());
        observed.damage.extend(self.connections.damage(
            &mut self.socket,
            &observed.table,
            Instant::now(),
        )?);
        Ok(observed)
    }

    fn apply(&mut self, ops: &[Op]) -> Result<(), BalancerError> {
        self.sysctls.apply().map_err(BalancerError::Sysctl)?;
        let (table, change, before) = self.prepare(ops)?;
        if let Some(change) = &change {
            nftables::apply(&mut self.socket, change)?;
        }
        let ours = before.map(|before| before.after(change.as_ref()));
        if let Some(ours) = ours.filter(|ours| ours.is_now(&mut self.socket)) {
            self.seen = Seen::Whole(table.clone(), ours);
        }
        self.connections
            .forget(&mut self.socket, ops, &table, Instant::now())
    }

    fn overlook(&mut self, before: u32) {
        if let Seen::Whole(_, at) = &mut self.seen {
            at.overlook(before);
        }
    }

    fn generation(&self) -> Option<u32> {
        match self.seen {
            Seen::Whole(_, at) => Some(at.number()),
            Seen::Nothing | Seen::Damaged(_) => None,
        }
    }

    fn is_due(&self) -> bool {
        self.connections.is_due(Instant::now())
    }

    fn doubt(&mut self) {
        self.seen = Seen::Nothing;
    }

    fn traffic(&mut self, vip: IpAddr) -> Result<Traffic, BalancerError> {
        let (version, size) = (Ip::of(vip), Type::from(Ip::of(vip)).size());
        let names = names(version);
        let mut connections = BTreeMap::new();
        // Connections by affinity, and connections by turn.
        for (key, _, count) in
            nftables::counted(&mut self.socket, Family::Inet, TABLE, names.weights)?
        {
            let server = pair(&key, size)
                .filter(|(of, _)| *of == vip)
                .map(|(_, server)| server);
            connections.extend(server.map(|server| (server, count)));
        }
        for (key, data, count) in
            nftables::counted(&mut self.socket, Family::Inet, TABLE, names.slots)?
        {
            let server = if let Data::Value(server) = &data {
                address(server)
            } else {
                None
            };
            let own = key
                .first
                .starts_with(&octets(vip))
                .then_some(server)
                .flatten();
            own.into_iter()
                .for_each(|server| *connections.entry(server).or_default() += count);
        }
        Ok(Traffic {
            connections,
            passed: None,
        })
    }
}

/// The names of one IP version's sets.
struct Names {
    /// Every virtual IP.
    services: &'static str,
    /// Those with a real server to go to, and their chains.
    vips: &'static str,
    /// How they choose, where it is not the usual.
    modes: &'static str,
    /// (virtual IP, real server) to weight: what the chains are made from.
    weights: &'static str,
    /// (virtual IP, number) to the real server whose turn it is.
    slots: &'static str,
    /// (client, virtual IP) to the real server that it had last.
    clients: &'static str,
    /// (endpoint, endpoint) to the gateway that it sees calling.
    hairpins: &'static str,
}

fn names(version: Ip) -> Names {
    match version {
        Ip::V4 => Names {
            services: "services4",
            vips: "vips4",
            modes: "modes4",
            weights: "weights4",
            slots: "slots4",
            clients: "clients4",
            hairpins: "hairpins4",
        },
        Ip::V6 => Names {
            services: "services6",
            vips: "vips6",
            modes: "modes6",
            weights: "weights6",
            slots: "slots6",
            clients: "clients6",
            hairpins: "hairpins6",
        },
    }
}

pub(crate) fn number(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// A way to choose as one number.
pub(crate) fn mode(balance: Balance) -> u32 {
    let scheduler = Scheduler::ALL
        .iter()
        .position(|known| *known == balance.scheduler)
        .unwrap_or(0) as u32;
    scheduler << AFFINITY_BITS | balance.affinity.unwrap_or(0).min((1 << AFFINITY_BITS) - 1)
}

pub(crate) fn balance_of(mode: u32) -> Balance {
    let scheduler = Scheduler::ALL
        .get((mode >> AFFINITY_BITS) as usize)
        .copied()
        .unwrap_or_default();
    let affinity = mode & ((1 << AFFINITY_BITS) - 1);
    Balance {
        scheduler,
        affinity: (affinity > 0).then_some(affinity),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::tables;

    proptest! {
        #[test]
        fn a_rule_set_tells_the_table_that_it_was_made_for(expected in tables()) {
            for clients in [Clients::Routed, Clients::Local] {
                let ruleset = ruleset(&expected, clients, Crowd::Brief);
                prop_assert_eq!(&table(&ruleset), &expected);
            }
        }

        #[test]
        fn a_part_changes_as_the_whole_does(before in tables(), after in tables()) {
            let ops = before.ops(&after);
            let change = |before: &Table, after: &Table| {
                let whole = |table| ruleset(table, Clients::Routed, Crowd::Brief);
                let rulesets = [after, before].map(whole);
                difference(Some(&rulesets[0]), Some(&rulesets[1]))
            };
            let parts = [&after, &before]
                .map(|table| part(table, Clients::Routed, Crowd::Brief, &ops));
            prop_assert_eq!(difference(Some(&parts[0]), Some(&parts[1])), change(&before, &after));
        }
    }
}
