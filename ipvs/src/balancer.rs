//! The seam between virtual services and the engines that put them into the kernel.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc};

use nftables::NftError;

use crate::{Op, Table};

/// What an engine found in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The virtual services.
    pub table: Arc<Table>,
    /// What of the engine's own objects is missing, changed or not its own; for people. Empty if
    /// all is well.
    pub damage: Vec<String>,
}

/// An engine's failure.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// Of nftables.
    #[error(transparent)]
    Nftables(#[from] NftError),
    /// Of a value below /proc/sys.
    #[error(
        "the namespace's values below /proc/sys/net cannot be set: {0}\n  next: let netd write there"
    )]
    Sysctl(#[source] io::Error),
    /// Of IPVS.
    #[error("IPVS refuses to {step}: {reason}\n  next: {}", next(reason))]
    IpVs {
        /// What was refused.
        step: String,
        /// Why.
        reason: io::Error,
    },
}

fn next(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::NotFound => {
            "load or build CONFIG_IP_VS and its schedulers (`modprobe ip_vs`), or `swarmctl node update --balancer nftables`"
        }
        io::ErrorKind::PermissionDenied => "run netd as root",
        _ => "it is tried again by itself; `ipvsadm -Ln` shows what is there",
    }
}

/// What has passed by a virtual IP, since its engine was put to work there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that each real server was chosen for.
    pub connections: BTreeMap<IpAddr, u64>,
    /// Packets and bytes; only IPVS counts them.
    pub passed: Option<Passed>,
}

/// Packets and bytes by a virtual IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// From clients.
    pub packets_in: u64,
    /// From clients.
    pub bytes_in: u64,
    /// To clients.
    pub packets_out: u64,
    /// To clients.
    pub bytes_out: u64,
}

/// Puts virtual services into one network namespace's kernel.
pub trait Balancer: Send {
    /// What the kernel has now. What cannot have changed since it was read is not read again.
    fn observe(&mut self) -> Result<Observed, BalancerError>;

    /// Makes these changes to what was observed last, in as few kernel transactions as the engine
    /// can: nftables in one. Established connections go on, but for those to real servers that are
    /// gone.
    fn apply(&mut self, ops: &[Op]) -> Result<(), BalancerError>;

    /// The change of nftables that came after this number was of other tables: nothing has to be
    /// read again for it.
    fn overlook(&mut self, before: u32);

    /// What has passed by a virtual IP.
    fn traffic(&mut self, vip: IpAddr) -> Result<Traffic, BalancerError>;

    /// What to change so that the kernel balances `desired`. Empty means settled.
    fn plan(&mut self, desired: &Table) -> Result<Vec<Op>, BalancerError> {
        Ok(diff(desired, &self.observe()?))
    }

    /// Makes the kernel balance `desired`; returns what it took. Empty if it already did.
    fn settle(&mut self, desired: &Table) -> Result<Vec<Op>, BalancerError> {
        let ops = self.plan(desired)?;
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
