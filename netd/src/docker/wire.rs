//! Requests and responses of Docker's network-driver and IPAM-driver plugin protocols, with exactly
//! their JSON names (moby, libnetwork: `drivers/remote/api/api.go`, `ipams/remote/api/api.go`).
//! Pure.

use std::collections::BTreeMap;

use model::Family;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Media type of every response.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// What a user gave with `-o`, among the options of a network.
pub(crate) const GENERIC: &str = "com.docker.network.generic";
/// Whether a network is `--internal`, among its options.
pub(crate) const INTERNAL: &str = "com.docker.network.internal";
/// Published ports of a container, among the options of its sandbox.
pub(crate) const PORT_MAP: &str = "com.docker.network.portmap";
/// Gateway: key of a pool's data, and type of an address.
pub(crate) const GATEWAY: &str = "com.docker.network.gateway";
/// The kind of an address that is asked for.
pub(crate) const ADDRESS_TYPE: &str = "RequestAddressType";
/// The Ethernet address of the endpoint that an address is for.
pub(crate) const MAC_ADDRESS: &str = "com.docker.network.endpoint.macaddress";

/// `/Plugin.Activate`.
pub(crate) fn activation() -> Value {
    json!({"Implements": ["NetworkDriver", "IpamDriver"]})
}

/// `/NetworkDriver.GetCapabilities`: every engine knows its own networks, whose endpoints reach all
/// hosts.
pub(crate) fn network_capabilities() -> Value {
    json!({"Scope": "local", "ConnectivityScope": "global"})
}

/// `/IpamDriver.GetCapabilities`: requires Ethernet addresses in requests; holds survive restarts
/// of the engine.
pub(crate) fn ipam_capabilities() -> Value {
    json!({"RequiresMACAddress": true, "RequiresRequestReplay": false})
}

/// `/IpamDriver.GetDefaultAddressSpaces`.
pub(crate) fn address_spaces() -> Value {
    json!({"LocalDefaultAddressSpace": ADDRESS_SPACE, "GlobalDefaultAddressSpace": ADDRESS_SPACE})
}

/// The one address space: that of the cluster. Pools of other managers of addresses have other
/// ones.
pub(crate) const ADDRESS_SPACE: &str = "netd";

/// An answer without content.
#[derive(Debug, Serialize)]
pub(crate) struct Nothing {}

/// `/NetworkDriver.CreateNetwork`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub(crate) struct CreateNetwork {
    /// The engine's own identity of it.
    #[serde(rename = "NetworkID")]
    pub network: String,
    /// [`GENERIC`], [`INTERNAL`].
    #[serde(deserialize_with = "or_default")]
    pub options: Map<String, Value>,
    /// IPv4.
    #[serde(rename = "IPv4Data", deserialize_with = "or_default")]
    pub ipv4: Vec<PoolData>,
    /// IPv6.
    #[serde(rename = "IPv6Data", deserialize_with = "or_default")]
    pub ipv6: Vec<PoolData>,
}

/// A pool of a network that is being made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PoolData {
    /// Whose it is.
    pub address_space: String,
    /// Prefix.
    pub pool: String,
    /// Address with the prefix's length.
    pub gateway: String,
    /// Addresses with the prefix's length that no container may have, by name.
    #[serde(deserialize_with = "or_default")]
    pub aux_addresses: BTreeMap<String, String>,
}

/// Any request about a network as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct OfNetwork {
    /// The engine's own identity of it.
    #[serde(rename = "NetworkID")]
    pub network: String,
}

/// Any request about an endpoint: of these members each has some.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct OfEndpoint {
    /// The engine's own identity of the network.
    #[serde(rename = "NetworkID")]
    pub network: String,
    /// The engine's own identity of the endpoint.
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
    /// Values that the engine has for the endpoint already.
    pub interface: Option<Interface>,
    /// The file of the container's network namespace; it may not be there yet.
    pub sandbox_key: String,
    /// Of the endpoint in `CreateEndpoint`, of the sandbox otherwise.
    #[serde(deserialize_with = "or_default")]
    pub options: Map<String, Value>,
}

