//! Rule sets of published ports. The called host marks packets and routes them into the network's
//! namespace without translation; there they are balanced; the host whose task answers sends the
//! answers back by the called host. Each part is added to the guard table of its namespace.

mod answers;
mod grain;
mod host;
mod led;
mod network;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipvs::VirtualService;
use model::{Balance, Mac, Protocol, Subnet, Vni, names::LinkName};
use nftables::{Chain, Ip, Key, Rule, Ruleset, Type, Verdict};

pub use answers::answer;
use grain::Grain;
pub use host::divert;
pub use led::{Led, closed, is_led_elsewhere};
pub use network::balance;

/// The bits of a packet's mark that are ours on the host; the highest is always set.
pub const MARK_MASK: u32 = 0xfff0_0000;
const MARKED: u32 = 0x8000_0000;
/// Stands for `::1` inside a network's namespace, because the kernel takes no packet from or to
/// `::1` from a device (RFC 4291 section 2.5.3). A unique local address (RFC 4193), which never
/// leaves the host.
pub const LOOPBACK: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x6574, 0x6400, 0, 0, 0, 0, 1);
/// `NF_IP_PRI_MANGLE`: after connection tracking, before destinations are translated.
const MANGLE: i32 = -150;
const TRANSLATE_DESTINATION: i32 = -100;
/// The host's set of the ports that lead elsewhere.
const PORTS: &str = "ports";
/// A chain per port begins with this.
const CHAIN: &str = "port-";
/// A set of a port's tasks begins with this: those that keep their callers are among them.
const TASKS: &str = "tasks";
/// `NF_CT_STATE_BIT` of packets that begin a connection.
const NEW: u32 = 8;

/// The mark of packets that are on their way into a network's namespace. Networks that agree in
/// eleven bits cannot both have published ports on one host.
pub fn mark(vni: Vni) -> u32 {
    MARKED | u32::from(vni.mark()) << 20
}

/// Ports of the host that lead to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Unique on the host.
    pub name: String,
    /// Whose they are: what one of a service's ports knows of a caller, all of them do.
    pub service: String,
    /// The mark of its network.
    pub mark: u32,
    /// Their protocol.
    pub protocol: Protocol,
    /// The first.
    pub published: u16,
    /// The port of the tasks that the first leads to.
    pub target: u16,
    /// How many.
    pub count: u16,
    /// The addresses that they are at, of which `0.0.0.0` and `::` are all of their families;
    /// `None`: all.
    pub at: Option<BTreeSet<IpAddr>>,
    /// Who may call; everybody where empty.
    pub allow: Vec<Subnet>,
    /// How one of those that they lead to is chosen; what counts connections takes turns instead.
    pub balance: Balance,
    /// Where they lead, and the weights.
    pub real_servers: BTreeMap<IpAddr, u16>,
}

/// What the host leads elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diversion {
    /// The ports.
    pub ports: Vec<Port>,
    /// The host's ends of the uplinks of their networks, with the marks that lead there.
    pub uplinks: BTreeMap<LinkName, u32>,
    /// The host as tasks see it when it calls them from its loopback, or other tasks do: one
    /// address per family.
    pub own: Vec<IpAddr>,
}

/// What tasks of a network get from callers at other hosts: by published ports, and by their own
/// addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// The network's own subnets: no outsider has an address there.
    pub subnets: Vec<Subnet>,
    /// The routers of the hosts that may be called, with the connection marks that lead back there.
    pub routers: BTreeMap<Mac, u32>,
    /// What may be called: addresses, protocols, first ports and how many.
    pub targets: Vec<(IpAddr, Protocol, u16, u16)>,
    /// Hosts that may call all there is: their routers, and the addresses that they call from.
    pub hosts: Vec<(Mac, IpAddr)>,
    /// Machines outside that may call all there is, by whatever host.
    pub exposed: Vec<Subnet>,
}

fn chain(port: &Port) -> String {
    format!("{CHAIN}{}", port.name)
}

fn last(first: u16, count: u16) -> u16 {
    first.saturating_add(count.saturating_sub(1))
}

/// The ports of a grain.
fn of_grain(ports: &[Port], grain: Grain) -> Vec<&Port> {
    let ports = ports.iter();
    ports
        .filter(|port| Grain::of(port.count) == grain)
        .collect()
}

/// The keys of a port's numbers, behind an address if there is one.
fn keys(port: &Port, at: Option<IpAddr>) -> Vec<Key> {
    let numbers = (port.published, port.count);
    Grain::of(port.count).keys(at, port.protocol, numbers)
}

/// The names of one IP version's sets.
struct AtNames {
    /// (address, protocol, port) to chains.
    ports: &'static str,
    /// (protocol, port) to chains, at all addresses of this version.
    any: &'static str,
    /// (address, protocol, port) of tasks.
    targets: &'static str,
    /// (router, address) of hosts that may call everything.
    hosts: &'static str,
    /// Machines that may.
    exposed: &'static str,
}

fn at_names(version: Ip) -> AtNames {
    match version {
        Ip::V4 => AtNames {
            ports: "ports4",
            any: "everywhere4",
            targets: "targets4",
            hosts: "calling4",
            exposed: "exposed4",
        },
        Ip::V6 => AtNames {
            ports: "ports6",
            any: "everywhere6",
            targets: "targets6",
            hosts: "calling6",
            exposed: "exposed6",
        },
    }
}

fn lead(table: Ruleset, ports: &[Port]) -> Ruleset {
    let (mut table, mut rules) = (table, Vec::new());
    for grain in Grain::ALL {
        let ports = of_grain(ports, grain);
        if grain == Grain::Single || !ports.is_empty() {
            table = lead_some(table, &mut rules, &ports, grain);
        }
    }
    table.chain("lead", Chain::regular(rules))
}

