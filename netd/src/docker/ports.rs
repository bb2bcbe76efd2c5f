//! Published ports of a container in the engine's format.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    ops::RangeInclusive,
};

use model::{Kind, Protocol, PublishAt, PublishMode, PublishSpec, Refusal};
use serde_json::{Map, Value};

use super::{refusal::invalid, wire};

/// What a port is chosen of that the user leaves open, as engines do: what IANA has set aside for
/// it (RFC 6335 section 6).
const DYNAMIC: RangeInclusive<u16> = 49_152..=65_535;

/// A port of the host is this one, or one of several.
type Choice = RangeInclusive<u16>;

/// The ports of the host that are to lead to a container. Neighbours are one range. Where there is
/// a choice `choose` makes it; the same port in IPv4 and IPv6.
pub(crate) fn publish(
    options: &Map<String, Value>,
    mut choose: impl FnMut(Protocol, Choice) -> Option<u16>,
) -> Result<Vec<PublishSpec>, Refusal> {
    let Some(given) = options.get(wire::PORT_MAP).filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let bindings: Vec<wire::PortBinding> = serde_json::from_value(given.clone())
        .map_err(|error| invalid(format!("the ports cannot be read: {error}"), ""))?;
    let mut given = Vec::new();
    // By what is asked for, as often as it is asked for at one place.
    let mut chosen: BTreeMap<_, Vec<u16>> = BTreeMap::new();
    let mut times: BTreeMap<_, usize> = BTreeMap::new();
    for binding in &bindings {
        let (protocol, at, choice) = asked(binding)?;
        let port = if choice.start() == choice.end() {
            *choice.start()
        } else {
            let what = (protocol, binding.port, choice.clone().into_inner());
            let time = times.entry((what, at.clone())).or_default();
            let ports = chosen.entry(what).or_default();
            while ports.len() <= *time {
                let next = choose(protocol, choice.clone());
                ports.push(next.ok_or_else(|| none_is_free(protocol, &choice))?);
            }
            *time += 1;
            ports[*time - 1]
        };
        given.push(of_container(protocol, port, binding.port, at));
    }
    let mut ports: Vec<PublishSpec> = Vec::new();
    for port in in_order(given) {
        match ports.last_mut() {
            Some(last) if follows(last, &port) => last.count += 1,
            _ => ports.push(port),
        }
    }
    Ok(ports)
}

