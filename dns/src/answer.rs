//! Turns a query's bytes and the name table into a response's bytes. Pure: randomness is an
//! argument.

use std::net::IpAddr;

use model::{Protocol, names::HOST_DOMAIN};

use crate::{
    cache::Way,
    table::{ANSWER_TTL, Client, Entry, Table, Viewer, Zone, reverse},
    wire::{self, Flaw, Query, Response, Section, Whose, class, code, kind},
};

/// TTL in seconds of our negative answers: clients must not cache them (RFC 2308 section 5),
/// because the name may be created the next moment.
const NEGATIVE_TTL: u32 = 0;
/// Refresh, retry, expire and minimum of the SOA record. Unused: there are no secondary servers.
const TIMES: [u8; 16] = [
    0,
    0,
    0,
    1,
    0,
    0,
    0,
    1,
    0,
    0,
    0,
    1,
    0,
    0,
    0,
    NEGATIVE_TTL as u8,
];
/// The HINFO record that answers ANY queries (RFC 8482 section 4.2).
const ANY_HINFO: [&[u8]; 2] = [b"\x07RFC8482", b"\0"];
/// Extended DNS error codes (RFC 8914 section 5.2).
const NOT_READY: u16 = 14;
/// Why a name outside is not looked for (extended error "Prohibited", RFC 8914).
pub(crate) const INTERNAL: (u16, &str) = (
    18,
    "the network is internal: only its own names are answered",
);
pub(crate) const NO_REACHABLE_AUTHORITY: u16 = 22;
/// Longest UDP response in bytes for a client without EDNS (RFC 1035 section 4.2.1).
const PLAIN_UDP: u16 = 512;
/// A query forwarded this often is in a forwarding loop and is dropped.
const MAX_HOPS: u8 = 3;

/// Transport of a query; it limits the length of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Up to the client's EDNS buffer size, at most 1232 bytes.
    Udp,
    /// Up to 65,535 bytes.
    Tcp,
}

/// Result of handling a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response is in the buffer.
    Answered,
    /// No response is sent.
    Ignored,
    /// The name is not the cluster's: forward the query.
    Elsewhere,
}

/// Longest response to this query in bytes.
pub(crate) fn limit(query: &Query<'_>, transport: Transport) -> usize {
    let asked = query.edns.map_or(PLAIN_UDP, |edns| edns.size);
    match transport {
        Transport::Udp => asked.clamp(PLAIN_UDP, wire::MAX_UDP).into(),
        Transport::Tcp => u16::MAX.into(),
    }
}

/// Answers a query from the table into `out`. `chance` seeds the order of addresses.
pub fn reply(
    table: &Table,
    client: Client,
    transport: Transport,
    query: &[u8],
    chance: u64,
    out: &mut Vec<u8>,
) -> Outcome {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(flaw) => return refused(query, flaw, out),
    };
    let response = Response::new(&query, limit(&query, transport), out);
    if query.edns.is_some_and(|edns| edns.version > 0) {
        return plain(response, code::BAD_VERS, None);
    }
    match (query.class, query.kind) {
        (_, kind::OPT) => return plain(response, code::FORM_ERR, None),
        (_, kind::AXFR | kind::IXFR) => return plain(response, code::REFUSED, None),
        (class::IN | class::ANY, _) => {}
        _ => return plain(response, code::REFUSED, None),
    }
    let Some(viewer) = table.viewer(client) else {
        let why = (
            NOT_READY,
            "this host does not know the network yet: ask again",
        );
        return plain(response, code::SERV_FAIL, Some(why));
    };
    let asked = Asked {
        table,
        viewer,
        query: &query,
        chance,
    };
    match client {
        Client::Host => asked.answer_host(response),
        Client::Of { .. } | Client::Sandbox(_) => asked.answer(response),
    }
}

fn refused(query: &[u8], flaw: Flaw, out: &mut Vec<u8>) -> Outcome {
    if wire::refuse(query, flaw, out) {
        Outcome::Answered
    } else {
        Outcome::Ignored
    }
}

