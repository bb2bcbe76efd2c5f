//! Published ports of a container in the engine's format. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use model::{Protocol, PublishAt, PublishMode, PublishSpec, Refusal};
use serde_json::{Map, Value};

use super::{refusal::invalid, wire};

/// The ports of the host that are to lead to a container. Neighbours are one range.
pub(crate) fn publish(options: &Map<String, Value>) -> Result<Vec<PublishSpec>, Refusal> {
    let Some(given) = options.get(wire::PORT_MAP).filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let bindings: Vec<wire::PortBinding> = serde_json::from_value(given.clone())
        .map_err(|error| invalid(format!("the ports cannot be read: {error}"), ""))?;
    let published: Result<Vec<PublishSpec>, Refusal> = bindings.iter().map(published).collect();
    let mut ports: Vec<PublishSpec> = Vec::new();
    for port in in_order(published?) {
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

fn published(binding: &wire::PortBinding) -> Result<PublishSpec, Refusal> {
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
    // The engine does not ask a driver which port was chosen, so nobody would get to know.
    if binding.host_port == 0 || binding.host_port_end > binding.host_port {
        let cause = format!(
            "no single host port is given for {}/{protocol}",
            binding.port
        );
        return Err(invalid(
            cause,
            &format!(
                "publish it as -p 8080:{}, with a port of the host",
                binding.port
            ),
        ));
    }
    let at = match binding.host_ip.parse::<IpAddr>() {
        Ok(address) => PublishAt::Address(address),
        Err(_) => PublishAt::Everywhere,
    };
    Ok(of_container(protocol, binding.host_port, binding.port, at))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn consecutive_ports_are_one_range_and_random_ones_refused() {
        let one = |host: &str, port: u16, first: u16, last: u16| {
            json!({"Proto": 6, "IP": "", "Port": port, "HostIP": host,
            "HostPort": first, "HostPortEnd": last})
        };
        let given = |ports: Vec<Value>| {
            publish(&Map::from_iter([(
                wire::PORT_MAP.to_owned(),
                Value::Array(ports),
            )]))
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
        assert!(
            given(vec![one("", 80, 0, 0)]).is_err()
                && given(vec![one("", 80, 8000, 8010)]).is_err()
        );
        assert_eq!(
            publish(&Map::from_iter([(wire::PORT_MAP.to_owned(), Value::Null)])),
            Ok(Vec::new())
        );
    }
}
