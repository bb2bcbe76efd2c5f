//! Values on the command line and in tables: durations, scales, pairs, ages, times of day.

use std::{net::IpAddr, str::FromStr};

use model::{NamedPort, NetworkAttachment, ParseError, Protocol};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// A length of time as docker writes it: `5s`, `200ms`, `1m30s`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Millis(pub u64);

impl FromStr for Millis {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = || ParseError::not(text, "a duration", "one such as 5s, 200ms or 1m30s");
        if text == "0" {
            return Ok(Self(0));
        }
        let mut rest = text;
        let mut total = 0u64;
        while !rest.is_empty() {
            let digits = rest
                .find(|byte: char| !byte.is_ascii_digit())
                .ok_or_else(refuse)?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail
                .find(|byte: char| byte.is_ascii_digit())
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let factor = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(refuse()),
            };
            let part = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(factor))
                .ok_or_else(refuse)?;
            total = total.checked_add(part).ok_or_else(refuse)?;
            rest = tail;
        }
        if text.is_empty() {
            Err(refuse())
        } else {
            Ok(Self(total))
        }
    }
}

/// `web=10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Name or id.
    pub service: String,
    /// How many tasks are to run.
    pub replicas: u32,
}

impl FromStr for Scale {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let refuse = || ParseError::not(text, "a scale", "SERVICE=REPLICAS, such as web=3");
        let (service, replicas) = text
            .split_once('=')
            .filter(|(service, _)| !service.is_empty())
            .ok_or_else(refuse)?;
        Ok(Self {
            service: service.to_owned(),
            replicas: replicas.parse().map_err(|_| refuse())?,
        })
    }
}

/// `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), ParseError> {
    let refuse = || ParseError::not(text, "a key with a value", "KEY=VALUE");
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(refuse)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY=VALUE`, or `KEY` alone for an empty value.
pub(crate) fn option(text: &str) -> Result<(String, String), ParseError> {
    if text.contains('=') {
        pair(text)
    } else {
        pair(&format!("{text}="))
    }
}

/// The parts of `name=net,alias=db`.
fn parts(text: &str) -> Result<Vec<(String, String)>, ParseError> {
    text.split(',').map(pair).collect()
}

/// `net`, or `name=net,alias=db,alias=pg`.
pub(crate) fn attachment(text: &str) -> Result<NetworkAttachment, ParseError> {
    if !text.contains('=') {
        return Ok(NetworkAttachment::new(text));
    }
    let mut found = NetworkAttachment::new("");
    for (key, value) in parts(text)? {
        match key.as_str() {
            "name" => found.network = value,
            "alias" => found.aliases.push(value),
            _ => {
                let form = "name=NETWORK,alias=ALIAS";
                return Err(ParseError::not(&key, "a key of a network", form));
            }
        }
    }
    if found.network.is_empty() {
        let cause = format!("{text:?} names no network");
        Err(ParseError::new(cause, "write name=NETWORK,alias=ALIAS"))
    } else {
        Ok(found)
    }
}

const PORTS: &str = "a number from 1 to 65535";

/// The address of a DNS server.
pub(crate) fn dns_server(text: &str) -> Result<IpAddr, ParseError> {
    text.parse().map_err(|_| {
        if text.contains("://") {
            let cause = format!("{text:?}: a service's DNS servers are asked in clear");
            let next =
                "give an address, or let hosts ask over TLS: `netd --dns tls://ADDRESS#NAME`";
            return ParseError::new(cause, next);
        }
        ParseError::not(text, "a DNS server", "an address such as 192.0.2.1")
    })
}

/// `name=http,target=80`, with `protocol=udp` if it is not TCP.
pub(crate) fn named_port(text: &str) -> Result<NamedPort, ParseError> {
    let (mut name, mut port, mut protocol) = (None, None, Protocol::default());
    for (key, value) in parts(text)? {
        match key.as_str() {
            "name" => name = Some(value),
            "target" => {
                let number = value.parse();
                port = Some(number.map_err(|_| ParseError::not(&value, "a port", PORTS))?)
            }
            "protocol" => protocol = value.parse()?,
            _ => {
                let form = "name=http,target=80,protocol=tcp";
                return Err(ParseError::not(&key, "a key of a port", form));
            }
        }
    }
    match (name, port) {
        (Some(name), Some(port @ 1..)) => Ok(NamedPort {
            name,
            protocol,
            port,
        }),
        (None, _) => {
            let cause = format!("{text:?} lacks the port's name");
            Err(ParseError::new(cause, "add name=NAME"))
        }
        _ => {
            let cause = format!("{text:?} lacks a port of the tasks, from 1 to 65535");
            Err(ParseError::new(cause, "add target=PORT"))
        }
    }
}

