//! The virtual services of one network as a table, and the difference between two tables. Pure.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    net::IpAddr,
};

use model::{Balance, NetworkConfig, NetworkId, NodeConfig, SandboxId, Scheduler, ServiceId};

/// The virtual services of one network on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By virtual IP.
    pub services: BTreeMap<IpAddr, VirtualService>,
    /// This host's own endpoints, each with the gateway's address of its family: the one that an
    /// endpoint sees calling when it is balanced to itself.
    pub hairpins: BTreeMap<IpAddr, IpAddr>,
}

/// A virtual IP: every protocol and port of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualService {
    /// How it chooses among them.
    pub balance: Balance,
    /// Real servers, of the virtual IP's family, and their weights. 0: no new connections.
    pub real_servers: BTreeMap<IpAddr, u16>,
}

/// One change of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    /// A virtual service and its real servers go.
    DelService { vip: IpAddr },
    /// A new virtual service, without real servers yet, or one that chooses in another way.
    AddService { vip: IpAddr, balance: Balance },
    /// A real server goes.
    DelRealServer { vip: IpAddr, address: IpAddr },
    /// A new real server.
    AddRealServer {
        vip: IpAddr,
        address: IpAddr,
        weight: u16,
    },
    /// A real server gets another weight.
    SetWeight {
        vip: IpAddr,
        address: IpAddr,
        weight: u16,
    },
    /// An endpoint is no longer here.
    DelHairpin { address: IpAddr },
    /// An endpoint is here, or has another gateway.
    AddHairpin { address: IpAddr, gateway: IpAddr },
    /// The table is as it should be, but not all that the engine keeps in the kernel for it.
    Repair,
}

impl fmt::Display for Op {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::DelService { vip } => write!(out, "delete virtual service {vip}"),
            Op::AddService { vip, balance } => {
                write!(out, "add virtual service {vip}, {}", balance.scheduler)?;
                balance.affinity.map_or(Ok(()), |seconds| {
                    write!(out, " with an affinity of {seconds} s")
                })
            }
            Op::DelRealServer { vip, address } => {
                write!(out, "delete real server {address} of {vip}")
            }
            Op::AddRealServer {
                vip,
                address,
                weight,
            } => {
                write!(
                    out,
                    "add real server {address} of {vip} with weight {weight}"
                )
            }
            Op::SetWeight {
                vip,
                address,
                weight,
            } => {
                write!(out, "set weight {weight} of real server {address} of {vip}")
            }
            Op::DelHairpin { address } => write!(out, "delete local endpoint {address}"),
            Op::AddHairpin { address, gateway } => {
                write!(out, "add local endpoint {address} behind {gateway}")
            }
            Op::Repair => out.write_str("repair the balancer's objects in the kernel"),
        }
    }
}

impl VirtualService {
    /// Whether one of its real servers takes new connections.
    pub fn is_open(&self) -> bool {
        self.real_servers.values().any(|&weight| weight > 0)
    }

    /// The real servers that take new connections, and how often each has its turn: all alike where
    /// its way to choose does not look at weights.
    pub fn shares(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let alike = matches!(self.balance.scheduler, Scheduler::Rr | Scheduler::Lc);
        let open = self.real_servers.iter().filter(|(_, weight)| **weight > 0);
        open.map(move |(&address, &weight)| (address, if alike { 1 } else { u32::from(weight) }))
    }
}

impl Op {
    /// The virtual IP that it is about.
    pub fn vip(&self) -> Option<IpAddr> {
        match *self {
            Op::DelService { vip }
            | Op::AddService { vip, .. }
            | Op::DelRealServer { vip, .. }
            | Op::AddRealServer { vip, .. }
            | Op::SetWeight { vip, .. } => Some(vip),
            Op::DelHairpin { .. } | Op::AddHairpin { .. } | Op::Repair => None,
        }
    }
}

impl Table {
    /// The part of it that these ops are about.
    pub fn part(&self, ops: &[Op]) -> Self {
        let vips = ops.iter().filter_map(Op::vip);
        let services = vips.filter_map(|vip| Some((vip, self.services.get(&vip)?.clone())));
        let hairpins = ops.iter().filter_map(|op| match op {
            Op::DelHairpin { address } | Op::AddHairpin { address, .. } => {
                Some((*address, *self.hairpins.get(address)?))
            }
            _ => None,
        });
        Self {
            services: services.collect(),
            hairpins: hairpins.collect(),
        }
    }

    /// What a host should balance on a network.
    pub fn of(config: &NodeConfig, network: NetworkId) -> Self {
        Self {
            services: services(config, network).collect(),
            hairpins: hairpins(config, network),
        }
    }

