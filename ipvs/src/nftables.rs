//! The nftables engine: virtual services as one table of maps. A packet costs one look-up, however many services there
//! are; address-only DNAT takes every protocol; nothing hides the client's address but being balanced to oneself.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::IpAddr,
};

use nix::libc::{IPPROTO_TCP, IPPROTO_UDP};

use crate::{
    Balancer, BalancerError, Observed, Op, Table, VirtualService,
    nft::{
        self, Chain, Connection, Data, Expression, Family, Hook, Ip, Key, Kind, Meta, Nat, NftError, Numbers, Reject,
        Rule, Ruleset, Set, SetRef, Socket, Type, Verdict, address, difference, octets,
    },
    shortcut::BALANCED_PORTS,
};

/// The nftables table of the engine, family `inet`.
pub const TABLE: &str = model::names::BALANCER_TABLE;

/// Slots that the real servers of one virtual service take turns in; higher weights are scaled down.
const MAX_SLOTS: u32 = 4096;
/// NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC.
const TRANSLATE_DESTINATION: i32 = -100;
const TRANSLATE_SOURCE: i32 = 100;
/// What is addressed to a virtual IP after translation belongs to no connection.
const AFTER_TRANSLATION: i32 = TRANSLATE_DESTINATION + 10;
/// `IPS_DST_NAT`.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// Code of ICMPX unreachables: port.
const PORT_UNREACHABLE: u8 = 1;

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
    socket: Socket,
    observed: Option<Ruleset>,
}

impl Nftables {
    /// In the calling thread's network namespace; afterwards it can be used from any thread.
    pub fn open(clients: Clients) -> Result<Self, NftError> {
        Ok(Self { clients, socket: Socket::open()?, observed: None })
    }

    /// TCP has an end and may come to it (draining); whatever knows none goes elsewhere from now on.
    fn forget_removed(&mut self, ops: &[Op], left: &Table) -> Result<(), BalancerError> {
        let shrunk = ops.iter().filter_map(|op| match op {
            Op::DelService { vip } | Op::DelRealServer { vip, .. } => Some(*vip),
            _ => None,
        });
        let shrunk: BTreeSet<IpAddr> = shrunk.collect();
        let serves = |found: &Connection| {
            left.services
                .get(&found.destination)
                .is_some_and(|service| service.real_servers.contains_key(&found.server))
        };
        if !shrunk.is_empty() {
            nft::forget(&mut self.socket, |found| {
                i32::from(found.protocol) != IPPROTO_TCP && shrunk.contains(&found.destination) && !serves(found)
            })?;
        }
        Ok(())
    }

    /// Where clients have nothing to be balanced to, nothing of theirs is looked at.
    fn wanted(&self, table: &Table) -> Option<Ruleset> {
        let is_needed = self.clients == Clients::Routed || !table.services.is_empty();
        is_needed.then(|| ruleset(table, self.clients))
    }

    fn read(&mut self) -> Result<Table, NftError> {
        self.observed = nft::observe(&mut self.socket, Family::Inet, TABLE)?;
        Ok(self.observed.as_ref().map(table).unwrap_or_default())
    }
}

impl Balancer for Nftables {
    fn observe(&mut self) -> Result<Observed, BalancerError> {
        let table = self.read()?;
        let damage = difference(self.wanted(&table).as_ref(), self.observed.as_ref());
        let damage = damage.map(|change| change.steps.iter().map(ToString::to_string).collect());
        Ok(Observed { table, damage: damage.unwrap_or_default() })
    }

    fn apply(&mut self, ops: &[Op]) -> Result<(), BalancerError> {
        let mut desired = match &self.observed {
            Some(observed) => table(observed),
            None => self.read()?,
        };
        ops.iter().for_each(|op| desired.apply(op));
        let change = difference(self.wanted(&desired).as_ref(), self.observed.take().as_ref());
        change.map_or(Ok(()), |change| nft::apply(&mut self.socket, &change))?;
        self.forget_removed(ops, &desired)
    }
}

/// The names of one IP version's sets.
struct Names {
    /// Virtual IPs to their chains.
    vips: &'static str,
    /// Virtual IPs with no real server to go to.
    refused: &'static str,
    /// (virtual IP, real server) to weight: what the chains are made from.
    weights: &'static str,
    /// (endpoint, endpoint) to the gateway that it sees calling.
    hairpins: &'static str,
}

fn names(version: Ip) -> Names {
    match version {
        Ip::V4 => Names { vips: "vips4", refused: "refused4", weights: "weights4", hairpins: "hairpins4" },
        Ip::V6 => Names { vips: "vips6", refused: "refused6", weights: "weights6", hairpins: "hairpins6" },
    }
}

