//! Names of labs and of their hosts, and the addresses that follow from them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use model::ParseError;

/// A lab's name: 1-32 lower-case letters, digits and `-`, the first no `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LabName(String);

impl FromStr for LabName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let valid = (1..=32).contains(&text.len())
            && !text.starts_with('-')
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let form = "up to 32 lower-case letters, digits and -";
        let refuse = || ParseError::not(text, "a lab's name", form);
        valid.then(|| Self(text.to_owned())).ok_or_else(refuse)
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

/// A host's name: `h1`, `h2`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostName(u8);

impl HostName {
    /// How many hosts a lab may have.
    pub(crate) const MOST: u8 = 200;
    /// The first.
    pub(crate) const FIRST: HostName = HostName(1);

    /// The first `count` hosts.
    pub(crate) fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count.min(Self::MOST)).map(Self)
    }

    /// Its IPv4 address, of a /24. Every lab has the same: they do not see each other.
    pub(crate) fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 100, 10 + self.0)
    }

    /// Its IPv6 address, of a /64.
    pub(crate) fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x6c61, 0x62, 0, 0, 0, 0, 0x10 + u16::from(self.0))
    }

    /// The address of its network card; it stays when the host is powered on again, as neighbours
    /// expect.
    pub(crate) fn mac(self) -> [u8; 6] {
        [0x02, 0x6c, 0x61, 0x62, 0, self.0]
    }

    /// Where its control plane listens.
    pub(crate) fn control(self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4()), 2377)
    }
}

impl FromStr for HostName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = text
            .strip_prefix('h')
            .and_then(|digits| digits.parse().ok());
        let name = number
            .filter(|number| (1..=Self::MOST).contains(number))
            .map(Self);
        // One host has one name: neither h01 nor h+1.
        name.filter(|name| name.to_string() == text)
            .ok_or_else(|| ParseError::not(text, "a lab's host", &format!("h1 to h{}", Self::MOST)))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("h{}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_directory() {
        for text in [
            "",
            "..",
            ".",
            "a/b",
            "-a",
            "A",
            "a b",
            "a\n",
            &"x".repeat(33),
        ] {
            assert!(text.parse::<LabName>().is_err(), "{text:?}");
        }
        assert_eq!("lab-2".parse::<LabName>().unwrap().to_string(), "lab-2");
    }

    #[test]
    fn a_host_has_one_name_and_its_addresses_follow() {
        for text in ["", "h", "h0", "h01", "h+1", "h201", "h256", "1", "H1"] {
            assert!(text.parse::<HostName>().is_err(), "{text:?}");
        }
        let last: HostName = "h200".parse().unwrap();
        assert_eq!(
            (last.v4().to_string(), last.v6().to_string()),
            ("192.168.100.210".into(), "fd00:6c61:62::d8".into())
        );
    }
}
