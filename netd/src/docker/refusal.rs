//! Refusals in the engine's format.

use model::{Family, Kind, NetworkInfo, Refusal, Subnet};

/// The request is invalid.
pub(crate) fn invalid(cause: impl ToString, next: &str) -> Refusal {
    Refusal::new(Kind::Invalid, cause.to_string(), next)
}

/// A network has no such prefix.
pub(crate) fn lacks(network: &NetworkInfo, subnet: Option<Subnet>, family: Family) -> Refusal {
    let has: Vec<String> = network
        .status
        .subnets
        .iter()
        .map(|lease| lease.subnet.to_string())
        .collect();
    let (name, has) = (&network.spec.name, has.join(", "));
    match (subnet, family) {
        (Some(subnet), _) => {
            let cause =
                format!("network {name} of the cluster has not the subnet {subnet}, but {has}");
            Refusal::new(
                Kind::Conflict,
                cause,
                "give one that it has, or no --subnet at all",
            )
        }
        (None, Family::V6) => {
            let cause = format!("network {name} of the cluster has no IPv6 prefix, but {has}");
            Refusal::new(Kind::Conflict, cause, "leave --ipv6 out")
        }
        (None, Family::V4) => {
            let cause = format!("network {name} of the cluster has no IPv4 prefix, but {has}");
            Refusal::new(
                Kind::Conflict,
                cause,
                "Docker wants one: attach another network",
            )
        }
    }
}