/// The rule set that balances a table. Pure.
pub fn ruleset(table: &Table, clients: Clients) -> Ruleset {
    let ruleset = Ruleset::new(Family::Inet, TABLE).chain("unreachable", Chain::regular(unreachable()));
    let mut ruleset = match clients {
        Clients::Routed => for_routed(ruleset),
        Clients::Local => for_local(ruleset),
    };
    for version in Ip::BOTH {
        ruleset = with_sets(ruleset, table, version);
    }
    for (vip, service) in table.services.iter().filter(|(_, service)| takes_connections(service)) {
        ruleset = ruleset.chain(&chain_name(*vip), Chain::regular(vec![distribute(*vip, service)]));
    }
    ruleset
}

fn for_routed(ruleset: Ruleset) -> Ruleset {
    let rules = |rule: fn(Ip) -> Rule| Ip::BOTH.map(rule).to_vec();
    let sources = [rules(hairpin), rules(port)].concat();
    ruleset
        .chain("balance", Chain::base(Kind::Nat, Hook::Prerouting, TRANSLATE_DESTINATION, rules(balance)))
        .chain("hairpin", Chain::base(Kind::Nat, Hook::Postrouting, TRANSLATE_SOURCE, sources))
        .chain("refuse", Chain::base(Kind::Filter, Hook::Prerouting, AFTER_TRANSLATION, rules(refuse)))
}

/// One chain that sees nothing but the first packet of a connection: the client's other traffic passes here as well. Who
/// is balanced to itself needs no help.
fn for_local(ruleset: Ruleset) -> Ruleset {
    let rules = [Ip::BOTH.map(refuse), Ip::BOTH.map(balance)].concat();
    ruleset.chain("balance", Chain::base(Kind::Nat, Hook::Output, TRANSLATE_DESTINATION, rules))
}

fn balance(version: Ip) -> Rule {
    Rule::new().version(version).destination(version, 0).verdict_map(names(version).vips)
}

fn hairpin(version: Ip) -> Rule {
    let second = (Type::from(version).size() / 4) as u8;
    let pair = Rule::new().version(version).source(version, 0).destination(version, second);
    pair.map(names(version).hairpins).nat(Nat::Source, version)
}

/// Moves the source port of a balanced connection to where packets are known to need translation.
fn port(version: Ip) -> Rule {
    let (first, last) = BALANCED_PORTS;
    let transports = Set::values(&[Type::Protocol], [IPPROTO_TCP, IPPROTO_UDP].map(|code| Key::of(&[&[code as u8]])));
    let balanced = Rule::new().version(version).status(DESTINATION_TRANSLATED).source(version, 0);
    balanced
        .with(Expression::Meta { key: Meta::L4proto, into: 4 })
        .with(Expression::Match { set: SetRef::Anonymous(transports), from: 4, invert: false })
        .with(Expression::Immediate { into: 4, value: first.to_be_bytes().to_vec() })
        .with(Expression::Immediate { into: 5, value: last.to_be_bytes().to_vec() })
        .with(Expression::Nat { kind: Nat::Source, version, address: 0, ports: Some((4, 5)) })
}

fn refuse(version: Ip) -> Rule {
    let refused = Rule::new().version(version).destination(version, 0).in_set(names(version).refused);
    refused.verdict(Verdict::Goto("unreachable".to_owned()))
}

pub(crate) fn unreachable() -> Vec<Rule> {
    let tcp = Rule::new().protocol(IPPROTO_TCP as u8).reject(Reject::TcpReset);
    vec![tcp, Rule::new().reject(Reject::Icmpx(PORT_UNREACHABLE))]
}

fn with_sets(ruleset: Ruleset, table: &Table, version: Ip) -> Ruleset {
    let (names, key) = (names(version), Type::from(version));
    let services = || table.services.iter().filter(move |(vip, _)| Ip::of(**vip) == version);
    let (open, closed): (Vec<_>, Vec<_>) = services().partition(|(_, service)| takes_connections(service));
    let vips = open.into_iter().map(|(vip, _)| (Key::address(*vip), Verdict::Jump(chain_name(*vip))));
    let refused = closed.into_iter().map(|(vip, _)| Key::address(*vip));
    let weights = services().flat_map(|(vip, service)| {
        service.real_servers.iter().map(|(address, weight)| (Key::pair(*vip, *address), number(u32::from(*weight))))
    });
    let local = table.hairpins.iter().filter(|(address, _)| Ip::of(**address) == version);
    let hairpins = local.map(|(address, gateway)| (Key::pair(*address, *address), octets(*gateway)));
    ruleset
        .set(names.vips, Set::verdicts(&[key], vips))
        .set(names.refused, Set::values(&[key], refused))
        .set(names.weights, Set::map(&[key, key], Type::Mark, weights))
        .set(names.hairpins, Set::map(&[key, key], key, hairpins))
}

fn takes_connections(service: &VirtualService) -> bool {
    service.real_servers.values().any(|&weight| weight > 0)
}