/// Addresses of an endpoint; empty where there is none.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Interface {
    /// With the length of a prefix.
    pub address: String,
    /// With the length of a prefix.
    #[serde(rename = "AddressIPv6")]
    pub address_ipv6: String,
    /// Ethernet.
    pub mac_address: String,
}

/// The answer to `/NetworkDriver.CreateEndpoint`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Created {
    /// Values that the engine did not have for the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<Added>,
}

/// See [`Created`].
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Added {
    /// With the length of a prefix.
    #[serde(rename = "AddressIPv6")]
    pub address_ipv6: String,
}

/// The answer to `/NetworkDriver.EndpointOperInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OperInfo {
    /// Information for `docker inspect`.
    pub value: Map<String, Value>,
}

/// The answer to `/NetworkDriver.Join`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Joined {
    /// The device to move.
    pub interface_name: InterfaceName,
    /// The way out; empty where there is none.
    pub gateway: String,
    /// The way out; empty where there is none.
    #[serde(rename = "GatewayIPv6")]
    pub gateway_ipv6: String,
    /// Beside the ways out.
    pub static_routes: Vec<StaticRoute>,
    /// The engine must not add its own bridge as way out.
    pub disable_gateway_service: bool,
}

/// A device on the host, and the name, less a number, that it has inside.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InterfaceName {
    /// On the host.
    pub src_name: String,
    /// Inside.
    pub dst_prefix: String,
}

/// A route inside a container.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StaticRoute {
    /// Prefix.
    pub destination: String,
    /// 0: by `next_hop`; 1: on the link.
    pub route_type: u8,
    /// Address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_hop: String,
}

/// One of [`PORT_MAP`] (libnetwork's `types.PortBinding`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PortBinding {
    /// Its number.
    pub proto: u8,
    /// Of the container.
    pub port: u16,
    /// Of the host; empty for all of them.
    #[serde(rename = "HostIP", default)]
    pub host_ip: String,
    /// 0: any.
    #[serde(default)]
    pub host_port: u16,
    /// The last one that may be chosen.
    #[serde(default)]
    pub host_port_end: u16,
}

/// `/IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RequestPool {
    /// A prefix, empty for any.
    pub pool: String,
    /// `--ip-range`.
    pub sub_pool: String,
    /// `--ipam-opt`.
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
    /// Whether addresses of IPv6 are asked for.
    pub v6: bool,
}

impl RequestPool {
    /// The family of addresses that is asked for.
    pub(crate) fn family(&self) -> Family {
        if self.v6 { Family::V6 } else { Family::V4 }
    }
}

/// Its answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Pool {
    /// Its id in later requests.
    #[serde(rename = "PoolID")]
    pub id: String,
    /// Prefix.
    pub pool: String,
    /// [`GATEWAY`].
    pub data: BTreeMap<String, String>,
}

/// `/IpamDriver.RequestAddress`, `ReleaseAddress`, `ReleasePool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct OfPool {
    /// [`Pool::id`].
    #[serde(rename = "PoolID")]
    pub pool: String,
    /// Empty for any.
    pub address: String,
    /// [`ADDRESS_TYPE`], [`MAC_ADDRESS`].
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
}

/// The answer to `/IpamDriver.RequestAddress`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Address {
    /// With the length of a prefix.
    pub address: String,
    /// Nothing is to be said of it.
    pub data: BTreeMap<String, String>,
}

impl CreateNetwork {
    /// What the user gave with `-o`.
    pub(crate) fn generic(&self) -> BTreeMap<String, String> {
        let given = self
            .options
            .get(GENERIC)
            .and_then(Value::as_object)
            .into_iter()
            .flatten();
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        given
            .map(|(key, value)| (key.clone(), text(value)))
            .collect()
    }

    /// A boolean option; false if missing.
    pub(crate) fn flag(&self, option: &str) -> bool {
        self.options
            .get(option)
            .is_some_and(|value| value.as_bool() == Some(true) || value == "true")
    }
}

