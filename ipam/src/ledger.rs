//! The ledger of addresses: networks, their pools, and the owner of each leased address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{AddressWish, Family, NetworkId, NodeId, Subnet, SubnetLease, SubnetSpec};
use serde::{Deserialize, Serialize};

use crate::{IpamError, Owner, leases::Leases, pool::Pool, range, taken::Taken};

/// Every pool and every lease of a cluster. Subnets of networks are disjoint; an address has one
/// owner at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Ledger {
    global_id: [u8; 5],
    books: BTreeMap<NetworkId, Book>,
    /// The subnets of all books.
    #[serde(skip)]
    taken: Taken,
}

/// A ledger as it is written.
#[derive(Deserialize)]
struct Written {
    global_id: [u8; 5],
    books: BTreeMap<NetworkId, Book>,
}

impl From<Written> for Ledger {
    fn from(Written { global_id, books }: Written) -> Self {
        let mut taken = Taken::default();
        for pool in books.values().flat_map(|book| &book.pools) {
            taken.insert(pool.lease().subnet);
        }
        Self {
            global_id,
            books,
            taken,
        }
    }
}

/// One owner's addresses on one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease<'a> {
    /// The network.
    pub network: NetworkId,
    /// Who holds them.
    pub owner: Owner,
    /// One address per family of the network, IPv4 first; the gateway has one per subnet, a
    /// host those that it has on the LAN.
    pub addresses: &'a [IpAddr],
}

/// How full a subnet is, in addresses that endpoints can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The subnet.
    pub subnet: Subnet,
    /// Addresses given, the gateway's included.
    pub used: u64,
    /// Addresses that can be given, the gateway's included.
    pub capacity: u128,
}

impl Ledger {
    /// An empty ledger. `global_id` makes the cluster's /48 of IPv6 unique local addresses (RFC
    /// 4193 section 3.2).
    pub fn new(global_id: [u8; 5]) -> Self {
        Self {
            global_id,
            ..Self::default()
        }
    }

    /// The lowest free IPv4 and IPv6 subnet of the default pools that overlap nothing in `avoid`.
    pub fn default_subnets(&self, avoid: &[Subnet]) -> Result<[Subnet; 2], IpamError> {
        let taken = self.taken.pieces();
        let lowest = |family| range::default_subnet(family, self.global_id, taken, avoid);
        Ok([lowest(Family::V4)?, lowest(Family::V6)?])
    }

    /// Gives these subnets to a network; their gateways' addresses are taken at once. Errors: a
    /// subnet that overlaps another, is too small, or lies where endpoints cannot; nothing is
    /// changed then.
    pub fn add_network(
        &mut self,
        id: NetworkId,
        name: &str,
        subnets: &[SubnetSpec],
    ) -> Result<Vec<SubnetLease>, IpamError> {
        if self.books.contains_key(&id) {
            return Err(IpamError::Exists(id));
        }
        let mut leases: Vec<SubnetLease> = Vec::new();
        for spec in subnets {
            let lease = range::admit(spec)?;
            let own = leases.iter().map(|lease| (name, *lease));
            // All are looked through only to name one that overlaps.
            let is_taken = self.taken.overlaps(lease.subnet);
            let others = is_taken.then(|| self.subnets()).into_iter().flatten();
            if let Some((network, other)) = others
                .chain(own)
                .find(|(_, other)| other.subnet.overlaps(&lease.subnet))
            {
                return Err(IpamError::Overlap {
                    subnet: lease.subnet,
                    other: other.subnet,
                    network: network.to_owned(),
                });
            }
            leases.push(lease);
        }
        let ranges: Vec<Option<Subnet>> = subnets.iter().map(|spec| spec.range).collect();
        self.books.insert(id, Book::new(name, &leases, &ranges));
        for lease in &leases {
            self.taken.insert(lease.subnet);
        }
        Ok(leases)
    }

