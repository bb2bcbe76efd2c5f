//! Options of LAN networks: parent link and device modes. Causes of errors are in the log's
//! answers of the first level: they stay as they are.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{ParseError, names::LinkName};

/// VLAN identifiers that a frame may carry (IEEE 802.1Q: 0 is priority only, 4095 is reserved).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// The host's link that a LAN network is on: `eth0`, or `eth0.50` for VLAN 50 (IEEE 802.1Q) of
/// `eth0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parent {
    link: String,
    vlan: Option<u16>,
}

impl Parent {
    /// The link itself, or the one that the VLAN is on.
    pub fn link(&self) -> &str {
        &self.link
    }

    /// The VLAN, 1 to 4094.
    pub fn vlan(&self) -> Option<u16> {
        self.vlan
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vlan {
            Some(vlan) => write!(out, "{}.{vlan}", self.link),
            None => out.write_str(&self.link),
        }
    }
}

impl FromStr for Parent {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let vlan = |(link, vlan): (&str, &str)| {
            let digits = vlan.bytes().all(|byte| byte.is_ascii_digit()) && !vlan.starts_with('0');
            let vlan = vlan.parse().ok().filter(|_| digits)?;
            Some((link.to_owned(), vlan))
        };
        let (link, vlan) = match text.rsplit_once('.').and_then(vlan) {
            Some((link, vlan)) => (link, Some(vlan)),
            None => (text.to_owned(), None),
        };
        if LinkName::parse(&link).is_none() {
            let cause = format!("{text:?} is no link of a host, such as eth0 or eth0.50");
            return Err(ParseError::new(cause, "write the name of one"));
        }
        match vlan {
            Some(vlan) if !VLANS.contains(&vlan) => {
                let cause = format!("{text:?} names VLAN {vlan}: they go from 1 to 4094");
                Err(ParseError::new(cause, "write one of these"))
            }
            vlan => Ok(Self { link, vlan }),
        }
    }
}

impl Serialize for Parent {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Parent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// Which devices on the same parent a macvlan device reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// All of them, directly.
    #[default]
    Bridge,
    /// None of them.
    Private,
    /// Those that the switch outside sends frames back to.
    Vepa,
    /// It is the only one there, and uses the parent's own Ethernet address.
    Passthru,
}

impl FromStr for MacvlanMode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "bridge" => Ok(Self::Bridge),
            "private" => Ok(Self::Private),
            "vepa" => Ok(Self::Vepa),
            "passthru" => Ok(Self::Passthru),
            _ => {
                let forms = "bridge, private, vepa or passthru";
                let cause = format!("{text:?} is no macvlan_mode: {forms}");
                Err(ParseError::new(cause, "write one of these"))
            }
        }
    }
}

/// What an ipvlan device decides by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// It is a port of the LAN, with its parent's Ethernet address.
    #[default]
    L2,
    /// The host routes for it; there is no broadcast.
    L3,
}

impl FromStr for IpvlanMode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "l2" => Ok(Self::L2),
            "l3" => Ok(Self::L3),
            _ => {
                let cause = format!("{text:?} is no ipvlan_mode: l2 or l3");
                Err(ParseError::new(cause, "write one of these"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_a_link_or_a_vlan_of_one() {
        for (text, link, vlan) in [
            ("eth0", "eth0", None),
            ("bond0.4094", "bond0", Some(4094)),
            ("a.b", "a.b", None),
        ] {
            let parent: Parent = text.parse().unwrap();
            assert_eq!(
                (parent.link(), parent.vlan(), parent.to_string()),
                (link, vlan, text.to_owned())
            );
        }
        for text in ["", "eth0.4095", "eth 0", "a-name-of-sixteen", ".5", "eth/0"] {
            assert!(text.parse::<Parent>().is_err(), "{text}");
        }
    }
}