/// Go writes empty lists and maps as `null`.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_as_the_engine_writes_it() {
        let text = r#"{"NetworkID":"b4d","Options":{"com.docker.network.enable_ipv6":true,
            "com.docker.network.generic":{"netd.network":"my-net","encrypted":""},
            "com.docker.network.internal":true},
            "IPv4Data":[{"AddressSpace":"netd","Gateway":"10.0.9.1/24","Pool":"10.0.9.0/24",
            "AuxAddresses":{"router":"10.0.9.9/24"}}],"IPv6Data":null}"#;
        let read: CreateNetwork = serde_json::from_str(text).unwrap();
        assert_eq!(read.network, "b4d");
        assert!(read.flag(INTERNAL) && !read.flag("other"));
        assert_eq!(read.generic()["netd.network"], "my-net");
        assert_eq!(read.ipv4[0].aux_addresses["router"], "10.0.9.9/24");
        assert_eq!(
            (read.ipv4[0].pool.as_str(), read.ipv4[0].gateway.as_str()),
            ("10.0.9.0/24", "10.0.9.1/24")
        );
        assert!(read.ipv6.is_empty());
    }

    #[test]
    fn an_endpoint_is_read_as_the_engine_writes_it() {
        let text = r#"{"NetworkID":"b4d","EndpointID":"e1","SandboxKey":"/var/run/docker/netns/1",
            "Interface":{
            "Address":"10.0.9.5/32","AddressIPv6":"fd00:9::5/128",
            "MacAddress":"02:42:ac:11:00:02"},"Options":{
            "com.docker.network.portmap":[{"Proto":6,"IP":"","Port":80,"HostIP":"",
            "HostPort":8080,"HostPortEnd":8080}]}}"#;
        let read: OfEndpoint = serde_json::from_str(text).unwrap();
        let interface = read.interface.unwrap();
        assert_eq!(interface.address_ipv6, "fd00:9::5/128");
        assert_eq!(interface.mac_address, "02:42:ac:11:00:02");
        assert_eq!(
            (read.endpoint.as_str(), read.sandbox_key.as_str()),
            ("e1", "/var/run/docker/netns/1")
        );
        let ports: Vec<PortBinding> =
            serde_json::from_value(read.options[PORT_MAP].clone()).unwrap();
        assert_eq!(
            (ports[0].proto, ports[0].port, ports[0].host_port),
            (6, 80, 8080)
        );
    }

    #[test]
    fn answers_are_written_as_the_engine_reads_them() {
        let route = StaticRoute {
            destination: "10.0.9.1/32".to_owned(),
            route_type: 1,
            next_hop: String::new(),
        };
        let joined = Joined {
            interface_name: InterfaceName {
                src_name: "nc1".to_owned(),
                dst_prefix: "eth".to_owned(),
            },
            gateway: "10.0.9.1".to_owned(),
            static_routes: vec![route],
            ..Joined::default()
        };
        let expected = json!({"InterfaceName": {"SrcName": "nc1", "DstPrefix": "eth"},
            "Gateway": "10.0.9.1",
            "GatewayIPv6": "", "StaticRoutes": [{"Destination": "10.0.9.1/32", "RouteType": 1}],
            "DisableGatewayService": false});
        assert_eq!(serde_json::to_value(joined).unwrap(), expected);
        let data = BTreeMap::from([(GATEWAY.to_owned(), "10.0.9.1/24".to_owned())]);
        let pool = Pool {
            id: "p".to_owned(),
            pool: "10.0.9.0/24".to_owned(),
            data,
        };
        let expected = json!({"PoolID": "p", "Pool": "10.0.9.0/24",
            "Data": {"com.docker.network.gateway": "10.0.9.1/24"}});
        assert_eq!(serde_json::to_value(pool).unwrap(), expected);
    }

    #[test]
    fn pools_are_read_as_the_engine_writes_them() {
        let text = r#"{"AddressSpace":"netd","Pool":"10.0.9.0/24","SubPool":"","Options":null,
            "V6":false}"#;
        let read: RequestPool = serde_json::from_str(text).unwrap();
        assert_eq!(
            (read.pool.as_str(), read.v6, read.options.len()),
            ("10.0.9.0/24", false, 0)
        );
        let text = r#"{"PoolID":"p","Address":"",
            "Options":{"RequestAddressType":"com.docker.network.gateway"}}"#;
        let read: OfPool = serde_json::from_str(text).unwrap();
        assert_eq!(
            (read.pool.as_str(), read.options[ADDRESS_TYPE].as_str()),
            ("p", GATEWAY)
        );
    }
}