    /// What should be balanced in a sandbox itself: the networks whose packets pass no namespace of
    /// ours but that.
    pub fn of_sandbox(config: &NodeConfig, sandbox: SandboxId) -> Self {
        let is_lan = |id| {
            config
                .networks
                .get(&id)
                .is_some_and(|network: &NetworkConfig| network.driver.parent().is_some())
        };
        let local = config
            .endpoints
            .values()
            .filter(|endpoint| endpoint.sandbox == sandbox && is_lan(endpoint.network));
        let networks: BTreeSet<NetworkId> = local.map(|endpoint| endpoint.network).collect();
        // Who is balanced to itself sees nobody else's address: there is nothing to be hidden.
        Self {
            services: networks
                .into_iter()
                .flat_map(|network| services(config, network))
                .collect(),
            hairpins: BTreeMap::new(),
        }
    }

    /// The ops that lead from here to `desired`. Empty if there is nothing to change.
    pub fn ops(&self, desired: &Table) -> Vec<Op> {
        let changed: Vec<_> = pairs(&self.services, &desired.services)
            .filter(|(_, old, service)| old != service)
            .collect();
        let gone = changed.iter().filter(|(.., service)| service.is_none());
        let mut ops: Vec<Op> = gone.map(|&(&vip, ..)| Op::DelService { vip }).collect();
        for (&vip, old, service) in changed {
            let Some(service) = service else { continue };
            if old.map(|old| old.balance) != Some(service.balance) {
                ops.push(Op::AddService {
                    vip,
                    balance: service.balance,
                });
            }
            let none = BTreeMap::new();
            ops.extend(real_servers(
                vip,
                &service.real_servers,
                old.map_or(&none, |old| &old.real_servers),
            ));
        }
        let gone = self
            .hairpins
            .keys()
            .filter(|address| !desired.hairpins.contains_key(address));
        ops.extend(gone.map(|&address| Op::DelHairpin { address }));
        let new = desired
            .hairpins
            .iter()
            .filter(|(address, gateway)| self.hairpins.get(address) != Some(gateway));
        ops.extend(new.map(|(&address, &gateway)| Op::AddHairpin { address, gateway }));
        ops
    }

    /// This table changed by `op`. An op on a virtual service that is not there changes nothing.
    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::DelService { vip } => drop(self.services.remove(&vip)),
            Op::AddService { vip, balance } => {
                self.services.entry(vip).or_default().balance = balance
            }
            Op::DelRealServer { vip, address } => {
                self.services
                    .get_mut(&vip)
                    .and_then(|service| service.real_servers.remove(&address));
            }
            Op::AddRealServer {
                vip,
                address,
                weight,
            }
            | Op::SetWeight {
                vip,
                address,
                weight,
            } => {
                self.services
                    .get_mut(&vip)
                    .and_then(|service| service.real_servers.insert(address, weight));
            }
            Op::DelHairpin { address } => drop(self.hairpins.remove(&address)),
            Op::AddHairpin { address, gateway } => drop(self.hairpins.insert(address, gateway)),
            Op::Repair => {}
        }
    }
}

/// What two maps have under each key, side by side. Their walks cost a fraction of as many
/// look-ups, which matters where thousands of services are compared to find the one that has
/// changed.
fn pairs<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let old = if order.is_le() { old.next() } else { None };
        let new = if order.is_ge() { new.next() } else { None };
        let (key, _) = old.or(new)?;
        Some((
            key,
            old.map(|(_, value)| value),
            new.map(|(_, value)| value),
        ))
    })
}

/// A network's virtual services, by virtual IP.
fn services(
    config: &NodeConfig,
    network: NetworkId,
) -> impl Iterator<Item = (IpAddr, VirtualService)> {
    let all = (network, ServiceId(0))..=(network, ServiceId(u64::MAX));
    config.services.range(all).flat_map(|(_, service)| {
        let servers_of = |vip: &IpAddr| {
            let servers = service.real_servers.iter();
            let servers = servers.filter(|(address, _)| address.is_ipv4() == vip.is_ipv4());
            servers
                .map(|(address, weight)| (*address, *weight))
                .collect()
        };
        service.vips.iter().map(move |vip| {
            let service = VirtualService {
                balance: service.balance,
                real_servers: servers_of(vip),
            };
            (*vip, service)
        })
    })
}

fn hairpins(config: &NodeConfig, network: NetworkId) -> BTreeMap<IpAddr, IpAddr> {
    let Some(record) = config.networks.get(&network) else {
        return BTreeMap::new();
    };
    let local = config
        .endpoints
        .values()
        .filter(|endpoint| endpoint.network == network && endpoint.node == config.node);
    let addresses: BTreeSet<IpAddr> = local
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
        .collect();
    let gateway = |address: IpAddr| {
        record
            .subnets
            .iter()
            .find(|lease| lease.subnet.contains(address))
    };
    addresses
        .into_iter()
        .filter_map(|address| Some((address, gateway(address)?.gateway)))
        .collect()
}

