//! Routes for DNS queries that Docker's resolver forwards from inside a container to the host's
//! resolvers: they go to the gateway of an overlay, where our resolver answers. Pure. The engine
//! takes routes only when an endpoint joins, and each prefix once. So internal networks get shorter
//! prefixes, as fallback in case they remain the container's only network.

use std::{collections::BTreeSet, net::IpAddr};

use model::Subnet;

use super::{journal::NetworkRecord, wire::StaticRoute};

/// Routes that one endpoint adds to those of its container's earlier endpoints.
#[derive(Debug)]
pub(crate) struct Ways<'a> {
    /// By how many bits its prefixes are shorter; `None`: it has no routes to resolvers.
    pub asks: Option<u8>,
    beside: Option<Beside<'a>>,
}

/// Neighbours of a resolver, which a shorter prefix would lead into an internal network.
#[derive(Debug)]
struct Beside<'a> {
    /// By whose gateways it goes instead.
    by: &'a NetworkRecord,
    /// All in prefixes that are shorter by so many bits,
    within: u8,
    /// but not in prefixes this much shorter: these have routes already.
    known: Option<u8>,
}

impl<'a> Ways<'a> {
    /// Routes of an endpoint on this network, in a container that is on these others.
    pub(crate) fn of(record: &'a NetworkRecord, others: &'a [(Option<u8>, NetworkRecord)]) -> Self {
        let taken: BTreeSet<u8> = others.iter().filter_map(|(asks, _)| *asks).collect();
        // A network with a way out has the exact prefix, because a resolver's host may serve other
        // protocols, too.
        let choice: &[u8] = match (record.lan, record.internal) {
            (true, _) => &[],
            (false, false) => &[0],
            (false, true) => &[1, 2],
        };
        let asks = choice.iter().find(|bits| !taken.contains(bits)).copied();
        let out = others
            .iter()
            .map(|(_, other)| other)
            .filter(|other| !other.internal);
        // Overlays first: they are on every host.
        let other = out.min_by_key(|other| other.lan);
        let widest = taken.last().copied();
        let beside = match (other, asks, widest) {
            (Some(by), Some(within @ 1..), known) if Some(within) > known => {
                Some(Beside { by, within, known })
            }
            (None, known, Some(within @ 1..)) if !record.internal => Some(Beside {
                by: record,
                within,
                known,
            }),
            _ => None,
        };
        Self { asks, beside }
    }

    /// Its routes to these resolvers. The exact prefix of a router of a LAN, which may be one of
    /// them or beside one, is left to that LAN: the engine has to find it there.
    pub(crate) fn routes(
        &self,
        record: &NetworkRecord,
        addresses: &[IpAddr],
        resolvers: &BTreeSet<IpAddr>,
        routers: &BTreeSet<IpAddr>,
    ) -> BTreeSet<StaticRoute> {
        let has = |resolver: &&IpAddr| {
            addresses
                .iter()
                .any(|address| address.is_ipv6() == resolver.is_ipv6())
        };
        let is_routers = |resolver| {
            prefix(resolver, 1)
                .into_iter()
                .flat_map(each)
                .any(|near| routers.contains(&near))
        };
        let around =
            |resolver: IpAddr, bits: u8| prefix(resolver, bits + u8::from(is_routers(resolver)));
        let mut found = BTreeSet::new();
        for &resolver in resolvers.iter().filter(has) {
            found.extend(
                self.asks
                    .and_then(|bits| by(record, around(resolver, bits)?)),
            );
            let Some(beside) = &self.beside else { continue };
            let known = beside.known.and_then(|bits| around(resolver, bits));
            let is_known = |near: &IpAddr| {
                resolvers.contains(near) || known.is_some_and(|known| known.contains(*near))
            };
            let near = around(resolver, beside.within).into_iter().flat_map(each);
            let near = near.filter(|near| !is_known(near) && !routers.contains(near));
            found.extend(near.filter_map(|near| match prefix(near, 0)? {
                near if std::ptr::eq(beside.by, record) && is_on_link(record, near) => {
                    Some(on_link(near))
                }
                near => by(beside.by, near),
            }));
        }
        found
    }
}

/// A route by a network's gateway, if it has that family.
fn by(record: &NetworkRecord, destination: Subnet) -> Option<StaticRoute> {
    let lease = record
        .subnets
        .iter()
        .find(|lease| lease.subnet.is_ipv6() == destination.is_ipv6())?;
    Some(StaticRoute {
        destination: destination.to_string(),
        route_type: 0,
        next_hop: lease.gateway.to_string(),
    })
}

fn is_on_link(record: &NetworkRecord, destination: Subnet) -> bool {
    record.lan
        && record
            .subnets
            .iter()
            .any(|lease| lease.subnet.covers(&destination))
}

fn on_link(destination: Subnet) -> StaticRoute {
    StaticRoute {
        destination: destination.to_string(),
        route_type: 1,
        next_hop: String::new(),
    }
}

/// The prefix around an address that is `bits` shorter than its full length.
fn prefix(address: IpAddr, bits: u8) -> Option<Subnet> {
    Subnet::around(address, if address.is_ipv6() { 128 } else { 32 } - bits)
}

