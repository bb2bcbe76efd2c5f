//! Published ports on the command line: Docker's short form and its long one, both with an address,
//! a mode and an allow-list.

use std::{fmt, net::IpAddr, str::FromStr};

use model::{ParseError, Protocol, PublishAt, PublishMode, PublishSpec, Subnet, names::LinkName};

/// `[AT:]PUBLISHED:TARGET[/PROTOCOL][,mode=MODE][,allow=CIDR]`, or all of it as
/// `published=…,target=…`.
pub(crate) fn published(text: &str) -> Result<PublishSpec, ParseError> {
    let mut words = text.split(',');
    let mut given = Given::default();
    match words.next().filter(|first| !first.contains('=')) {
        Some(short) => given.short(short)?,
        None => words = text.split(','),
    }
    words.try_for_each(|word| given.option(word))?;
    given.spec()
}

/// What has been read so far.
#[derive(Default)]
struct Given {
    published: Option<(u16, u16)>,
    target: Option<(u16, u16)>,
    protocol: Protocol,
    mode: PublishMode,
    at: PublishAt,
    allow: Vec<Subnet>,
}

impl Given {
    fn short(&mut self, text: &str) -> Result<(), ParseError> {
        let ports = match text.rsplit_once('/') {
            Some((ports, protocol)) => {
                self.protocol = protocol.parse()?;
                ports
            }
            None => text,
        };
        let Some((rest, target)) = ports.rsplit_once(':') else {
            let cause = format!("{text:?} lacks the port of the hosts");
            let next = "write PUBLISHED:TARGET, such as 8080:80";
            return Err(ParseError::new(cause, next));
        };
        let (at, published) = rest
            .rsplit_once(':')
            .map_or((None, rest), |(at, published)| (Some(at), published));
        self.at = at.map_or(Ok(PublishAt::Everywhere), place)?;
        (self.published, self.target) = (Some(ports_of(published)?), Some(ports_of(target)?));
        Ok(())
    }

    fn option(&mut self, word: &str) -> Result<(), ParseError> {
        let known = "published, target, protocol, mode, at and allow";
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| ParseError::not(word, "KEY=VALUE", &format!("one of {known}")))?;
        match key {
            "published" => self.published = Some(ports_of(value)?),
            "target" => self.target = Some(ports_of(value)?),
            "protocol" => self.protocol = value.parse()?,
            "at" | "ip" => self.at = place(value)?,
            "allow" => {
                let allowed = value.parse::<Subnet>();
                let refuse = |error| ParseError::new(format!("allow: {error}"), "write a prefix");
                self.allow.push(allowed.map_err(refuse)?);
            }
            "mode" => {
                self.mode = match value {
                    "ingress" => PublishMode::Ingress,
                    "host" => PublishMode::Host,
                    _ => return Err(ParseError::not(value, "a mode", "ingress or host")),
                }
            }
            _ => return Err(ParseError::not(key, "a key of a port", known)),
        }
        Ok(())
    }

    fn spec(self) -> Result<PublishSpec, ParseError> {
        let lacks = |what: &str| {
            ParseError::new(
                format!("{what}= is missing"),
                "write published=8080,target=80",
            )
        };
        let (published, last) = self.published.ok_or_else(|| lacks("published"))?;
        let (target, last_target) = self.target.ok_or_else(|| lacks("target"))?;
        let count = last - published;
        if count != last_target - target {
            let (count, other) = (u32::from(count) + 1, u32::from(last_target - target) + 1);
            let cause = format!("{count} ports cannot lead to {other}");
            return Err(ParseError::new(cause, "write two ranges of one length"));
        }
        let all = || ParseError::new("these are all ports there are", "write a smaller range");
        let count = count.checked_add(1).ok_or_else(all)?;
        let Self {
            protocol,
            mode,
            at,
            allow,
            ..
        } = self;
        Ok(PublishSpec {
            published,
            target,
            count,
            protocol,
            mode,
            at,
            allow,
        })
    }
}

/// Published ports that are to go: `80`, `53/udp`, `8080:80`, `8000-8010:80-90`.
#[derive(Clone, Debug)]
pub(crate) struct Unpublish {
    text: String,
    published: Option<(u16, u16)>,
    target: (u16, u16),
    protocol: Protocol,
}

impl Unpublish {
    /// Whether it names this published port.
    pub(crate) fn names(&self, port: &PublishSpec) -> bool {
        let last = port.target.saturating_add(port.count.saturating_sub(1));
        let is_published = |ports| ports == (port.published, port.last());
        (port.target, last) == self.target
            && port.protocol == self.protocol
            && self.published.is_none_or(is_published)
    }
}

impl fmt::Display for Unpublish {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.text)
    }
}