fn chain_name(vip: IpAddr) -> String {
    // A name with colons could not be typed to the `nft` program.
    format!("vip-{}", vip.to_string().replace(':', "_"))
}

fn number(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

fn distribute(vip: IpAddr, service: &VirtualService) -> Rule {
    let slots = slots(&service.real_servers);
    let modulus = slots.len() as u32;
    let version = Ip::of(vip);
    let turns = (0u32..).zip(slots).map(|(slot, address)| (Key::of(&[&slot.to_ne_bytes()]), octets(address)));
    Rule::new()
        .with(Expression::Number { kind: Numbers::Incremental, modulus, offset: 0, into: 0 })
        .own_map(Set::map(&[Type::Number], version.into(), turns))
        .nat(Nat::Destination, version)
}

/// Real servers in the order in which they take turns: rounds, in each of which every server whose weight is not yet
/// used up has one.
pub(crate) fn slots(real_servers: &BTreeMap<IpAddr, u16>) -> Vec<IpAddr> {
    let turns = turns(real_servers);
    let rounds = turns.iter().map(|(_, turns)| *turns).max().unwrap_or(0);
    let round = |round| turns.iter().filter(move |(_, turns)| *turns > round).map(|(address, _)| *address);
    (0..rounds).flat_map(round).collect()
}

/// Turns of each real server: its weight by the common divisor, scaled down where the sum is beyond the limit.
fn turns(real_servers: &BTreeMap<IpAddr, u16>) -> Vec<(IpAddr, u32)> {
    let weighted = real_servers.iter().filter(|(_, weight)| **weight > 0);
    let weights: Vec<(IpAddr, u32)> = weighted.map(|(address, weight)| (*address, u32::from(*weight))).collect();
    let divisor = weights.iter().fold(0, |divisor, (_, weight)| common_divisor(divisor, *weight)).max(1);
    let sum = weights.iter().map(|(_, weight)| weight / divisor).sum::<u32>();
    let scaled = |turns: u32| if sum <= MAX_SLOTS { turns } else { (turns * MAX_SLOTS / sum).max(1) };
    weights.into_iter().map(|(address, weight)| (address, scaled(weight / divisor))).collect()
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// The virtual services that a rule set was made for. What the rest of it does not agree with shows when the rule set
/// is made from them again.
fn table(ruleset: &Ruleset) -> Table {
    let mut table = Table::default();
    for version in Ip::BOTH {
        let names = names(version);
        let width = Type::from(version).size();
        for (key, _) in elements(ruleset, names.vips).chain(elements(ruleset, names.refused)) {
            table.services.extend(address(&key.first).map(|vip| (vip, VirtualService::default())));
        }
        for (key, data) in elements(ruleset, names.weights) {
            let Some(((vip, server), weight)) = pair(key, width).zip(weight(data)) else { continue };
            table.services.get_mut(&vip).and_then(|service| service.real_servers.insert(server, weight));
        }
        for (key, data) in elements(ruleset, names.hairpins) {
            let gateway = if let Data::Value(value) = data { address(value) } else { None };
            table.hairpins.extend(pair(key, width).zip(gateway).map(|((local, _), gateway)| (local, gateway)));
        }
    }
    table
}

fn elements<'a>(ruleset: &'a Ruleset, set: &str) -> Box<dyn Iterator<Item = (&'a Key, &'a Data)> + 'a> {
    match ruleset.sets.get(set) {
        Some(set) => Box::new(set.elements.iter()),
        None => Box::new(iter::empty()),
    }
}

fn pair(key: &Key, width: usize) -> Option<(IpAddr, IpAddr)> {
    let (first, second) = key.first.split_at_checked(width)?;
    address(first).zip(address(second))
}

fn weight(data: &Data) -> Option<u16> {
    let Data::Value(value) = data else { return None };
    u32::from_ne_bytes(value.as_slice().try_into().ok()?).try_into().ok()
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
                prop_assert_eq!(&table(&ruleset(&expected, clients)), &expected);
            }
        }
    }

    #[test]
    fn turns_are_spread_and_bounded() {
        let servers = |weights: &[u16]| {
            (1..).zip(weights).map(|(low, weight)| (IpAddr::from([10, 0, 0, low]), *weight)).collect::<BTreeMap<_, _>>()
        };
        let turns = |weights| slots(&servers(weights)).iter().map(|address| octets(*address)[3]).collect::<Vec<u8>>();
        assert_eq!(turns(&[1, 1, 1]), [1, 2, 3]);
        assert_eq!(turns(&[30, 10, 0, 20]), [1, 2, 4, 1, 4, 1]);
        assert!(turns(&[u16::MAX, u16::MAX - 1, 1]).len() <= MAX_SLOTS as usize + 3);
        assert!(turns(&[u16::MAX, u16::MAX - 1, 1]).contains(&3));
    }
}
