//! The result of ADD: netd's reply in the format of the requested version (CNI specification 1.1,
//! section 5, and older releases).

use std::net::IpAddr;

use api::{Attached, CniInterface};
use model::SubnetLease;
use serde_json::{Map, Value, json};

use crate::{config::Dns, version::Version};

/// The result for an interface. If there is a `prevResult`, it is extended.
pub(crate) fn of(
    version: Version,
    asked: &CniInterface,
    attached: &Attached,
    previous: Option<Value>,
    dns: &Dns,
) -> Value {
    let mut result = match previous {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    result.insert("cniVersion".to_owned(), version.text().into());
    let before = result
        .get("interfaces")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let index = (!asked.only_addresses).then_some(before);
    let ips = attached
        .container
        .addresses
        .iter()
        .map(|&address| ip(version, attached, address, index));
    let routes = attached
        .ways_out
        .iter()
        .map(|gateway| json!({ "dst": everything(*gateway), "gw": gateway }));
    if !asked.only_addresses {
        extend(
            &mut result,
            "interfaces",
            [interface(version, asked, attached)],
        );
    }
    extend(&mut result, "ips", ips);
    extend(&mut result, "routes", routes);
    let dns = names(result.remove("dns"), &attached.resolvers, dns);
    if !dns.is_empty() {
        result.insert("dns".to_owned(), dns.into());
    }
    Value::Object(result)
}

fn interface(version: Version, asked: &CniInterface, attached: &Attached) -> Value {
    let name = asked.name.own.as_ref().unwrap_or(&asked.name.interface);
    let mut interface =
        json!({ "name": name, "mac": attached.container.mac, "sandbox": asked.sandbox });
    if let Some(mtu) = attached.mtu.filter(|_| version >= Version::V110) {
        interface["mtu"] = mtu.into();
    }
    interface
}

fn ip(version: Version, attached: &Attached, address: IpAddr, interface: Option<usize>) -> Value {
    let mut ip = json!({ "address": with_length(attached, address) });
    if let Some(gateway) = gateway(attached, address) {
        ip["gateway"] = gateway.to_string().into();
    }
    if version < Version::V100 {
        ip["version"] = if address.is_ipv4() { "4" } else { "6" }.into();
    }
    if let Some(index) = interface {
        ip["interface"] = index.into();
    }
    ip
}

/// The address with the length of its network's prefix.
pub(crate) fn with_length(attached: &Attached, address: IpAddr) -> String {
    let length = match lease(attached, address) {
        Some(lease) => lease.subnet.prefix(),
        None if address.is_ipv4() => 32,
        None => 128,
    };
    format!("{address}/{length}")
}

/// The gateway beside the address, where its network has a way out.
pub(crate) fn gateway(attached: &Attached, address: IpAddr) -> Option<IpAddr> {
    lease(attached, address)
        .filter(|_| !attached.internal)
        .map(|lease| lease.gateway)
}

fn lease(attached: &Attached, address: IpAddr) -> Option<&SubnetLease> {
    attached
        .subnets
        .iter()
        .find(|lease| lease.subnet.contains(address))
}

fn everything(gateway: IpAddr) -> &'static str {
    if gateway.is_ipv4() {
        "0.0.0.0/0"
    } else {
        "::/0"
    }
}

/// DNS settings of the result. Our resolvers come first, because others do not know the cluster's
/// names; those of earlier plugins follow.
fn names(previous: Option<Value>, resolvers: &[IpAddr], dns: &Dns) -> Map<String, Value> {
    let mut names = match previous {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let own = resolvers
        .iter()
        .chain(&dns.nameservers)
        .map(ToString::to_string);
    for (key, own) in [
        ("nameservers", own.collect()),
        ("search", dns.search.clone()),
        ("options", dns.options.clone()),
    ] {
        let mut all: Vec<Value> = Vec::new();
        let previous = names
            .remove(key)
            .and_then(|value| value.as_array().cloned())
            .unwrap_or_default();
        for value in own.into_iter().map(Value::from).chain(previous) {
            if !all.contains(&value) {
                all.push(value);
            }
        }
        if !all.is_empty() {
            names.insert(key.to_owned(), all.into());
        }
    }
    if !dns.domain.is_empty() {
        names.insert("domain".to_owned(), dns.domain.clone().into());
    }
    names
}

/// Appends values to the list under this key, which may be missing.
fn extend(result: &mut Map<String, Value>, key: &str, values: impl IntoIterator<Item = Value>) {
    let before = result
        .remove(key)
        .and_then(|list| list.as_array().cloned())
        .unwrap_or_default();
    result.insert(key.to_owned(), before.into_iter().chain(values).collect());
}