/// By protocol, place and number: the engine gives them in no order. It may name all of IPv4 and
/// all of IPv6 apart, which are everywhere together.
fn in_order(given: Vec<PublishSpec>) -> Vec<PublishSpec> {
    let mut places: BTreeMap<_, BTreeSet<PublishAt>> = BTreeMap::new();
    for port in &given {
        let number = (port.protocol, port.published, port.target);
        places.entry(number).or_default().insert(port.at.clone());
    }
    let families = [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let families = families.map(PublishAt::Address);
    for places in places.values_mut() {
        if families.iter().all(|family| places.contains(family)) {
            families.iter().for_each(|family| drop(places.take(family)));
            places.insert(PublishAt::Everywhere);
        }
    }
    let mut ports: Vec<PublishSpec> = Vec::new();
    for ((protocol, published, target), places) in places {
        ports.extend(
            places
                .into_iter()
                .map(|at| of_container(protocol, published, target, at)),
        );
    }
    ports.sort_by(|one, two| {
        let key = |port: &PublishSpec| (port.protocol, port.at.clone(), port.published);
        key(one).cmp(&key(two))
    });
    ports
}

/// One port of the container's own host.
fn of_container(protocol: Protocol, published: u16, target: u16, at: PublishAt) -> PublishSpec {
    PublishSpec {
        published,
        target,
        count: 1,
        protocol,
        mode: PublishMode::Host,
        at,
        allow: Vec::new(),
    }
}

fn follows(last: &PublishSpec, port: &PublishSpec) -> bool {
    let next = |first: u16| first.checked_add(last.count);
    last.protocol == port.protocol
        && last.at == port.at
        && next(last.published) == Some(port.published)
        && next(last.target) == Some(port.target)
}

/// A port of a choice that no program of this host has, nor anybody for whom this host keeps it.
/// The first that is tried is left to chance.
pub(crate) fn free(protocol: Protocol, choice: Choice) -> Option<u16> {
    let count = usize::from(choice.end() - choice.start()) + 1;
    let first = rand::random_range(0..count);
    let mut ports = choice.clone().chain(choice).skip(first).take(count);
    ports.find(|port| is_free(protocol, *port))
}

fn is_free(protocol: Protocol, port: u16) -> bool {
    let at = |address: IpAddr| match protocol {
        Protocol::Tcp => TcpListener::bind((address, port)).map(drop),
        Protocol::Udp => UdpSocket::bind((address, port)).map(drop),
        Protocol::Sctp => Ok(()),
    };
    // A socket of all of IPv6 is one of IPv4, too; a host may lack either.
    let tried = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let is_taken = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
    !tried
        .map(at)
        .into_iter()
        .any(|bound| bound.is_err_and(is_taken))
}

fn none_is_free(protocol: Protocol, choice: &Choice) -> Refusal {
    let (first, last) = (choice.start(), choice.end());
    Refusal::new(
        Kind::Conflict,
        format!("no port of {first}-{last}/{protocol} is free on this host"),
        "publish at another port, or a wider range",
    )
}

/// Protocol, addresses and choice.
fn asked(binding: &wire::PortBinding) -> Result<(Protocol, PublishAt, Choice), Refusal> {
    let protocol = match binding.proto {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        other => {
            return Err(invalid(
                format!("protocol {other} has no ports"),
                "publish tcp, udp or sctp",
            ));
        }
    };
    let choice = match binding.host_port {
        0 => DYNAMIC,
        first => first..=binding.host_port_end.max(first),
    };
    let at = match binding.host_ip.parse::<IpAddr>() {
        Ok(address) => PublishAt::Address(address),
        Err(_) => PublishAt::Everywhere,
    };
    Ok((protocol, at, choice))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn consecutive_ports_are_one_range_and_open_ones_are_chosen() {
        let one = |host: &str, port: u16, first: u16, last: u16| {
            json!({"Proto": 6, "IP": "", "Port": port, "HostIP": host,
            "HostPort": first, "HostPortEnd": last})
        };
        let given = |ports: Vec<Value>| {
            let mut next = 50_000;
            let options = Map::from_iter([(wire::PORT_MAP.to_owned(), Value::Array(ports))]);
            publish(&options, |_, choice| {
                next += 2;
                choice.clone().find(|port| *port >= next).or(choice.last())
            })
        };
        let told = |ports| {
            given(ports)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        let ports = vec![
            one("0.0.0.0", 80, 8080, 8080),
            one("0.0.0.0", 81, 8081, 8081),
            one("::", 80, 8080, 8080),
            one("::", 81, 8081, 8081),
        ];
        assert_eq!(told(ports), ["*:8080-8081->80-81/tcp (host)"]);
        let mixed = (0..1_500).map(|step| 20_000 + step * 7 % 1_500);
        assert_eq!(
            told(mixed.map(|port| one("", port, port, port)).collect()),
            ["*:20000-21499->20000-21499/tcp (host)"]
        );
        assert_eq!(
            told(vec![one("", 80, 8080, 8080)]),
            ["*:8080->80/tcp (host)"]
        );
        assert_eq!(
            told(vec![
                one("0.0.0.0", 80, 8080, 8080),
                one("0.0.0.0", 81, 8081, 8081)
            ]),
            ["0.0.0.0:8080-8081->80-81/tcp (host)"]
        );
        assert_eq!(
            told(vec![
                one("::", 80, 8080, 8080),
                one("0.0.0.0", 80, 9090, 9090)
            ]),
            ["0.0.0.0:9090->80/tcp (host)", "[::]:8080->80/tcp (host)"]
        );
        assert_eq!(
            told(vec![one("127.0.0.1", 80, 8080, 8080)]),
            ["127.0.0.1:8080->80/tcp (host)"]
        );
        let open = |host| one(host, 80, 0, 0);
        assert_eq!(
            told(vec![open("0.0.0.0"), open("::"), one("", 81, 8000, 8010)]),
            ["*:8010->81/tcp (host)", "*:50002->80/tcp (host)"]
        );
        assert_eq!(
            told(vec![open(""), open("")]),
            ["*:50002->80/tcp (host)", "*:50004->80/tcp (host)"]
        );
        let null = Map::from_iter([(wire::PORT_MAP.to_owned(), Value::Null)]);
        assert_eq!(publish(&null, |_, _| None), Ok(Vec::new()));
    }

    #[test]
    fn a_port_that_a_program_has_is_not_chosen() {
        let program = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = program.local_addr().unwrap().port();
        assert_eq!(free(Protocol::Tcp, port..=port), None);
        drop(program);
        assert_eq!(free(Protocol::Tcp, port..=port), Some(port));
        assert!(free(Protocol::Udp, DYNAMIC).is_some_and(|port| DYNAMIC.contains(&port)));
    }
}
