//! Virtual services: the table and its difference (pure), and the balancers that program it into
//! the kernel, IPVS and nftables. `rules/tests` holds what they promise on a kernel, behind the
//! rules that guard a network.

#![warn(unreachable_pub)]

mod balancer;
mod connections;
mod crowd;
pub mod ip_vs;
mod moment;
mod nft_balancer;
mod slots;
mod sysctl;
mod table;

pub use balancer::{Balancer, BalancerError, Observed, Passed, Traffic, diff};
pub use ip_vs::IpVs;
pub use nft_balancer::{BALANCED_PORTS, Clients, Nftables, TABLE, turn, unreachable};
pub use slots::slots;
pub use table::{Op, Table, VirtualService};