fn plain(mut response: Response<'_>, code: u16, why: Option<(u16, &str)>) -> Outcome {
    response.set_code(code);
    response.finish(why);
    Outcome::Answered
}

struct Asked<'a> {
    table: &'a Table,
    viewer: &'a Viewer,
    query: &'a Query<'a>,
    chance: u64,
}

impl Asked<'_> {
    fn answer(&self, response: Response<'_>) -> Outcome {
        let name = self.query.name.as_bytes();
        if let Some((zone, entry)) = self.table.find(self.viewer, name) {
            return self.records(response, zone, entry);
        }
        if let Some(asked) = port_of(name)
            && let Some((zone, entry)) = self.table.find(self.viewer, asked.of)
        {
            return self.port(response, zone, entry, asked);
        }
        if let Some(found) =
            reverse(name).and_then(|address| self.table.name_of(self.viewer, address))
        {
            return self.pointer(response, found);
        }
        if self.query.edns.is_some_and(|edns| edns.hops >= MAX_HOPS) {
            let why = (
                NO_REACHABLE_AUTHORITY,
                "forwarding loop: resolvers forward this query to each other",
            );
            return plain(response, code::SERV_FAIL, Some(why));
        }
        // An engine has names of its own, and may forward what it does not know. A single label
        // can carry nothing to anybody's servers.
        let has_engine = matches!(self.viewer.way, Way::Engine(_));
        let may_know = has_engine && wire::is_single_label(name);
        if self.table.is_inside(self.viewer) && !may_know {
            return self.negative(response, None, code::NX_DOMAIN, Some(INTERNAL));
        }
        // Also a name below a network's name: a network may be called `dev`, which is a top-level
        // domain, too.
        Outcome::Elsewhere
    }

    /// Addresses below the domain of hosts. Nothing is forwarded: the host has resolvers for all
    /// else.
    fn answer_host(&self, response: Response<'_>) -> Outcome {
        let domain = wire::labels(HOST_DOMAIN).unwrap_or_default();
        let Some(name) = wire::above(self.query.name.as_bytes(), &domain) else {
            return plain(response, code::REFUSED, None);
        };
        let found = self.table.find_there(self.viewer, name);
        match (found, self.query.kind) {
            (Some((_, entry)), kind::A) if !entry.v4.is_empty() => {
                self.addresses(response, &entry.v4)
            }
            (Some((_, entry)), kind::AAAA) if !entry.v6.is_empty() => {
                self.addresses(response, &entry.v6)
            }
            (Some((zone, _)), _) => self.negative(response, Some(zone), code::NO_ERROR, None),
            // The domain and the networks in it have names below them (RFC 8020).
            (None, _) if name.is_empty() || self.table.is_network(self.viewer, name) => {
                self.negative(response, None, code::NO_ERROR, None)
            }
            (None, _) => self.negative(response, None, code::NX_DOMAIN, None),
        }
    }

    fn records(&self, mut response: Response<'_>, zone: &Zone, entry: &Entry) -> Outcome {
        match self.query.kind {
            kind::A if !entry.v4.is_empty() => self.addresses(response, &entry.v4),
            kind::AAAA if !entry.v6.is_empty() => self.addresses(response, &entry.v6),
            kind::ANY => {
                response.set_authoritative();
                response.record(
                    Section::Answer,
                    Whose::Asked,
                    kind::HINFO,
                    ANSWER_TTL,
                    &ANY_HINFO,
                );
                response.finish(None);
                Outcome::Answered
            }
            kind::SOA => {
                response.set_authoritative();
                self.soa(
                    &mut response,
                    (Section::Answer, Whose::Asked),
                    Some(zone),
                    ANSWER_TTL,
                );
                response.finish(None);
                Outcome::Answered
            }
            kind::NS => {
                response.set_authoritative();
                let (name, at) = zone.ourselves();
                response.record(
                    Section::Answer,
                    Whose::Asked,
                    kind::NS,
                    ANSWER_TTL,
                    &[&name, b"\0"],
                );
                for address in at.addresses() {
                    response.address(
                        Section::Additional,
                        Whose::Other(&name),
                        ANSWER_TTL,
                        address,
                    );
                }
                response.finish(None);
                Outcome::Answered
            }
            _ => self.negative(response, Some(zone), code::NO_ERROR, None),
        }
    }

    /// Addresses in random order, truncated if they do not all fit: old musl has no TCP and uses
    /// those that arrive.
    fn addresses<A: Copy + Into<IpAddr>>(&self, mut response: Response<'_>, all: &[A]) -> Outcome {
        let mut chance = Chance(self.chance);
        let mut shuffled = Shuffled::of(all, &mut chance);
        let mut fits = true;
        while let Some(address) = shuffled.next().filter(|_| fits) {
            fits = response.address(Section::Answer, Whose::Asked, ANSWER_TTL, address.into());
        }
        response.set_authoritative();
        if !fits {
            response.set_truncated();
        }
        response.finish(None);
        Outcome::Answered
    }

    /// SRV records of `_http._tcp.web` (RFC 2782): one per target, with its addresses while there
    /// is room.
    fn port(
        &self,
        mut response: Response<'_>,
        zone: &Zone,
        entry: &Entry,
        asked: PortName<'_>,
    ) -> Outcome {
        let PortName { protocol, port, of } = asked;
        let name = zone.local(of);
        if !entry.has_port(protocol, port) {
            return self.negative(response, Some(zone), code::NX_DOMAIN, None);
        }
        let places: Vec<_> = port
            .iter()
            .flat_map(|port| zone.places(entry, name, protocol, port))
            .collect();
        if self.query.kind != kind::SRV || places.is_empty() {
            return self.negative(response, Some(zone), code::NO_ERROR, None);
        }
        let (mut fits, mut chance) = (true, Chance(self.chance));
        let mut targets = Vec::new();
        for (number, place, at) in Shuffled::of(&places, &mut chance) {
            let target = zone.absolute(place).unwrap_or_else(|| place.to_vec());
            let priority_and_weight = [0, 0, 0, 1];
            let data: [&[u8]; 4] = [&priority_and_weight, &number.to_be_bytes(), &target, b"\0"];
            fits &= response.record(Section::Answer, Whose::Asked, kind::SRV, ANSWER_TTL, &data);
            targets.push((target, at));
        }
        response.set_authoritative();
        if !fits {
            response.set_truncated();
        }
        for (target, at) in targets.iter().filter(|_| fits) {
            for address in at.addresses() {
                response.address(
                    Section::Additional,
                    Whose::Other(target),
                    ANSWER_TTL,
                    address,
                );
            }
        }
        response.finish(None);
        Outcome::Answered
    }

    fn pointer(&self, mut response: Response<'_>, found: Result<(&Zone, &[u8]), &Zone>) -> Outcome {
        match (found, self.query.kind) {
            (Ok((_, name)), kind::PTR | kind::ANY) => {
                response.set_authoritative();
                response.record(
                    Section::Answer,
                    Whose::Asked,
                    kind::PTR,
                    ANSWER_TTL,
                    &[name, b"\0"],
                );
                response.finish(None);
                Outcome::Answered
            }
            (Ok((zone, _)), _) => self.negative(response, Some(zone), code::NO_ERROR, None),
            (Err(zone), _) => self.negative(response, Some(zone), code::NX_DOMAIN, None),
        }
    }

    /// A negative response with an SOA record (RFC 2308 section 3).
    fn negative(
        &self,
        mut response: Response<'_>,
        zone: Option<&Zone>,
        code: u16,
        why: Option<(u16, &str)>,
    ) -> Outcome {
        response.set_authoritative();
        response.set_code(code);
        let whose = if code == code::NX_DOMAIN {
            Whose::Parent
        } else {
            Whose::Asked
        };
        self.soa(
            &mut response,
            (Section::Authority, whose),
            zone,
            NEGATIVE_TTL,
        );
        response.finish(why);
        Outcome::Answered
    }

    /// The SOA record of a name. Each name is a zone by itself; the serial is the table's
    /// generation.
    fn soa(
        &self,
        response: &mut Response<'_>,
        at: (Section, Whose<'_>),
        zone: Option<&Zone>,
        ttl: u32,
    ) {
        let server = zone.map(|zone| zone.ourselves().0).unwrap_or_default();
        let nobody = b"\0";
        let serial = (self.table.generation() as u32).to_be_bytes();
        response.record(
            at.0,
            at.1,
            kind::SOA,
            ttl,
            &[&server, b"\0", nobody, &serial, &TIMES],
        );
    }
}

