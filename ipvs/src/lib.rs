//! Virtual services: the table and its difference (pure), the balancers that program it into the
//! kernel (IPVS and nftables), nftables by netlink, and the rule sets of networks and hosts.

mod balancer;
mod connections;
pub mod guard;
pub mod ip_vs;
pub mod nft;
mod nftables;
pub mod published;
pub mod shortcut;
mod slots;
mod sysctl;
mod table;

pub use balancer::{Balancer, BalancerError, Observed, Passed, Traffic, diff};
pub use ip_vs::IpVs;
pub use nftables::{Clients, Nftables, TABLE, ruleset};
pub use table::{Op, Table, VirtualService};
