//! `create`: the network that Podman is about to keep, completed by what the cluster's is. Pure.

use std::collections::BTreeMap;

use model::{Kind, NetworkInfo, Refusal, Subnet};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::NETWORK;
use crate::config::or_default;

/// The network that is asked for.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Asked {
    fields: Fields,
    /// As it came: what a newer Podman says beside is kept.
    whole: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Fields {
    name: String,
    network_interface: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    subnets: Vec<Prefix>,
    #[serde(default)]
    ipv6_enabled: bool,
    #[serde(default)]
    internal: bool,
    dns_enabled: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    ipam_options: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    options: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    routes: Vec<Value>,
    #[serde(default, deserialize_with = "or_default")]
    network_dns_servers: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Prefix {
    subnet: String,
    gateway: Option<String>,
    lease_range: Option<Value>,
}

impl TryFrom<Value> for Asked {
    type Error = serde_json::Error;

    fn try_from(value: Value) -> Result<Self, serde_json::Error> {
        Ok(Self {
            fields: Fields::deserialize(&value)?,
            whole: Map::deserialize(value)?,
        })
    }
}

impl Asked {
    pub(super) fn name(&self) -> &str {
        &self.fields.name
    }

    /// The cluster's network that it is to be: by default that of its own name, as with CNI.
    pub(super) fn of_cluster(&self) -> &str {
        self.fields
            .options
            .get(NETWORK)
            .unwrap_or(&self.fields.name)
    }

    /// Refuses what no network of ours has.
    pub(super) fn refuse_unsupported(&self) -> Result<(), Refusal> {
        let fields = &self.fields;
        let interface = fields.network_interface.as_deref().unwrap_or_default();
        let manager = fields.ipam_options.get("driver").map_or("", String::as_str);
        let range = |prefix: &Prefix| prefix.lease_range.as_ref().is_some_and(|it| !it.is_null());
        if !interface.is_empty() {
            let cause = format!("--interface-name {interface}: it has no interface on the host");
            return Err(invalid(cause, "leave --interface-name out"));
        }
        if !matches!(manager, "" | "none") {
            let cause = format!("--ipam-driver {manager}: its addresses come from the cluster");
            return Err(invalid(cause, "leave --ipam-driver out"));
        }
        if fields.subnets.iter().any(range) {
            let next = "leave --ip-range out: `swarmctl network create --ip-range` has one for all \
                        hosts, and `podman run --ip` chooses an address";
            return Err(invalid(
                "--ip-range: its addresses come from the cluster",
                next,
            ));
        }
        if !fields.routes.is_empty() {
            let next = "leave --route out: routes come from the cluster's network";
            return Err(invalid("--route is not supported", next));
        }
        if !fields.network_dns_servers.is_empty() {
            let next = "leave --dns out: `podman run --dns` gives a container other resolvers";
            return Err(invalid("--dns: the cluster's resolver answers on it", next));
        }
        if fields.dns_enabled == Some(false) {
            let next = "leave --disable-dns out: `podman run --dns` gives a container other \
                        resolvers";
            return Err(invalid("--disable-dns: its names are the cluster's", next));
        }
        Ok(())
    }

    /// As Podman is to keep it. Errors: it is not as asked for.
    pub(super) fn described(&self, network: &NetworkInfo) -> Result<Value, Refusal> {
        if !network.spec.attachable {
            let cause = format!(
                "network {} of the cluster is not attachable: it is for services only",
                network.spec.name
            );
            let next = "make one with `swarmctl network create --attachable`";
            return Err(Refusal::new(Kind::Precondition, cause, next));
        }
        self.refuse_mismatch(network)?;
        let (spec, leases) = (&network.spec, &network.status.subnets);
        let subnets = leases.iter().map(|lease| {
            let mut subnet = json!({ "subnet": lease.subnet.to_string() });
            if !spec.internal {
                subnet["gateway"] = lease.gateway.to_string().into();
            }
            subnet
        });
        let mut options = self.fields.options.clone();
        options.insert(NETWORK.to_owned(), self.of_cluster().to_owned());
        let mut fields = self.whole.clone();
        fields.insert("subnets".to_owned(), subnets.collect());
        fields.insert("options".to_owned(), json!(options));
        fields.insert("internal".to_owned(), spec.internal.into());
        let has_ipv6 = leases.iter().any(|lease| lease.gateway.is_ipv6());
        fields.insert("ipv6_enabled".to_owned(), has_ipv6.into());
        // Otherwise Podman would choose addresses by itself, from a list on each host.
        fields.insert("ipam_options".to_owned(), json!({ "driver": "none" }));
        // This is about aardvark-dns. Our resolver is named in what `setup` answers.
        fields.insert("dns_enabled".to_owned(), false.into());
        Ok(Value::Object(fields))
    }

    fn refuse_mismatch(&self, network: &NetworkInfo) -> Result<(), Refusal> {
        let (fields, spec) = (&self.fields, &network.spec);
        let differs = |what: String, option: &str| {
            let cause = format!(
                "network {} of the cluster is not as asked for: {what}",
                spec.name
            );
            Err(Refusal::new(
                Kind::Conflict,
                cause,
                format!("leave {option} out"),
            ))
        };
        for prefix in &fields.subnets {
            let subnet: Result<Subnet, _> = prefix.subnet.parse();
            let mut leases = network.status.subnets.iter();
            let Some(lease) = leases.find(|lease| Ok(lease.subnet) == subnet) else {
                return differs(format!("it has no subnet {}", prefix.subnet), "--subnet");
            };
            let gateway = prefix.gateway.as_deref().unwrap_or_default();
            if !gateway.is_empty() && gateway.parse() != Ok(lease.gateway) {
                let what = format!(
                    "the gateway of {} is {}, not {gateway}",
                    lease.subnet, lease.gateway
                );
                return differs(what, "--gateway");
            }
        }
        if fields.internal && !spec.internal {
            return differs("it has a way out".to_owned(), "--internal");
        }
        let mut leases = network.status.subnets.iter();
        if fields.ipv6_enabled && !leases.any(|lease| lease.gateway.is_ipv6()) {
            return differs("it has no subnet of IPv6".to_owned(), "--ipv6");
        }
        for (key, value) in fields.options.iter().filter(|(key, _)| *key != NETWORK) {
            let has = match key.as_str() {
                "encrypted" => matches!(value.as_str(), "" | "true" | "1") == spec.encrypted,
                "driver" => *value == spec.driver.to_string(),
                _ => spec.options.get(key) == Some(value),
            };
            if !has {
                return differs(
                    format!("{key}={value} does not match"),
                    &format!("-o {key}"),
                );
            }
        }
        Ok(())
    }
}

fn invalid(cause: impl Into<String>, next: &str) -> Refusal {
    Refusal::new(Kind::Invalid, cause, next)
}
