//! Load balancing of virtual IPs: schedulers and affinity.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Capability, ParseError};

/// How real servers take turns. Names are those of IPVS (ipvsadm(8), `--scheduler`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// One after the other.
    #[default]
    Rr,
    /// One after the other, as often as their weights say.
    Wrr,
    /// The one with the fewest connections.
    Lc,
    /// The one with the fewest connections for its weight.
    Wlc,
    /// By the client's address: always the same server while none comes or goes.
    Sh,
    /// By the client's address, and most clients keep theirs when servers come or go (Maglev).
    Mh,
}

impl Scheduler {
    /// Whether it counts connections, which nftables cannot do.
    pub fn counts_connections(self) -> bool {
        matches!(self, Self::Lc | Self::Wlc)
    }

    /// Every one of them.
    pub const ALL: [Scheduler; 6] = [
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Lc,
        Scheduler::Wlc,
        Scheduler::Sh,
        Scheduler::Mh,
    ];

    /// Its name in IPVS.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheduler::Rr => "rr",
            Scheduler::Wrr => "wrr",
            Scheduler::Lc => "lc",
            Scheduler::Wlc => "wlc",
            Scheduler::Sh => "sh",
            Scheduler::Mh => "mh",
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

impl FromStr for Scheduler {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = Self::ALL
            .into_iter()
            .find(|scheduler| scheduler.as_str() == text);
        let form = "rr, wrr, lc, wlc, sh or mh";
        found.ok_or_else(|| ParseError::not(text, "a way to balance", form))
    }
}

/// What translates virtual IPs on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BalancerKind {
    /// IPVS where the kernel has it, else nftables.
    #[default]
    Auto,
    /// The kernel's own load balancer.
    Ipvs,
    /// Maps of nftables, which every node needs anyway.
    Nftables,
}

impl BalancerKind {
    /// The balancer used on a kernel with these capabilities.
    pub fn on(self, capabilities: &BTreeSet<Capability>) -> Self {
        let has_ipvs = capabilities.contains(&Capability::Ipvs);
        if self != Self::Nftables && has_ipvs {
            Self::Ipvs
        } else {
            Self::Nftables
        }
    }
}

impl fmt::Display for BalancerKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Auto => "auto",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        })
    }
}

/// How the virtual IPs of a service choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// How real servers take turns.
    pub scheduler: Scheduler,
    /// Seconds for which a client keeps its last real server; at least 1. `None`: each connection
    /// is balanced independently.
    pub affinity: Option<u32>,
}