    /// Lets a host hold those of its addresses that lie in a network's subnets and that nobody else
    /// holds.
    pub fn hold(&mut self, network: NetworkId, node: NodeId, addresses: &[IpAddr]) {
        let Some(book) = self.books.get_mut(&network) else {
            return;
        };
        book.release(Owner::Node(node));
        let is_free =
            |address: &&IpAddr| book.pool(**address).is_some() && book.holder(**address).is_none();
        let free: BTreeSet<IpAddr> = addresses.iter().filter(is_free).copied().collect();
        for &address in &free {
            book.pools
                .iter_mut()
                .filter(|pool| pool.lease().subnet.contains(address))
                .for_each(|pool| pool.take(address));
        }
        if !free.is_empty() {
            book.leases
                .insert(Owner::Node(node), free.into_iter().collect());
        }
    }

    /// Who holds an address of a network.
    pub fn holder(&self, network: NetworkId, address: IpAddr) -> Option<Owner> {
        self.books.get(&network)?.holder(address)
    }

    /// Takes the subnets of a network back. Errors: a slot, virtual IP or container still holds an
    /// address there.
    pub fn remove_network(&mut self, id: NetworkId) -> Result<(), IpamError> {
        let book = self.books.get(&id).ok_or(IpamError::NoNetwork(id))?;
        let in_use =
            |owner: &&Owner| matches!(owner, Owner::Vip(_) | Owner::Slot(..) | Owner::Container(_));
        let leases = book.leases.keys().filter(in_use).count();
        if leases > 0 {
            return Err(IpamError::InUse {
                network: book.name.clone(),
                leases,
            });
        }
        if let Some(book) = self.books.remove(&id) {
            for pool in &book.pools {
                self.taken.remove(pool.lease().subnet);
            }
        }
        Ok(())
    }

    /// Leases to each owner, on each network, one address per family of the network. An owner that
    /// has addresses keeps them. All or nothing. Errors: unknown network; too few free addresses.
    pub fn allocate(&mut self, networks: &[NetworkId], owners: &[Owner]) -> Result<(), IpamError> {
        self.check_room(networks, owners)?;
        for id in networks {
            let Some(book) = self.books.get_mut(id) else {
                continue;
            };
            owners.iter().for_each(|&owner| book.allocate(owner));
        }
        Ok(())
    }

    /// Whether [`Ledger::allocate`] would give each of these owners its addresses on each of these
    /// networks.
    pub fn has_room(&self, networks: &[NetworkId], owners: &[Owner]) -> bool {
        self.check_room(networks, owners).is_ok()
    }

    fn check_room(&self, networks: &[NetworkId], owners: &[Owner]) -> Result<(), IpamError> {
        networks.iter().try_for_each(|id| {
            let book = self.books.get(id).ok_or(IpamError::NoNetwork(*id))?;
            book.check_room(owners)
        })
    }

    /// Leases to an owner the wished IPv4 and IPv6 addresses, where the network has the family.
    /// Returns all its addresses, IPv4 first. Addresses that it has already stay. All or nothing.
    /// Errors: unknown network; too few free addresses; an address that the network cannot give,
    /// that another owner has, or that differs from the owner's.
    pub fn grant(
        &mut self,
        network: NetworkId,
        owner: Owner,
        wishes: [AddressWish; 2],
    ) -> Result<Vec<IpAddr>, IpamError> {
        let book = self
            .books
            .get_mut(&network)
            .ok_or(IpamError::NoNetwork(network))?;
        let [ipv4, ipv6] = wishes;
        let plan = [
            book.plan(owner, Family::V4, ipv4)?,
            book.plan(owner, Family::V6, ipv6)?,
        ];
        let fresh: Vec<IpAddr> = plan
            .into_iter()
            .filter_map(|step| book.carry_out(step))
            .collect();
        if !fresh.is_empty() {
            book.leases.extend(owner, fresh);
        }
        Ok(self.addresses(network, owner).to_vec())
    }

    /// Renames a network.
    pub fn rename(&mut self, network: NetworkId, name: &str) {
        if let Some(book) = self.books.get_mut(&network) {
            name.clone_into(&mut book.name);
        }
    }