impl FromStr for Unpublish {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (ports, protocol) = text
            .rsplit_once('/')
            .map_or((text, None), |(ports, word)| (ports, Some(word)));
        let protocol = protocol.map(str::parse).transpose()?.unwrap_or_default();
        let (published, target) = ports
            .rsplit_once(':')
            .map_or((None, ports), |(first, rest)| (Some(first), rest));
        let published = published.map(ports_of).transpose()?;
        Ok(Self {
            text: text.to_owned(),
            published,
            target: ports_of(target)?,
            protocol,
        })
    }
}

/// `80`, or `8000-8010`: the first and the last.
fn ports_of(text: &str) -> Result<(u16, u16), ParseError> {
    let port = |text: &str| {
        let number = text.parse::<u16>().ok().filter(|&port| port > 0);
        number.ok_or_else(|| ParseError::not(text, "a port", "a number from 1 to 65535"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first <= last {
        Ok((first, last))
    } else {
        let next = "write its first port first, as in 8000-8010";
        Err(ParseError::new(
            format!("the range {text} goes backwards"),
            next,
        ))
    }
}

/// An address, IPv6 in brackets, or the name of an interface.
fn place(text: &str) -> Result<PublishAt, ParseError> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match inner.unwrap_or(text).parse::<IpAddr>() {
        Ok(address) if address.is_ipv4() || inner.is_some() => Ok(PublishAt::Address(address)),
        Ok(address) => {
            let cause = format!("the IPv6 address {address} is not in brackets");
            Err(ParseError::new(cause, format!("write [{address}]")))
        }
        Err(_) => LinkName::parse(text)
            .map(|name| PublishAt::Interface(name.to_string()))
            .ok_or_else(|| {
                let form = "an address (IPv6 in brackets), or the name of an interface";
                ParseError::not(text, "a place for a port", form)
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_their_parts_are_understood() {
        for (text, meant) in [
            ("80:8080", "*:80->8080/tcp"),
            ("53:5353/udp", "*:53->5353/udp"),
            ("0.0.0.0:80:80,mode=host", "0.0.0.0:80->80/tcp (host)"),
            ("[::]:80:80", "[::]:80->80/tcp"),
            ("8000-8010:80-90", "*:8000-8010->80-90/tcp"),
            ("10.0.0.1:80:80/sctp", "10.0.0.1:80->80/sctp"),
            ("[::1]:80:80", "[::1]:80->80/tcp"),
            ("eth0:8080:80", "eth0:8080->80/tcp"),
            (
                "published=8080,target=80,protocol=tcp,mode=host",
                "*:8080->80/tcp (host)",
            ),
            ("target=80,published=8080", "*:8080->80/tcp"),
        ] {
            assert_eq!(published(text).unwrap().to_string(), meant, "{text}");
        }
        let allowed = published("80:80,allow=10.0.0.0/8,allow=fd00::/8")
            .unwrap()
            .allow;
        assert_eq!(
            allowed,
            ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
        );
    }

    #[test]
    fn removed_ports_are_named_by_target_or_by_both_ends() {
        let there = ["8080:80", "8081:80", "80:80/udp", "8000-8010:80-90"]
            .map(|text| published(text).unwrap());
        for (text, meant) in [
            ("80", &[0, 1][..]),
            ("8081:80/tcp", &[1]),
            ("80/udp", &[2]),
            ("80-90", &[3]),
            ("8000-8010:80-90", &[3]),
            ("8000:80", &[]),
            ("81", &[]),
        ] {
            let rm: Unpublish = text.parse().unwrap();
            let found: Vec<usize> = (0..there.len())
                .filter(|&index| rm.names(&there[index]))
                .collect();
            assert_eq!(found, meant, "{text}");
        }
        assert!(
            ["", "x", "80/icmp", "0", "a:80"]
                .iter()
                .all(|text| text.parse::<Unpublish>().is_err())
        );
    }

    #[test]
    fn malformed_published_ports_are_refused_with_the_form() {
        for (text, hint) in [
            ("80", "PUBLISHED:TARGET"),
            ("80:0", "1 to 65535"),
            ("90-80:80-90", "backwards"),
            ("80-82:80", "one length"),
            ("80:80/icmp", "tcp, udp or sctp"),
            ("80:80,mode=mesh", "ingress or host"),
            ("::1:80:80", "[::1]"),
            ("target=80", "published= is missing"),
            ("80:80,color=red", "published, target"),
            ("80:80,allow=10.0.0.1/8", "10.0.0.0/8"),
            ("1-65535:1-65535x", "not a port"),
        ] {
            let refusal = published(text).unwrap_err();
            assert!(refusal.to_string().contains(hint), "{text}: {refusal}");
        }
    }
}
