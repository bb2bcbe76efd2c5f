//! Values on the command line and in tables: durations, scales, pairs, ages, times of day.

use std::str::FromStr;

use model::{NamedPort, NetworkAttachment, Protocol};

/// A length of time as docker writes it: `5s`, `200ms`, `1m30s`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub u64);

impl FromStr for Millis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a duration such as 5s, 200ms or 1m30s");
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
pub struct Scale {
    /// Name or id.
    pub service: String,
    /// How many tasks are to run.
    pub replicas: u32,
}

impl FromStr for Scale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not SERVICE=REPLICAS, such as web=3");
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
pub fn pair(text: &str) -> Result<(String, String), String> {
    let refuse = || format!("{text:?} is not KEY=VALUE");
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(refuse)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `KEY=VALUE`, or `KEY` alone for an empty value.
pub fn option(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        pair(text)
    } else {
        pair(&format!("{text}="))
    }
}

/// The parts of `name=net,alias=db`.
fn parts(text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(',').map(pair).collect()
}

/// `net`, or `name=net,alias=db,alias=pg`.
pub fn attachment(text: &str) -> Result<NetworkAttachment, String> {
    if !text.contains('=') {
        return Ok(NetworkAttachment::new(text));
    }
    let mut found = NetworkAttachment::new("");
    for (key, value) in parts(text)? {
        match key.as_str() {
            "name" => found.network = value,
            "alias" => found.aliases.push(value),
            _ => {
                return Err(format!(
                    "there is no {key:?} of a network: write name=NETWORK,alias=ALIAS"
                ));
            }
        }
    }
    if found.network.is_empty() {
        Err("it lacks name=NETWORK".to_owned())
    } else {
        Ok(found)
    }
}

/// `name=http,target=80`, with `protocol=udp` if it is not TCP.
pub fn named_port(text: &str) -> Result<NamedPort, String> {
    let (mut name, mut port, mut protocol) = (None, None, Protocol::default());
    for (key, value) in parts(text)? {
        match key.as_str() {
            "name" => name = Some(value),
            "target" => {
                port = Some(
                    value
                        .parse()
                        .map_err(|_| format!("{value:?} is not a port: 1 to 65535"))?,
                )
            }
            "protocol" => protocol = value.parse()?,
            _ => {
                return Err(format!(
                    "there is no {key:?} of a port: write name=http,target=80,protocol=tcp"
                ));
            }
        }
    }
    match (name, port) {
        (Some(name), Some(port @ 1..)) => Ok(NamedPort {
            name,
            protocol,
            port,
        }),
        (None, _) => Err("it lacks name=NAME".to_owned()),
        _ => Err("it lacks target=PORT, from 1 to 65535".to_owned()),
    }
}

/// How long ago, to one unit: `12s`, `3m`, `2h`, `5d`.
pub fn age(now: model::Millis, then: model::Millis) -> String {
    match now.saturating_sub(then) / 1_000 {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A time in UTC as RFC 3339 writes it.
pub fn timestamp(time: model::Millis) -> String {
    let (days, rest) = (time / 86_400_000, time % 86_400_000);
    let (year, month, day) = civil(days);
    let (seconds, millis) = (rest / 1_000, rest % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The Gregorian date of a day since 1970-01-01: Howard Hinnant's `civil_from_days`, where years
/// begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The clock of this machine.
pub fn now() -> model::Millis {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