    /// Releases an owner's addresses; whether it had any. A gateway keeps its address while its
    /// network exists.
    pub fn release(&mut self, network: NetworkId, owner: Owner) -> bool {
        owner != Owner::Gateway
            && self
                .books
                .get_mut(&network)
                .is_some_and(|book| book.release(owner))
    }

    /// The addresses that an owner holds on a network: one per family, IPv4 first; empty where it
    /// holds none.
    pub fn addresses(&self, network: NetworkId, owner: Owner) -> &[IpAddr] {
        self.books
            .get(&network)
            .and_then(|book| book.leases.get(&owner))
            .map_or(&[], Vec::as_slice)
    }

    /// Every lease, by network and owner.
    pub fn leases(&self) -> impl Iterator<Item = Lease<'_>> {
        self.books.iter().flat_map(|(&network, book)| {
            book.leases.iter().map(move |(&owner, addresses)| Lease {
                network,
                owner,
                addresses,
            })
        })
    }

    /// How full each subnet of a network is, in the order in which they were given; empty for an
    /// unknown network.
    pub fn usage(&self, network: NetworkId) -> Vec<Usage> {
        let pools = self.books.get(&network).map_or(&[][..], |book| &book.pools);
        let usage = |pool: &Pool| Usage {
            subnet: pool.lease().subnet,
            used: pool.used(),
            capacity: pool.capacity(),
        };
        pools.iter().map(usage).collect()
    }

    fn subnets(&self) -> impl Iterator<Item = (&str, SubnetLease)> {
        self.books.values().flat_map(|book| {
            book.pools
                .iter()
                .map(|pool| (book.name.as_str(), pool.lease()))
        })
    }
}

/// How one wish for an address is met.
#[derive(Clone, Copy)]
enum Step {
    /// Nothing new.
    Keep,
    /// The next free address of a family.
    Give(Family),
    /// The next free one of these.
    GiveOf(Subnet),
    /// This one, which is free.
    Take(IpAddr),
}

/// One network's pools and leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    name: String,
    pools: Vec<Pool>,
    leases: Leases,
}

impl Book {
    fn new(name: &str, subnets: &[SubnetLease], ranges: &[Option<Subnet>]) -> Self {
        let gateways = subnets.iter().map(|lease| lease.gateway).collect();
        let mut leases = Leases::default();
        leases.insert(Owner::Gateway, gateways);
        Self {
            name: name.to_owned(),
            pools: subnets
                .iter()
                .zip(ranges)
                .map(|(lease, range)| Pool::new(*lease, *range))
                .collect(),
            leases,
        }
    }

    /// How a wish for one family will be met. Changes nothing.
    fn plan(&self, owner: Owner, family: Family, wish: AddressWish) -> Result<Step, IpamError> {
        let held = self
            .leases
            .get(&owner)
            .and_then(|held| held.iter().find(|held| Family::of(**held) == family));
        let network = || self.name.clone();
        match (held, wish.exact) {
            (Some(&held), Some(address)) if held != address => Err(IpamError::Other {
                owner,
                address,
                held,
                network: network(),
            }),
            (Some(_), _) => Ok(Step::Keep),
            (None, Some(address)) if Family::of(address) == family && self.admits(address) => {
                match self.holder(address) {
                    Some(holder) => Err(IpamError::Held {
                        address,
                        network: network(),
                        holder,
                    }),
                    None => Ok(Step::Take(address)),
                }
            }
            (None, Some(address)) => {
                let subnets = self.subnets(family);
                Err(IpamError::Outside {
                    address,
                    network: network(),
                    subnets,
                })
            }
            (None, None) if wish.wanted && self.has(family) => match wish.within {
                Some(range) => self
                    .check_range(family, range)
                    .map(|()| Step::GiveOf(range)),
                None => self.check_family(family, 1).map(|()| Step::Give(family)),
            },
            (None, None) => Ok(Step::Keep),
        }
    }

