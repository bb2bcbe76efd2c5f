//! IPsec of encrypted networks: keys, and numbers of security associations.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::hex;

/// Secret bytes, written as hexadecimal digits. `Debug` does not show them.
#[derive(Clone)]
pub struct Key<const N: usize>([u8; N]);

/// The secret of an epoch, from which keys are derived: 256 random bits.
pub type EpochKey = Key<32>;
/// Key of one association: an AES-256 key followed by 4 bytes of salt (RFC 4106 section 8.1).
pub type EspKey = Key<36>;

impl<const N: usize> Key<N> {
    /// The key of these bytes.
    pub fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// Its bytes. A secret.
    pub fn secret(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> PartialEq for Key<N> {
    /// Takes the same time whatever differs.
    fn eq(&self, other: &Self) -> bool {
        let differing = self
            .0
            .iter()
            .zip(&other.0)
            .fold(0, |differing, (a, b)| differing | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl<const N: usize> Eq for Key<N> {}

impl<const N: usize> fmt::Debug for Key<N> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key")
    }
}

impl<const N: usize> Serialize for Key<N> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Key<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        hex::decode(&text)
            .map(Self)
            .ok_or_else(|| de::Error::custom(format!("a key takes {} hexadecimal digits", 2 * N)))
    }
}

/// Number of a security association (RFC 4303 section 2.1); 0 to 255 are reserved. Each is
/// allocated once: no two senders of a cluster share one. A sender may use one with several peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Spi(pub u32);

impl Spi {
    /// The first number that is allocated.
    pub const FIRST: Self = Self(0x1000);
}

impl fmt::Display for Spi {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#010x}", self.0)
    }
}

/// Number of the cluster's key change, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// One direction between two hosts, under one key. No host may begin it a second time: the sender
/// would repeat sequence numbers, hence GCM nonces (RFC 4106 section 3.1); the receiver would
/// accept replays (RFC 4303 section 3.4.3). If a kernel has lost it, both get another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Association {
    /// Number of the association in its direction (SPI).
    pub spi: Spi,
    /// The change of key that it belongs to.
    pub epoch: Epoch,
    /// Its key, of this pair and direction only.
    pub key: EspKey,
}

/// Associations of a host with one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerKeys {
    /// Associations to send with: the first that its kernel has not lost (see [`Association`]).
    pub send: Vec<Association>,
    /// What it accepts: all of them.
    pub accept: Vec<Association>,
}

/// What a kernel may have or lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// ESP with AES-256-GCM, for IPv4 and IPv6.
    Esp,
    /// Virtual servers in the kernel (CONFIG_IP_VS).
    Ipvs,
    /// VLAN devices (CONFIG_VLAN_8021Q).
    Vlan,
    /// Macvlan devices (CONFIG_MACVLAN).
    Macvlan,
    /// Ipvlan devices (CONFIG_IPVLAN).
    Ipvlan,
}

impl Capability {
    /// Kernel configuration options that provide it.
    pub fn options(self) -> &'static str {
        match self {
            Self::Esp => {
                "CONFIG_XFRM_USER, CONFIG_INET_ESP, CONFIG_INET6_ESP, CONFIG_CRYPTO_GCM, \
                 CONFIG_CRYPTO_SEQIV"
            }
            Self::Ipvs => "CONFIG_IP_VS",
            Self::Vlan => "CONFIG_VLAN_8021Q",
            Self::Macvlan => "CONFIG_MACVLAN",
            Self::Ipvlan => "CONFIG_IPVLAN",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Esp => "esp",
            Self::Ipvs => "ipvs",
            Self::Vlan => "vlan",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_the_wire_and_does_not_show_in_a_log() {
        let key = EspKey::new(std::array::from_fn(|at| at as u8 * 7));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<EspKey>(&json).unwrap(), key);
        assert_eq!(format!("{key:?}"), "Key");
        for odd in [
            "\"\"",
            "\"00\"",
            &json.replace("00", "0g"),
            &json.replace("00", "000"),
        ] {
            assert!(serde_json::from_str::<EspKey>(odd).is_err(), "{odd}");
        }
    }
}