/// By address first: a port is never both at an address and everywhere.
fn lead_some(table: Ruleset, rules: &mut Vec<Rule>, ports: &[&Port], grain: Grain) -> Ruleset {
    let at = |version: Ip| {
        let behind = (Type::from(version).size() / 4) as u8;
        Rule::new()
            .version(version)
            .destination(version, 0)
            .called(behind)
            .verdict_map(&grain.name(at_names(version).ports))
    };
    let of_family = Ip::BOTH
        .into_iter()
        .filter(|version| ports.iter().any(|port| is_of_family(port, *version)));
    let any = |version| {
        Rule::new()
            .version(version)
            .called(0)
            .verdict_map(&grain.name(at_names(version).any))
    };
    rules.extend(Ip::BOTH.map(at));
    let everywhere = grain.name("everywhere");
    rules.push(Rule::new().called(0).verdict_map(&everywhere));
    rules.extend(of_family.clone().map(any));
    let ways = |port: &Port, at: Option<IpAddr>| {
        let way = Verdict::Goto(chain(port));
        let ways = keys(port, at).into_iter();
        ways.map(|key| (key, way.clone())).collect::<Vec<_>>()
    };
    let key = [Type::Protocol, Type::Port];
    let general = ports.iter().filter(|port| port.at.is_none());
    let general = general.flat_map(|port| ways(port, None));
    let table = table.set(&everywhere, grain.verdicts(&key, general));
    let table = of_family.fold(table, |table, version| {
        let all = ports.iter().filter(|port| is_of_family(port, version));
        let all = all.flat_map(|port| ways(port, None));
        table.set(
            &grain.name(at_names(version).any),
            grain.verdicts(&key, all),
        )
    });
    Ip::BOTH.into_iter().fold(table, |table, version| {
        let placed = ports.iter().flat_map(|port| {
            let at = port.at.iter().flatten();
            at.map(move |address| (port, *address))
        });
        let placed = placed
            .filter(|(_, address)| Ip::of(*address) == version && !address.is_unspecified())
            .flat_map(|(port, address)| ways(port, Some(address)));
        let key = [version.into(), Type::Protocol, Type::Port];
        table.set(
            &grain.name(at_names(version).ports),
            grain.verdicts(&key, placed),
        )
    })
}

/// Whether ports are at all addresses of a family and not of the other.
fn is_of_family(port: &Port, version: Ip) -> bool {
    let mut at = port.at.iter().flatten();
    at.any(|address| address.is_unspecified() && Ip::of(*address) == version)
}

fn of_version(port: &Port, version: Ip) -> VirtualService {
    let servers = port
        .real_servers
        .iter()
        .filter(|(address, _)| Ip::of(**address) == version);
    let real_servers = servers
        .map(|(address, weight)| (*address, *weight))
        .collect();
    VirtualService {
        balance: port.balance,
        real_servers,
    }
}

#[cfg(test)]
mod tests {
    use nftables::Connection;

    use super::*;

    #[test]
    fn only_connections_to_a_gone_task_are_forgotten() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let led = Led {
            subnets: vec!["10.0.9.0/24".parse().unwrap()],
            servers: [((17, 53), [ip("10.0.9.5")].into())].into(),
            ranges: [((17, 5000, 5999), [ip("10.0.9.5")].into())].into(),
        };
        let found = |protocol, destination: &str, port, server: &str| {
            led.is_stale(&Connection {
                protocol,
                destination: ip(destination),
                port,
                server: ip(server),
                translated: true,
                answered: true,
            })
        };
        assert!(found(17, "192.0.2.1", 53, "10.0.9.6"), "a removed task");
        assert!(found(17, "192.0.2.1", 54, "10.0.9.5"), "a removed port");
        assert!(found(17, "192.0.2.1", 5999, "10.0.9.6"), "of a range");
        assert!(!found(17, "192.0.2.1", 5999, "10.0.9.5"), "of a range");
        assert!(!found(17, "192.0.2.1", 53, "10.0.9.5"));
        assert!(
            !found(6, "192.0.2.1", 53, "10.0.9.6"),
            "TCP comes to its end"
        );
        assert!(!found(17, "10.0.9.2", 53, "10.0.9.6"), "a virtual IP");
        assert!(
            !found(17, "192.0.2.1", 53, "192.0.2.1"),
            "a task's own call"
        );
    }

    #[test]
    fn a_task_that_goes_is_missed_though_it_had_no_turn_any_more() {
        let ports = |servers: &[(&str, u16)]| {
            let port = Port {
                name: "web-000".to_owned(),
                service: "web".to_owned(),
                mark: MARKED,
                protocol: Protocol::Udp,
                published: 53,
                target: 53,
                count: 1,
                at: None,
                allow: Vec::new(),
                balance: Balance::default(),
                real_servers: servers
                    .iter()
                    .map(|(address, weight)| (address.parse().unwrap(), *weight))
                    .collect(),
            };
            balance(Ruleset::new(nftables::Family::Inet, "t"), &[port])
        };
        let (both, one) = (
            ports(&[("10.0.9.5", 1), ("10.0.9.6", 0)]),
            ports(&[("10.0.9.5", 1)]),
        );
        let change = |after, before| nftables::difference(Some(after), Some(before)).unwrap();
        assert!(is_led_elsewhere(&change(&one, &both)));
        assert!(!is_led_elsewhere(&change(&both, &one)));
    }

    #[test]
    fn marks_stay_in_their_bits_and_are_never_none() {
        for vni in [Vni::FIRST, Vni::LAST, 0x1234.try_into().unwrap()] {
            assert!(mark(vni) & !MARK_MASK == 0 && mark(vni) & MARKED != 0);
        }
    }
}