/// The parts of an SRV name (RFC 2782).
#[derive(Clone, Copy)]
struct PortName<'a> {
    protocol: Protocol,
    /// Port name without underscore; none in `_tcp.web`.
    port: Option<&'a [u8]>,
    /// The name that owns the port.
    of: &'a [u8],
}

/// `_http._tcp.web`, or `_tcp.web`, which exists if anything below it does (RFC 8020).
fn port_of(name: &[u8]) -> Option<PortName<'_>> {
    let protocol = |label: &[u8]| match label {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        b"_sctp" => Some(Protocol::Sctp),
        _ => None,
    };
    let (first, rest) = wire::split(name)?;
    if let Some(protocol) = protocol(first) {
        return Some(PortName {
            protocol,
            port: None,
            of: rest,
        });
    }
    let (second, below) = wire::split(rest)?;
    Some(PortName {
        protocol: protocol(second)?,
        port: Some(first.strip_prefix(b"_")?),
        of: below,
    })
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014): spreads
/// load; not for secrets.
struct Chance(u64);

impl Chance {
    /// A number below `end`, which is at least 1.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ mixed >> 31) * end as u128) >> 64) as usize
    }
}

/// Largest number of items shuffled without heap allocation.
const FEW: usize = 64;

/// Iterates over a slice in random order, each order equally likely (Fisher-Yates shuffle).
struct Shuffled<'a, 'c, T> {
    all: &'a [T],
    few: [u16; FEW],
    many: Vec<u16>,
    next: usize,
    chance: &'c mut Chance,
}