fn real_servers(
    vip: IpAddr,
    desired: &BTreeMap<IpAddr, u16>,
    observed: &BTreeMap<IpAddr, u16>,
) -> Vec<Op> {
    let gone = observed
        .keys()
        .filter(|address| !desired.contains_key(address));
    let mut ops: Vec<Op> = gone
        .map(|&address| Op::DelRealServer { vip, address })
        .collect();
    for (&address, &weight) in desired {
        match observed.get(&address) {
            None => ops.push(Op::AddRealServer {
                vip,
                address,
                weight,
            }),
            Some(&old) if old != weight => ops.push(Op::SetWeight {
                vip,
                address,
                weight,
            }),
            Some(_) => {}
        }
    }
    ops
}

#[cfg(test)]
pub(crate) mod tests {
    use model::{
        DriverConfig, EndpointConfig, EndpointId, Mac, NodeId, ServiceId, SubnetLease,
        VirtualServiceConfig, Vni,
    };
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    /// Tables of a few addresses of both families, so that two of them have much in common.
    pub(crate) fn tables() -> impl Strategy<Value = Table> {
        let address = |v6: bool, low: u8| match v6 {
            false => IpAddr::from([10, 0, 9, low]),
            true => IpAddr::from([0xfd00, 9, 0, 0, 0, 0, 0, u16::from(low)]),
        };
        let servers = btree_map(
            10u8..14,
            prop_oneof![Just(0u16), Just(1), 2u16..9, Just(u16::MAX)],
            0..4,
        );
        let balances = (
            0..Scheduler::ALL.len(),
            prop_oneof![Just(None), (1u32..100_000).prop_map(Some)],
        );
        let services = btree_map((any::<bool>(), 1u8..6), (balances, servers), 0..6);
        let hairpins = btree_map((any::<bool>(), 10u8..14), 1u8..3, 0..4);
        (services, hairpins).prop_map(move |(services, hairpins)| {
            let services =
                services
                    .into_iter()
                    .map(|((v6, vip), ((scheduler, affinity), servers))| {
                        let balance = Balance {
                            scheduler: Scheduler::ALL[scheduler],
                            affinity,
                        };
                        let real_servers = servers
                            .into_iter()
                            .map(|(low, weight)| (address(v6, low), weight))
                            .collect();
                        (
                            address(v6, vip),
                            VirtualService {
                                balance,
                                real_servers,
                            },
                        )
                    });
            let hairpins = hairpins
                .into_iter()
                .map(|((v6, low), gateway)| (address(v6, low), address(v6, gateway)));
            Table {
                services: services.collect(),
                hairpins: hairpins.collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn the_ops_lead_to_what_is_desired(observed in tables(), desired in tables()) {
            let mut table = observed.clone();
            observed.ops(&desired).iter().for_each(|op| table.apply(op));
            prop_assert_eq!(&table, &desired);
            prop_assert_eq!(table.ops(&desired), vec![]);
        }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_table_has_its_own_network_only_and_families_never_mix() {
        let mut config = NodeConfig::empty(NodeId(1));
        let (network, other) = (NetworkId(1), NetworkId(2));
        let lease = |subnet: &str, gateway: &str| SubnetLease {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        let subnets = vec![
            lease("10.0.9.0/24", "10.0.9.1"),
            lease("fd00:9::/64", "fd00:9::1"),
        ];
        let record = NetworkConfig {
            name: "my-net".to_owned(),
            vni: Vni::FIRST,
            driver: DriverConfig::Overlay {
                port: 4789,
                encrypted: false,
            },
            subnets,
            internal: false,
            mtu: None,
            reach: Default::default(),
        };
        config.networks.insert(network, record);
        for (id, network, node, address) in [
            (1, network, 1, "10.0.9.5"),
            (2, network, 2, "10.0.9.6"),
            (3, other, 1, "10.0.8.5"),
        ] {
            let endpoint = EndpointConfig {
                network,
                node: NodeId(node),
                sandbox: SandboxId(id),
                addresses: addresses(&[address]),
                mac: Mac([0; 6]),
            };
            config.endpoints.insert(EndpointId(id), endpoint);
        }
        let real_servers: BTreeMap<IpAddr, u16> = addresses(&["10.0.9.5", "fd00:9::5"])
            .into_iter()
            .zip([1, 2])
            .collect();
        for (network, vips) in [
            (network, &["10.0.9.2", "fd00:9::2"][..]),
            (other, &["10.0.8.2"]),
        ] {
            let service = VirtualServiceConfig {
                name: "web".to_owned(),
                vips: addresses(vips),
                balance: Balance::default(),
                real_servers: real_servers.clone(),
            };
            config.services.insert((network, ServiceId(1)), service);
        }
        let service = |server: &str, weight| VirtualService {
            balance: Balance::default(),
            real_servers: BTreeMap::from([(server.parse().unwrap(), weight)]),
        };
        let services = addresses(&["10.0.9.2", "fd00:9::2"])
            .into_iter()
            .zip([service("10.0.9.5", 1), service("fd00:9::5", 2)]);
        let hairpins = addresses(&["10.0.9.5"])
            .into_iter()
            .zip(addresses(&["10.0.9.1"]));
        assert_eq!(
            Table::of(&config, network),
            Table {
                services: services.collect(),
                hairpins: hairpins.collect()
            }
        );
    }
}
