//! What virtual IPs have been used for.

use std::{io, net::IpAddr};

use ipvs::{Balancer, BalancerError, Clients, IpVs, Nftables, Traffic};
use model::{BalancerKind, NetworkId, names::Namespace};

use super::{
    super::namespace,
    failure::{not_entered, said},
};

/// What has passed by virtual IPs of a network on this host; changes nothing.
pub fn traffic(
    network: NetworkId,
    engine: BalancerKind,
    vips: &[IpAddr],
) -> Result<Vec<(IpAddr, Traffic)>, model::Failure> {
    let look = || -> Result<_, BalancerError> {
        let mut balancer: Box<dyn Balancer> = match engine {
            BalancerKind::Ipvs => Box::new(IpVs::open()?),
            BalancerKind::Nftables | BalancerKind::Auto => {
                Box::new(Nftables::open(Clients::Routed)?)
            }
        };
        balancer.observe()?;
        vips.iter()
            .map(|vip| Ok((*vip, balancer.traffic(*vip)?)))
            .collect()
    };
    let entered = |error: io::Error| not_entered(&error);
    let (namespace, _) = namespace::open(Namespace::Network(network)).map_err(entered)?;
    namespace::within_file(&namespace, look)
        .map_err(entered)?
        .map_err(said)
}