/// The addresses of a prefix with few of them.
fn each(subnet: Subnet) -> impl Iterator<Item = IpAddr> {
    let length = if subnet.is_ipv6() { 128 } else { 32 };
    (0..1_u8 << (length - subnet.prefix()).min(7)).map(move |number| match subnet.network() {
        IpAddr::V4(first) => (u32::from(first) | u32::from(number)).to_be_bytes().into(),
        IpAddr::V6(first) => (u128::from(first) | u128::from(number))
            .to_be_bytes()
            .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// The routes that each adds, if a container joins them one after the other.
    fn joined(
        networks: &[&NetworkRecord],
        resolvers: &[&str],
        routers: &[&str],
    ) -> Vec<Vec<(String, String)>> {
        let mut others = Vec::new();
        let join = |record: &&NetworkRecord| {
            let ways = Ways::of(record, &others);
            let (asks, addresses) = (ways.asks, ["10.0.9.5".parse().unwrap()]);
            let routes = ways.routes(record, &addresses, &ips(resolvers), &ips(routers));
            others.push((asks, (*record).clone()));
            routes
                .into_iter()
                .map(|route| (route.destination, route.next_hop))
                .collect()
        };
        networks.iter().map(join).collect()
    }

    fn to(routes: &[(&str, &str)]) -> Vec<(String, String)> {
        routes
            .iter()
            .map(|(to, by)| ((*to).to_owned(), (*by).to_owned()))
            .collect()
    }

    const RESOLVERS: &[&str] = &["8.8.8.8", "2001:db8::1"];

    #[test]
    fn the_first_overlay_with_a_way_out_has_the_exact_route() {
        let (out, other, back) = (
            NetworkRecord::example(1),
            NetworkRecord::example(2),
            NetworkRecord::example(3).internal(),
        );
        let exact = to(&[("8.8.8.8/32", "10.0.1.1")]);
        assert_eq!(
            joined(&[&out, &other], RESOLVERS, &[]),
            [exact.clone(), vec![]]
        );
        let by_back = to(&[("8.8.8.8/31", "10.0.3.1")]);

        let beside = to(&[("8.8.8.9/32", "10.0.1.1")]);
        assert_eq!(
            joined(&[&back, &out, &other], RESOLVERS, &[]),
            [by_back, [exact, beside].concat(), vec![]]
        );
    }

    #[test]
    fn internal_networks_stand_by_and_lead_nothing_else_away() {
        let (out, back, last) = (
            NetworkRecord::example(1),
            NetworkRecord::example(3).internal(),
            NetworkRecord::example(4).internal(),
        );
        let by_back = to(&[("8.8.8.8/31", "10.0.3.1"), ("8.8.8.9/32", "10.0.1.1")]);
        let by_last = to(&[
            ("8.8.8.10/32", "10.0.1.1"),
            ("8.8.8.11/32", "10.0.1.1"),
            ("8.8.8.8/30", "10.0.4.1"),
        ]);
        assert_eq!(
            joined(&[&out, &back, &last], RESOLVERS, &[])[1..],
            [by_back, by_last]
        );
        let all =
            ["8.8.8.10/32", "8.8.8.11/32", "8.8.8.8/32", "8.8.8.9/32"].map(|to| (to, "10.0.1.1"));
        assert_eq!(joined(&[&back, &last, &out], RESOLVERS, &[])[2], to(&all));
        // A resolver is not its own neighbour.
        let both = joined(&[&out, &back], &["8.8.8.8", "8.8.8.9"], &[]);
        assert_eq!(both[1], to(&[("8.8.8.8/31", "10.0.3.1")]));
    }

    #[test]
    fn the_exact_prefix_of_a_router_is_left_to_its_lan() {
        let (out, back) = (
            NetworkRecord::example(1),
            NetworkRecord::example(3).internal(),
        );
        let resolver = &["192.168.1.1"];
        assert_eq!(
            joined(&[&out], resolver, resolver),
            [to(&[("192.168.1.0/31", "10.0.1.1")])]
        );
        let by_back = to(&[
            ("192.168.1.0/30", "10.0.3.1"),
            ("192.168.1.2/32", "10.0.1.1"),
            ("192.168.1.3/32", "10.0.1.1"),
        ]);
        assert_eq!(joined(&[&out, &back], resolver, resolver)[1], by_back);
    }

    #[test]
    fn neighbours_of_a_resolver_on_a_lan_are_reached_there() {
        let (lan, back) = (
            NetworkRecord::example(4).on_lan(),
            NetworkRecord::example(3).internal(),
        );
        let (resolver, router) = (&["10.0.4.9"], &["10.0.4.1"]);
        let by_back = ("10.0.4.8/31", "10.0.3.1");
        let all = joined(&[&back, &lan], resolver, router);
        assert_eq!(all, [to(&[by_back]), to(&[("10.0.4.8/32", "")])]);
        assert_eq!(
            joined(&[&lan, &back], resolver, router)[1],
            to(&[by_back, ("10.0.4.8/32", "10.0.4.1")])
        );
    }
}
