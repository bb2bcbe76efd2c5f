//! Errors of the ledger, and the refusals that they become for users.

use std::net::IpAddr;

use model::{Kind, NetworkId, Refusal, Subnet};

use crate::Owner;

/// Why the ledger refused a request. Nothing was changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum IpamError {
    /// The prefix has no room for a gateway and an endpoint.
    #[error(
        "subnet {subnet} is too small for a gateway and an endpoint: its prefix may be /{longest} \
         at most"
    )]
    TooSmall {
        /// The requested value.
        subnet: Subnet,
        /// The longest prefix of its family.
        longest: u8,
    },
    /// The prefix overlaps a range that endpoints cannot use.
    #[error("subnet {subnet} touches the {purpose} range, which endpoints cannot use")]
    Reserved {
        /// The requested value.
        subnet: Subnet,
        /// What the range is for.
        purpose: &'static str,
    },
    /// The gateway is not a host address of its subnet.
    #[error(
        "gateway {gateway} is not a host address of subnet {subnet}: those are {first} to {last}"
    )]
    Gateway {
        /// Its subnet.
        subnet: Subnet,
        /// The requested value.
        gateway: IpAddr,
        /// The first host address.
        first: IpAddr,
        /// The last host address.
        last: IpAddr,
    },
    /// The range is not a part of its subnet.
    #[error("range {range} holds no host address of subnet {subnet}, or others")]
    Range {
        /// Its subnet.
        subnet: Subnet,
        /// The requested value.
        range: Subnet,
    },
    /// Two subnets share addresses.
    #[error("subnet {subnet} overlaps {other} of network {network:?}")]
    Overlap {
        /// The requested value.
        subnet: Subnet,
        /// What it overlaps.
        other: Subnet,
        /// The network that owns `other`: possibly the one that is being made.
        network: String,
    },
    /// No piece of a default pool is free: all belong to networks or overlap prefixes to avoid.
    #[error("the default pool {0} has no free subnet left")]
    PoolsExhausted(String),
    /// A network's subnets of one family have too few free addresses.
    #[error(
        "network {network:?} has no room in {subnets}: {used} of {capacity} addresses are given, \
         {wanted} more asked"
    )]
    Exhausted {
        /// The network's name.
        network: String,
        /// Its subnets of that family.
        subnets: String,
        /// Addresses that are given.
        used: u64,
        /// Addresses that can be given.
        capacity: u128,
        /// Addresses that were asked for.
        wanted: usize,
    },
    /// A requested address lies outside the addresses that the network gives.
    #[error(
        "{address} is no address that network {network:?} can give: it gives those of {subnets}"
    )]
    Outside {
        /// The requested value.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// Its subnets of that family.
        subnets: String,
    },
    /// A requested address belongs to another owner.
    #[error("{address} of network {network:?} is held by {holder}")]
    Held {
        /// The requested value.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// Who has it.
        holder: Owner,
    },
    /// The owner that requests an address has another one already.
    #[error("{owner} holds {held} on network {network:?} and cannot have {address} instead")]
    Other {
        /// Who asks.
        owner: Owner,
        /// The requested value.
        address: IpAddr,
        /// What it has of that family.
        held: IpAddr,
        /// The network's name.
        network: String,
    },
    /// The ledger does not know the network.
    #[error("the ledger has no network {0}")]
    NoNetwork(NetworkId),
    /// The ledger already has the network.
    #[error("the ledger already has network {0}")]
    Exists(NetworkId),
    /// Addresses of the network are given.
    #[error("network {network:?} has {leases} leases besides its gateway's")]
    InUse {
        /// The network's name.
        network: String,
        /// How many.
        leases: usize,
    },
}

impl From<IpamError> for Refusal {
    fn from(error: IpamError) -> Self {
        let (kind, next) = match &error {
            IpamError::TooSmall { longest, .. } => (
                Kind::Invalid,
                format!(
                    "give a subnet with a prefix of /{longest} or shorter, such as 10.0.9.0/24"
                ),
            ),
            IpamError::Reserved { .. } => (
                Kind::Invalid,
                "give a private subnet such as 10.0.9.0/24 or fd00:9::/64".to_owned(),
            ),
            IpamError::Gateway { first, .. } => (
                Kind::Invalid,
                format!("give a gateway inside the subnet, such as {first}, or none"),
            ),
            IpamError::Range { subnet, .. } => (
                Kind::Invalid,
                format!("give an --ip-range inside {subnet}, or none"),
            ),
            IpamError::Overlap { .. } => (
                Kind::Conflict,
                "give another subnet, or none to get a free one from the default pools".to_owned(),
            ),
            IpamError::PoolsExhausted(_) => (
                Kind::Exhausted,
                "give a subnet with --subnet, or remove a network that is not used".to_owned(),
            ),
            IpamError::Exhausted { network, .. } => (
                Kind::Exhausted,
                format!(
                    "scale down or remove a service on it (`swarmctl network inspect {network}` \
                     shows its endpoints), or use a network with a larger subnet or --ip-range"
                ),
            ),
            IpamError::Outside { .. } => (
                Kind::Invalid,
                "give an address inside, or none to get a free one".to_owned(),
            ),
            IpamError::Held { network, .. } => (
                Kind::Conflict,
                format!(
                    "give another address, or none to get a free one; `swarmctl network inspect \
                     {network}` shows who has which"
                ),
            ),
            IpamError::Other { .. } => (
                Kind::Conflict,
                "give the address that it has, or none; a new endpoint may have another".to_owned(),
            ),
            IpamError::NoNetwork(_) => (
                Kind::NotFound,
                "`swarmctl network ls` lists what there is".to_owned(),
            ),
            IpamError::Exists(_) => (Kind::Conflict, String::new()),
            IpamError::InUse { .. } => (Kind::Precondition, "remove what uses it first".to_owned()),
        };
        Refusal::new(kind, error.to_string(), next)
    }
}