/// How long ago, to one unit: `12s`, `3m`, `2h`, `5d`.
pub(crate) fn age(now: model::Millis, then: model::Millis) -> String {
    match now.saturating_sub(then) / 1_000 {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A time in UTC as RFC 3339 writes it, to the millisecond.
pub(crate) fn timestamp(time: model::Millis) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time) * 1_000_000);
    let written = time.ok().and_then(|time| time.format(format).ok());
    // Beyond the year 9999.
    written.unwrap_or_else(|| "-".to_owned())
}

/// A moment on the command line: a revision, a time, or a time ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// `1234`: after this revision.
    Revision(u64),
    /// `2026-01-31T12:00:00Z`, or `10m` ago.
    Time(model::Millis),
}

impl FromStr for Moment {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Ok(revision) = text.parse() {
            return Ok(Self::Revision(revision));
        }
        if let Ok(Millis(ago)) = text.parse() {
            return Ok(Self::Time(now().saturating_sub(ago)));
        }
        let time = OffsetDateTime::parse(text, &Rfc3339).ok();
        let millis = time.map(|time| time.unix_timestamp_nanos() / 1_000_000);
        let millis = millis.and_then(|millis| u64::try_from(millis).ok());
        millis.map(Self::Time).ok_or_else(|| {
            let form = "a revision such as 1234, a time such as 2026-01-31T12:00:00Z, or a \
                        duration such as 10m";
            ParseError::not(text, "a moment", form)
        })
    }
}

/// The clock of this machine.
pub(crate) fn now() -> model::Millis {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_revisions_times_or_durations_ago() {
        assert_eq!("0".parse(), Ok(Moment::Revision(0)));
        assert_eq!("1234".parse(), Ok(Moment::Revision(1_234)));
        let time = Ok(Moment::Time(86_400_000));
        assert_eq!("1970-01-02T00:00:00Z".parse(), time);
        assert_eq!("1970-01-02T01:30:00.000+01:30".parse(), time);
        let Ok(Moment::Time(then)) = "1h".parse() else {
            panic!("not a time")
        };
        assert!((3_600_000..3_660_000).contains(&(now() - then)));
        for text in ["", "-1", "yesterday", "2026-01-31", "1969-12-31T23:59:59Z"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_docker_writes_them() {
        let read = |text: &str| text.parse::<Millis>().unwrap().0;
        assert_eq!(
            ["5s", "200ms", "1m30s", "0", "0s", "2h"].map(read),
            [5_000, 200, 90_000, 0, 0, 7_200_000]
        );
        for text in [
            "",
            "5",
            "s",
            "5x",
            "-5s",
            "5s3",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(text.parse::<Millis>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_scale_is_a_service_and_a_number() {
        assert_eq!(
            "web=10".parse(),
            Ok(Scale {
                service: "web".into(),
                replicas: 10
            })
        );
        for text in ["web", "web=", "=3", "web=-1", "web=x", "web=4294967296"] {
            assert!(text.parse::<Scale>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pair_has_a_key_and_its_value_may_hold_anything() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(option("encrypted"), Ok(("encrypted".into(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err() && option("").is_err());
    }

    #[test]
    fn a_network_may_come_with_aliases_and_a_port_with_its_protocol() {
        let network = attachment("name=net,alias=db,alias=pg").unwrap();
        assert_eq!(
            (network.network.as_str(), network.aliases.as_slice()),
            ("net", &["db".to_owned(), "pg".to_owned()][..])
        );
        assert_eq!(attachment("net"), Ok(NetworkAttachment::new("net")));
        let port = named_port("name=dns,target=53,protocol=udp").unwrap();
        assert_eq!(
            (port.name.as_str(), port.port, port.protocol),
            ("dns", 53, Protocol::Udp)
        );
        assert_eq!(
            named_port("name=http,target=80").unwrap().protocol,
            Protocol::Tcp
        );
    }

    #[test]
    fn a_dns_server_of_a_service_is_an_address() {
        assert_eq!(dns_server("::1"), Ok("::1".parse().unwrap()));
        let refusal = |text| dns_server(text).unwrap_err().to_string();
        assert!(refusal("tls://192.0.2.1").contains("netd --dns tls://"));
        assert!(refusal("nowhere").contains("an address such as"));
    }

    #[test]
    fn ages_show_one_unit_and_never_go_below_zero() {
        assert_eq!(
            [0, 59_999, 60_000, 7_200_000, 172_800_000].map(|span| age(span, 0)),
            ["0s", "59s", "1m", "2h", "2d"]
        );
        assert_eq!(age(0, 5_000), "0s");
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(timestamp(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
    }
}
