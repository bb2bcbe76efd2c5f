//! IPVS services as values, and the difference between two states. Pure.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use model::{Balance, Family, Scheduler};

use crate::VirtualService;

/// `IP_VS_SVC_F_PERSISTENT`.
const PERSISTENT: u32 = 1;
/// `IP_VS_SVC_F_SCHED_SH_FALLBACK` and `IP_VS_SVC_F_SCHED_MH_FALLBACK`: a client whose server has
/// weight 0 gets another one.
const FALLBACK: u32 = 8;
/// Seconds by which IPVS counts a persistence where there is none.
const NO_TIMEOUT: u32 = 0;

/// Everything in one namespace.
pub(crate) type Services = BTreeMap<Key, Service>;

/// What IPVS tells services apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The family of its packets.
    pub family: Family,
    /// Which packets.
    pub target: Target,
}

/// Which packets are a service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Those with a mark: all that we make.
    Mark(u32),
    /// Those to an address; with the protocol, and the port in the network's byte order.
    Address(u16, IpAddr, u16),
}

/// A service of IPVS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its scheduler's name.
    pub scheduler: String,
    /// `IP_VS_SVC_F_*`.
    pub flags: u32,
    /// Seconds of persistence.
    pub timeout: u32,
    /// Which clients count as one: a netmask for IPv4, a prefix length for IPv6.
    pub netmask: u32,
    /// By address, and port in the network's byte order; port 0 is the one that the client calls.
    pub destinations: BTreeMap<(IpAddr, u16), Destination>,
}

/// A real server of IPVS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Its weight.
    pub weight: u32,
    /// How packets get there: 0 is address translation.
    pub method: u32,
    /// Connections at which it takes no more; 0 is none.
    pub upper: u32,
    /// Connections at which it takes some again.
    pub lower: u32,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Request {
    NewService(Key, Service),
    SetService(Key, Service),
    DelService(Key),
    NewDestination(Key, (IpAddr, u16), Destination),
    SetDestination(Key, (IpAddr, u16), Destination),
    DelDestination(Key, (IpAddr, u16)),
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            Target::Mark(mark) => write!(out, "{} mark {mark:#x}", self.family),
            Target::Address(protocol, address, port) => {
                write!(
                    out,
                    "{address} port {} of protocol {protocol}",
                    u16::from_be(port)
                )
            }
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewService(key, service) => {
                write!(out, "add IPVS service {key}, {}", service.scheduler)
            }
            Self::SetService(key, service) => {
                write!(out, "change IPVS service {key} to {}", service.scheduler)
            }
            Self::DelService(key) => write!(out, "delete IPVS service {key}"),
            Self::NewDestination(key, (address, _), _) => {
                write!(out, "add {address} to IPVS service {key}")
            }
            Self::SetDestination(key, (address, _), to) => {
                write!(
                    out,
                    "set weight {} of {address} of IPVS service {key}",
                    to.weight
                )
            }
            Self::DelDestination(key, (address, _)) => {
                write!(out, "delete {address} from IPVS service {key}")
            }
        }
    }
}

impl Service {
    /// What makes IPVS balance so.
    pub(crate) fn of(service: &VirtualService, family: Family) -> Self {
        let Balance {
            scheduler,
            affinity,
        } = service.balance;
        let persistent = affinity.map_or(0, |_| PERSISTENT);
        let fallback = if matches!(scheduler, Scheduler::Sh | Scheduler::Mh) {
            FALLBACK
        } else {
            0
        };
        let destination = |(&address, &weight): (&IpAddr, &u16)| {
            (
                (address, 0),
                Destination {
                    weight: u32::from(weight),
                    ..Destination::default()
                },
            )
        };
        Self {
            scheduler: scheduler.as_str().to_owned(),
            flags: persistent | fallback,
            timeout: affinity.unwrap_or(NO_TIMEOUT),
            netmask: match family {
                Family::V4 => u32::MAX,
                Family::V6 => 128,
            },
            destinations: service.real_servers.iter().map(destination).collect(),
        }
    }

    /// How it balances. What of it we would have made in another way shows when it is made again.
    pub(crate) fn balances(&self) -> VirtualService {
        let affinity = (self.flags & PERSISTENT != 0).then_some(self.timeout);
        let weight = |to: &Destination| u16::try_from(to.weight).unwrap_or(u16::MAX);
        VirtualService {
            balance: Balance {
                scheduler: self.scheduler.parse().unwrap_or_default(),
                affinity,
            },
            real_servers: self
                .destinations
                .iter()
                .map(|((address, _), to)| (*address, weight(to)))
                .collect(),
        }
    }

    fn is_alike(&self, other: &Self) -> bool {
        let of = |service: &Self| {
            (
                service.scheduler.clone(),
                service.flags,
                service.timeout,
                service.netmask,
            )
        };
        of(self) == of(other)
    }
}

/// What leads from what is there to what should be: nothing is touched that is right.
pub(crate) fn difference(desired: &Services, observed: &Services) -> Vec<Request> {
    let mut requests = Vec::new();
    for (&key, service) in desired {
        let old = observed.get(&key);
        match old {
            None => requests.push(Request::NewService(
                key,
                Service {
                    destinations: BTreeMap::new(),
                    ..service.clone()
                },
            )),
            Some(old) if !old.is_alike(service) => {
                requests.push(Request::SetService(
                    key,
                    Service {
                        destinations: BTreeMap::new(),
                        ..service.clone()
                    },
                ));
            }
            Some(_) => {}
        }
        let found = |address| old.and_then(|old| old.destinations.get(address));
        for (address, to) in &service.destinations {
            match found(address) {
                None => requests.push(Request::NewDestination(key, *address, *to)),
                Some(old) if old != to => {
                    requests.push(Request::SetDestination(key, *address, *to))
                }
                Some(_) => {}
            }
        }
        let gone = old.into_iter().flat_map(|old| old.destinations.keys());
        let gone = gone.filter(|address| !service.destinations.contains_key(address));
        requests.extend(gone.map(|address| Request::DelDestination(key, *address)));
    }
    let gone = observed.keys().filter(|key| !desired.contains_key(key));
    requests.extend(gone.map(|key| Request::DelService(*key)));
    requests
}
