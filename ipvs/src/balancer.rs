//! The trait of balancers: they program virtual services into the kernel.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc};

use nftables::NftError;

use crate::{Op, Table};

/// What an engine found in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The virtual services.
    pub table: Arc<Table>,
    /// Objects of the balancer that are missing, changed or foreign, for people. Empty if none.
    pub damage: Vec<String>,
}

/// An engine's failure.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// Of nftables.
    #[error(transparent)]
    Nftables(#[from] NftError),
    /// Of a value below /proc/sys.
    #[error("the namespace's values below /proc/sys/net cannot be set: {0}")]
    Sysctl(#[source] io::Error),
    /// Of IPVS.
    #[error("IPVS refuses to {step}: {reason}")]
    IpVs {
        /// What was refused.
        step: String,
        /// Why.
        reason: io::Error,
    },
}

impl BalancerError {
    /// What to do about it.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Nftables(error) => error.next(),
            Self::Sysctl(_) => "mount /proc/sys so that netd can write to it",
            Self::IpVs { reason, .. } => next(reason),
        }
    }

    /// What the kernel said.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Nftables(error) => error.errno(),
            Self::Sysctl(reason) | Self::IpVs { reason, .. } => reason.raw_os_error(),
        }
    }
}

fn next(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::NotFound => {
            "load or build CONFIG_IP_VS and its schedulers (`modprobe ip_vs`), or `swarmctl node \
             update --balancer nftables`"
        }
        io::ErrorKind::PermissionDenied => "run netd as root",
        _ => "it is tried again by itself; `ipvsadm -Ln` shows what is there",
    }
}

/// Traffic of a virtual IP since its balancer was set up there.
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
    /// Reads the kernel's state. Parts that cannot have changed are not read again.
    fn observe(&mut self) -> Result<Observed, BalancerError>;

    /// Applies these changes to the state observed last, in as few kernel transactions as possible:
    /// nftables in one. Established connections go on, except those to removed real servers.
    fn apply(&mut self, ops: &[Op]) -> Result<(), BalancerError>;

    /// Tells the balancer that the nftables change after this generation was to other tables: it
    /// need not read its own again.
    fn overlook(&mut self, before: u32);

    /// The number of nftables' last change that its own table is known at; `None`: it is not known.
    fn generation(&self) -> Option<u32>;

    /// Whether time alone has made something wrong, which `plan` would find.
    fn is_due(&self) -> bool;

    /// The next `observe` reads everything.
    fn doubt(&mut self);

    /// Traffic of a virtual IP.
    fn traffic(&mut self, vip: IpAddr) -> Result<Traffic, BalancerError>;

    /// The changes that make the kernel balance `desired`. Empty means settled.
    fn plan(&mut self, desired: &Table) -> Result<Vec<Op>, BalancerError> {
        Ok(diff(desired, &self.observe()?))
    }

    /// Makes the kernel balance `desired`; returns the changes. Empty if it already did.
    fn reconcile(&mut self, desired: &Table) -> Result<Vec<Op>, BalancerError> {
        let ops = self.plan(desired)?;
        if !ops.is_empty() {
            self.apply(&ops)?;
        }
        Ok(ops)
    }
}

/// The changes that make the kernel balance `desired`. Empty means settled. Pure.
pub fn diff(desired: &Table, observed: &Observed) -> Vec<Op> {
    let mut ops = observed.table.ops(desired);
    if !observed.damage.is_empty() {
        ops.push(Op::Repair);
    }
    ops
}
