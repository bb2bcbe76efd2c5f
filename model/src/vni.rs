//! VXLAN network identifiers.

use serde::{Deserialize, Serialize};

/// A VXLAN network identifier (RFC 7348 section 5): 24 bits. 0 is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

/// A number that is no VNI.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
#[error("{0} is not a VXLAN network identifier: it lies between 1 and 16777215")]
pub struct VniError(pub u32);

impl Vni {
    /// The first VNI that is allocated; lower ones are left to hand-made devices and VLAN gateways.
    pub const FIRST: Vni = Vni(4096);
    /// The highest VNI: they have 24 bits.
    pub const LAST: Vni = Vni((1 << 24) - 1);

    /// How many marks there are for networks: a packet's mark has room for eleven bits of a VNI.
    pub const MARKS: usize = 1 << 11;

    /// What a packet's mark holds of it. Hosts cannot tell the packets of two networks apart that
    /// agree in this.
    pub fn mark(self) -> u16 {
        (self.0 & (Self::MARKS as u32 - 1)) as u16
    }

    /// The next one up; after the last comes [`Vni::FIRST`].
    pub fn next(self) -> Vni {
        if self < Self::LAST {
            Vni(self.0 + 1)
        } else {
            Self::FIRST
        }
    }
}

impl TryFrom<u32> for Vni {
    type Error = VniError;

    fn try_from(value: u32) -> Result<Self, VniError> {
        if (1..1 << 24).contains(&value) {
            Ok(Self(value))
        } else {
            Err(VniError(value))
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl std::fmt::Display for Vni {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}
