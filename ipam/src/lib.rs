//! Address pools and leases: which prefix belongs to which network, which address to which owner.
//! Pure and deterministic: the same calls in the same order give the same answers on every manager.

#![warn(unreachable_pub)]

mod address;
mod error;
mod leases;
mod ledger;
mod owner;
mod pool;
mod range;
mod taken;

pub use error::IpamError;
pub use ledger::{Lease, Ledger, Usage};
pub use owner::{Owner, OwnerError};