    fn carry_out(&mut self, step: Step) -> Option<IpAddr> {
        match step {
            Step::Keep => None,
            Step::Give(family) => self.give(family),
            Step::GiveOf(range) => self
                .pools
                .iter_mut()
                .find(|pool| pool.lease().subnet.covers(&range))?
                .give_of(range),
            Step::Take(address) => {
                self.pools
                    .iter_mut()
                    .filter(|pool| pool.admits(address))
                    .for_each(|pool| pool.take(address));
                Some(address)
            }
        }
    }

    fn admits(&self, address: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.admits(address))
    }

    fn has(&self, family: Family) -> bool {
        self.pools.iter().any(|pool| pool.family() == family)
    }

    fn holder(&self, address: IpAddr) -> Option<Owner> {
        self.leases.holder(address)
    }

    /// Those of a family, for people.
    fn subnets(&self, family: Family) -> String {
        let pools = self.pools.iter().filter(|pool| pool.family() == family);
        let subnets: Vec<String> = pools.map(|pool| pool.lease().subnet.to_string()).collect();
        if subnets.is_empty() {
            "no subnet of that family".to_owned()
        } else {
            subnets.join(" and ")
        }
    }

    fn check_room(&self, owners: &[Owner]) -> Result<(), IpamError> {
        let fresh: BTreeSet<&Owner> = owners
            .iter()
            .filter(|owner| !self.leases.contains_key(owner))
            .collect();
        Family::ALL
            .into_iter()
            .filter(|family| self.has(*family))
            .try_for_each(|family| self.check_family(family, fresh.len()))
    }

    fn check_family(&self, family: Family, wanted: usize) -> Result<(), IpamError> {
        let pools = || {
            self.pools
                .iter()
                .filter(move |pool| pool.family() == family)
        };
        let (used, capacity) = (
            pools().map(Pool::used).sum(),
            pools().map(Pool::capacity).sum::<u128>(),
        );
        if capacity - u128::from(used) >= wanted as u128 {
            return Ok(());
        }
        let (network, subnets) = (self.name.clone(), self.subnets(family));
        Err(IpamError::Exhausted {
            network,
            subnets,
            used,
            capacity,
            wanted,
        })
    }

    fn check_range(&self, family: Family, range: Subnet) -> Result<(), IpamError> {
        let mut of_family = self.pools.iter().filter(|pool| pool.family() == family);
        let Some(pool) = of_family
            .clone()
            .find(|pool| pool.lease().subnet.covers(&range))
        else {
            let subnet = of_family.next().map_or(range, |pool| pool.lease().subnet);
            return Err(IpamError::Range { subnet, range });
        };
        if pool.has_room_of(range) {
            return Ok(());
        }
        let (network, subnets, capacity) = (
            self.name.clone(),
            range.to_string(),
            pool.capacity_of(range),
        );
        let used = u64::try_from(capacity).unwrap_or(u64::MAX);
        Err(IpamError::Exhausted {
            network,
            subnets,
            used,
            capacity,
            wanted: 1,
        })
    }

    /// The next free address of a family.
    fn give(&mut self, family: Family) -> Option<IpAddr> {
        self.pools
            .iter_mut()
            .find(|pool| pool.family() == family && pool.has_room())
            .and_then(Pool::give)
    }

    fn allocate(&mut self, owner: Owner) {
        if self.leases.contains_key(&owner) {
            return;
        }
        let addresses = Family::ALL.map(|family| self.give(family));
        self.leases
            .insert(owner, addresses.into_iter().flatten().collect());
    }

    fn pool(&self, address: IpAddr) -> Option<&Pool> {
        self.pools
            .iter()
            .find(|pool| pool.lease().subnet.contains(address))
    }

    fn release(&mut self, owner: Owner) -> bool {
        let Some(addresses) = self.leases.remove(owner) else {
            return false;
        };
        for address in addresses {
            if let Some(pool) = self
                .pools
                .iter_mut()
                .find(|pool| pool.lease().subnet.contains(address))
            {
                pool.give_back(address);
            }
        }
        true
    }
}