impl<'a, 'c, T> Shuffled<'a, 'c, T> {
    fn of(all: &'a [T], chance: &'c mut Chance) -> Self {
        // A DNS message cannot hold more records.
        let all = &all[..all.len().min(usize::from(u16::MAX))];
        let many = if all.len() > FEW {
            (0..all.len()).map(|index| index as u16).collect()
        } else {
            Vec::new()
        };
        Self {
            all,
            few: std::array::from_fn(|index| index as u16),
            many,
            next: 0,
            chance,
        }
    }
}

impl<T: Copy> Iterator for Shuffled<'_, '_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let left = self
            .all
            .len()
            .checked_sub(self.next)
            .filter(|left| *left > 0)?;
        let order = if self.many.is_empty() {
            &mut self.few[..]
        } else {
            &mut self.many[..]
        };
        order.swap(self.next, self.next + self.chance.below(left));
        let index = order[self.next];
        self.next += 1;
        self.all.get(usize::from(index)).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_order_is_as_likely() {
        for length in [3, 70] {
            let all: Vec<usize> = (0..length).collect();
            let mut first: BTreeMap<usize, u32> = BTreeMap::new();
            let mut orders: BTreeMap<Vec<usize>, u32> = BTreeMap::new();
            for seed in 0..7_000 {
                let mut chance = Chance(seed);
                let order: Vec<usize> = Shuffled::of(&all, &mut chance).collect();
                let mut sorted = order.clone();
                sorted.sort();
                assert_eq!(sorted, all);
                *first.entry(order[0]).or_default() += 1;
                *orders.entry(order[..3].to_vec()).or_default() += 1;
            }
            let expected = 7_000 / length as u32;
            assert!(
                first
                    .values()
                    .all(|count| count.abs_diff(expected) < expected / 2),
                "{first:?}"
            );
            assert!(
                length > 3 || orders.len() == 6 && orders.values().all(|count| *count > 1_000),
                "{orders:?}"
            );
        }
    }
}
