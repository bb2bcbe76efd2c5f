//! Virtual services: the table and its difference (pure), the trait of the engines that put it into the kernel, and
//! the nftables engine. Beside it nftables itself by netlink, and the rule sets that guard networks and hosts and that
//! take packets the short way.

mod balancer;
pub mod guard;
pub mod nft;
mod nftables;
pub mod published;
pub mod shortcut;
mod table;

pub use balancer::{Balancer, BalancerError, Observed, diff};
pub use nftables::{Clients, Nftables, TABLE, ruleset};
pub use table::{Op, Scheduler, Table, VirtualService};
