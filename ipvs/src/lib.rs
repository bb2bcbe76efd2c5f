//! Virtual services: the table and its difference (pure), the trait of the engines that put it into
//! the kernel, and the engines, nftables and IPVS. Beside it nftables itself by netlink, and the
//! rule sets that guard networks and hosts and that take packets the short way.

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
