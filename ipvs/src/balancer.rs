//! The seam between virtual services and the engines that put them into the kernel.

use crate::{Op, Table, nft::NftError};

/// What an engine found in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The virtual services.
    pub table: Table,
    /// What of the engine's own objects is missing, changed or not its own; for people. Empty if all is well.
    pub damage: Vec<String>,
}

/// An engine's failure.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// Of nftables.
    #[error(transparent)]
    Nftables(#[from] NftError),
}

/// Puts virtual services into one network namespace's kernel.
pub trait Balancer: Send {
    /// What the kernel has now.
    fn observe(&mut self) -> Result<Observed, BalancerError>;

    /// Makes these changes to what was observed last, in as few kernel transactions as the engine can: nftables in
    /// one. Established connections go on.
    fn apply(&mut self, ops: &[Op]) -> Result<(), BalancerError>;

    /// Makes the kernel balance `desired`; returns what it took. Empty if it already did.
    fn settle(&mut self, desired: &Table) -> Result<Vec<Op>, BalancerError> {
        let ops = diff(desired, &self.observe()?);
        if !ops.is_empty() {
            self.apply(&ops)?;
        }
        Ok(ops)
    }
}

/// What to change so that the kernel balances `desired`. Empty means settled. Pure.
pub fn diff(desired: &Table, observed: &Observed) -> Vec<Op> {
    let mut ops = observed.table.ops(desired);
    if !observed.damage.is_empty() {
        ops.push(Op::Repair);
    }
    ops
}
