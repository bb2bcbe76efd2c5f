//! Translates the network configuration on standard input and the environment into a request to
//! netd. Pure; decides nothing about the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use api::{CniInterface, CniName, ContainerRequest};
use model::{
    Bandwidth, CONTAINER_LABELS, ContainerTraits, Mac, ParseError, PublishAt, PublishMode,
    PublishSpec,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{
    environment::{self, Environment, Operation},
    error::{CniError, Code},
    version::Version,
};

/// The plugin's name, whatever its file is called.
pub(crate) const PLUGIN: &str = "netd-cni";

/// A parsed request, and what the result needs beside netd's reply.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Version of the result.
    pub version: Version,
    /// What the daemon is asked.
    pub request: ContainerRequest,
    /// `prevResult`: the result of earlier plugins in the list.
    pub previous: Option<Value>,
    /// DNS settings of the configuration.
    pub dns: Dns,
}

/// As results hold it, and under `dns` in configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Dns {
    pub nameservers: Vec<IpAddr>,
    pub domain: String,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// The fields of a configuration that the plugin reads. Unknown fields are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    plugin: String,
    /// Network of the cluster; default: the configuration's name.
    network: Option<String>,
    /// Name of our interface, if another plugin's interface has the name `CNI_IFNAME`.
    interface: Option<String>,
    ipam: Option<Ipam>,
    dns: Option<Dns>,
    #[serde(default, deserialize_with = "or_default")]
    runtime_config: Capabilities,
    #[serde(default)]
    args: Value,
    prev_result: Option<Value>,
    #[serde(
        default,
        rename = "cni.dev/valid-attachments",
        deserialize_with = "or_default"
    )]
    valid_attachments: Vec<Attachment>,
}

#[derive(Deserialize)]
struct Ipam {
    #[serde(default, rename = "type")]
    plugin: String,
    network: Option<String>,
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifname")]
    interface: String,
}

/// `runtimeConfig`: capability arguments of one container (CNI, CONVENTIONS.md).
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Capabilities {
    #[serde(deserialize_with = "or_default")]
    ips: Vec<String>,
    mac: Option<String>,
    #[serde(deserialize_with = "or_default")]
    port_mappings: Vec<PortMapping>,
    bandwidth: Option<Limits>,
    dns: Option<RuntimeDns>,
    aliases: Option<Aliases>,
    ip_ranges: Option<Value>,
    #[serde(rename = "deviceID")]
    device_id: Option<Value>,
    #[serde(rename = "infinibandGUID")]
    infiniband_guid: Option<Value>,
}

// go-cni (containerd, nerdctl, Nomad) writes the keys of these three with capitals, and lists that
// are not there as null.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    #[serde(alias = "HostPort")]
    host_port: i64,
    #[serde(alias = "ContainerPort")]
    container_port: i64,
    #[serde(default, alias = "Protocol")]
    protocol: String,
    #[serde(default, rename = "hostIP", alias = "HostIP")]
    host_ip: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Limits {
    #[serde(alias = "IngressRate")]
    ingress_rate: u64,
    #[serde(alias = "IngressBurst")]
    ingress_burst: u64,
    #[serde(alias = "EgressRate")]
    egress_rate: u64,
    #[serde(alias = "EgressBurst")]
    egress_burst: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeDns {
    #[serde(alias = "Servers", deserialize_with = "or_default")]
    servers: Vec<IpAddr>,
    #[serde(alias = "Searches", deserialize_with = "or_default")]
    searches: Vec<String>,
    #[serde(alias = "Options", deserialize_with = "or_default")]
    options: Vec<String>,
}

/// A list; Podman writes one per network.
#[derive(Deserialize)]
#[serde(untagged)]
enum Aliases {
    List(Vec<String>),
    ByNetwork(BTreeMap<String, Vec<String>>),
}

/// Parses the request; `program` is the file name that the plugin was called by. Errors: codes 1,
/// 2, 6 and 7. DEL ignores every field that it does not need, because it must succeed.
pub(crate) fn read(
    environment: &Environment,
    program: &str,
    input: &[u8],
) -> Result<Asked, CniError> {
    let configuration: Value =
        serde_json::from_slice(input).map_err(|error| undecodable(&error))?;
    let configuration = match environment.operation {
        Operation::Del => essentials(configuration),
        _ => configuration,
    };
    let configuration: Configuration =
        serde_json::from_value(configuration).map_err(|error| undecodable(&error))?;
    if !environment::is_name(&configuration.name) {
        let next = "`name` is letters, digits, '_', '.' and '-', beginning with a letter or digit";
        return Err(wrong(
            format!(
                "{:?} is not a valid name of a network configuration",
                configuration.name
            ),
            next,
        ));
    }
    let version = Version::of(configuration.cni_version.as_deref(), environment.operation)?;
    if let Some(own) = &configuration.interface {
        environment::interface(own)
            .map_err(|reason| wrong(format!("`interface` {reason}"), "use another name"))?;
    }
    let request = match environment.operation {
        Operation::Add => {
            ContainerRequest::Add(Box::new(interface(environment, program, &configuration)?))
        }
        Operation::Check => {
            ContainerRequest::Check(Box::new(expected(environment, program, &configuration)?))
        }
        Operation::Del => {
            let sandbox = Some(environment.namespace.clone()).filter(|path| !path.is_empty());
            ContainerRequest::Del {
                name: name(environment, &configuration),
                sandbox,
            }
        }
        Operation::Gc => ContainerRequest::Gc {
            valid: valid(&configuration),
            configuration: configuration.name,
        },
        Operation::Status | Operation::Version => ContainerRequest::Status {
            network: network_of(program, &configuration),
        },
    };
    let dns = dns(
        configuration.dns.unwrap_or_default(),
        configuration.runtime_config.dns.unwrap_or_default(),
    );
    Ok(Asked {
        version,
        request,
        previous: configuration.prev_result,
        dns,
    })
}

fn essentials(configuration: Value) -> Value {
    let Value::Object(mut fields) = configuration else {
        return configuration;
    };
    fields.retain(|key, _| ["cniVersion", "name", "interface"].contains(&key.as_str()));
    Value::Object(fields)
}

fn name(environment: &Environment, configuration: &Configuration) -> CniName {
    let own = configuration
        .interface
        .clone()
        .filter(|own| *own != environment.name.interface);
    CniName {
        own,
        ..environment.name.clone()
    }
}

fn valid(configuration: &Configuration) -> Vec<CniName> {
    let names = configuration
        .valid_attachments
        .iter()
        .map(|attachment| CniName {
            container: attachment.container.clone(),
            interface: attachment.interface.clone(),
            own: None,
        });
    names.collect()
}

/// Whether the plugin was called as IPAM plugin: another plugin makes the interface.
fn is_delegate(program: &str, configuration: &Configuration) -> bool {
    let is_ours = |plugin: &str| plugin == program || plugin == PLUGIN;
    !is_ours(&configuration.plugin)
        && configuration
            .ipam
            .as_ref()
            .is_some_and(|ipam| is_ours(&ipam.plugin))
}

/// The network that an interface is on or, where we only give addresses, that gives them.
fn network_of(program: &str, configuration: &Configuration) -> String {
    if is_delegate(program, configuration) {
        network_of_ipam(configuration).clone()
    } else {
        network(configuration).clone()
    }
}

fn network(configuration: &Configuration) -> &String {
    configuration
        .network
        .as_ref()
        .unwrap_or(&configuration.name)
}

/// The one of the section `ipam` comes first.
fn network_of_ipam(configuration: &Configuration) -> &String {
    let ipam = configuration.ipam.as_ref();
    let own = ipam.and_then(|ipam| ipam.network.as_ref());
    own.unwrap_or_else(|| network(configuration))
}

/// What ADD asks for.
fn interface(
    environment: &Environment,
    program: &str,
    configuration: &Configuration,
) -> Result<CniInterface, CniError> {
    let only_addresses = is_delegate(program, configuration);
    if !only_addresses {
        refuse_foreign_addresses(program, configuration)?;
    }
    refuse_unsupported(&configuration.runtime_config)?;
    Ok(CniInterface {
        name: name(environment, configuration),
        network: network_of(program, configuration),
        sandbox: environment.namespace.clone(),
        only_addresses,
        addresses: addresses(environment, configuration)?,
        mac: mac(environment, configuration)?,
        traits: traits(environment, configuration)?,
    })
}

/// The interface that CHECK expects: that of ADD, with the addresses of `prevResult`.
fn expected(
    environment: &Environment,
    program: &str,
    configuration: &Configuration,
) -> Result<CniInterface, CniError> {
    let asked = interface(environment, program, configuration)?;
    let Some(previous) = &configuration.prev_result else {
        return Err(wrong(
            "CHECK comes without `prevResult`",
            "the runtime gives the result of ADD there",
        ));
    };
    if asked.only_addresses {
        return Ok(asked);
    }
    let inside = asked.name.own.as_ref().unwrap_or(&asked.name.interface);
    let interfaces = previous["interfaces"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let is_ours =
        |interface: &Value| interface["name"] == **inside && interface["sandbox"] == *asked.sandbox;
    let Some(index) = interfaces.iter().position(is_ours) else {
        let cause = format!(
            "`prevResult` has no interface {inside} in {}",
            asked.sandbox
        );
        return Err(wrong(cause, "the runtime gives the result of ADD there"));
    };
    let ips = previous["ips"].as_array().map_or(&[][..], Vec::as_slice);
    let of_ours = ips.iter().filter(|ip| ip["interface"] == index);
    let addresses =
        of_ours.map(|ip| address("prevResult", ip["address"].as_str().unwrap_or_default()));
    Ok(CniInterface {
        addresses: addresses.collect::<Result<_, _>>()?,
        ..asked
    })
}

/// Refuses another IPAM plugin: its addresses could belong to other endpoints of the cluster.
fn refuse_foreign_addresses(program: &str, configuration: &Configuration) -> Result<(), CniError> {
    match &configuration.ipam {
        Some(ipam)
            if !ipam.plugin.is_empty() && ipam.plugin != program && ipam.plugin != PLUGIN =>
        {
            Err(unsupported(
                &format!("ipam.type {:?}", ipam.plugin),
                "take `ipam` out: addresses come from the cluster's network; `--ip-range` and \
                 `ips` choose them",
            ))
        }
        _ => Ok(()),
    }
}

fn refuse_unsupported(capabilities: &Capabilities) -> Result<(), CniError> {
    let fields = [
        ("ipRanges", &capabilities.ip_ranges),
        ("deviceID", &capabilities.device_id),
        ("infinibandGUID", &capabilities.infiniband_guid),
    ];
    match fields
        .into_iter()
        .find_map(|(key, value)| Some((key, value.as_ref()?)))
    {
        Some((key, value)) => {
            let next = format!("take {key} out of `capabilities` in the configuration");
            Err(unsupported(&format!("runtimeConfig.{key} {value}"), &next))
        }
        None => Ok(()),
    }
}

/// Requested addresses: of the capability `ips`, and of `args.cni.ips` or else `CNI_ARGS`. nerdctl
/// gives IPv4 in `CNI_ARGS` and IPv6 in `ips`.
fn addresses(
    environment: &Environment,
    configuration: &Configuration,
) -> Result<Vec<IpAddr>, CniError> {
    let mut found = BTreeSet::new();
    for text in &configuration.runtime_config.ips {
        found.insert(address("runtimeConfig.ips", text)?);
    }
    let arguments = configuration.args["cni"]["ips"].as_array();
    for text in arguments.into_iter().flatten() {
        found.insert(address("args.cni.ips", text.as_str().unwrap_or_default())?);
    }
    if arguments.is_none() {
        let listed = environment.arguments.get("IP").map_or("", String::as_str);
        for text in listed.split(',').filter(|text| !text.is_empty()) {
            found.insert(address("CNI_ARGS IP", text)?);
        }
    }
    one_of_each_family(found)
}

/// Refuses several addresses of one family.
pub(crate) fn one_of_each_family(found: BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, CniError> {
    let of_family = |v4: bool| {
        found
            .iter()
            .filter(|address| address.is_ipv4() == v4)
            .count()
    };
    if of_family(true) > 1 || of_family(false) > 1 {
        let next = "an interface has one address of each family: ask for one";
        return Err(wrong(
            format!("several addresses of one family are requested: {found:?}"),
            next,
        ));
    }
    Ok(found.into_iter().collect())
}

/// An address with or without a prefix length. The length is ignored: it is the network's.
pub(crate) fn address(field: &str, text: &str) -> Result<IpAddr, CniError> {
    let bare = text.split_once('/').map_or(text, |(bare, _)| bare);
    bare.parse().map_err(|_| {
        wrong(
            format!("{field} holds {text:?}, which is not an IP address"),
            "write 10.0.9.5 or fd00::5",
        )
    })
}

fn mac(environment: &Environment, configuration: &Configuration) -> Result<Option<Mac>, CniError> {
    let asked = configuration
        .runtime_config
        .mac
        .as_ref()
        .or_else(|| environment.arguments.get("MAC"));
    asked
        .filter(|text| !text.is_empty())
        .map(|text| mac_of_one(text))
        .transpose()
}

/// The Ethernet address of one interface.
pub(crate) fn mac_of_one(text: &str) -> Result<Mac, CniError> {
    match text.parse() {
        Ok(mac @ Mac(bytes)) if bytes[0] & 1 == 0 && bytes != [0; 6] => Ok(mac),
        _ => Err(wrong(
            format!("{text:?} is not the Ethernet address of one interface"),
            "write 02:42:0a:00:09:05",
        )),
    }
}

fn traits(
    environment: &Environment,
    configuration: &Configuration,
) -> Result<ContainerTraits, CniError> {
    let capabilities = &configuration.runtime_config;
    let mut traits = ContainerTraits {
        container: environment.name.container.clone(),
        name: pod(&environment.arguments).unwrap_or_default(),
        aliases: aliases(capabilities.aliases.as_ref(), &configuration.name),
        publish: capabilities
            .port_mappings
            .iter()
            .map(publish)
            .collect::<Result<_, _>>()?,
        bandwidth: bandwidth(capabilities.bandwidth.as_ref())?,
        configuration: configuration.name.clone(),
        ..ContainerTraits::default()
    };
    let labels = labels(&configuration.args["cni"]["labels"])?;
    for key in CONTAINER_LABELS {
        for (_, value) in labels.iter().filter(|(of, _)| *of == key) {
            let refuse = |error: ParseError| misread("args.cni.labels", error);
            traits.take_label(key, value).map_err(refuse)?;
        }
    }
    Ok(traits)
}

/// Labels of ours, of the list `[{"key": …, "value": …}]`; those of others mean nothing here.
fn labels(list: &Value) -> Result<Vec<(&str, &str)>, CniError> {
    let field = "args.cni.labels";
    let next = "write [{ \"key\": \"netd.service\", \"value\": \"web\" }]";
    let list = match list {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err(wrong(format!("{field} is no list"), next)),
    };
    let mut labels = Vec::new();
    for label in list {
        let key = label["key"].as_str().unwrap_or_default();
        if !CONTAINER_LABELS.contains(&key) {
            continue;
        }
        let Some(value) = label["value"].as_str() else {
            return Err(wrong(
                format!("{field}: the value of {key} is no text"),
                next,
            ));
        };
        labels.push((key, value));
    }
    Ok(labels)
}

/// Name of the pod. It includes the Kubernetes namespace, because two namespaces may have pods of
/// one name.
fn pod(arguments: &BTreeMap<String, String>) -> Option<String> {
    let pod = arguments.get("K8S_POD_NAME")?;
    let namespace = arguments
        .get("K8S_POD_NAMESPACE")
        .filter(|name| !name.is_empty() && *name != "default");
    Some(namespace.map_or(pod.clone(), |namespace| format!("{pod}-{namespace}")))
}

fn aliases(aliases: Option<&Aliases>, configuration: &str) -> BTreeSet<String> {
    let list = match aliases {
        Some(Aliases::List(list)) => Some(list),
        Some(Aliases::ByNetwork(lists)) => lists.get(configuration),
        None => None,
    };
    list.into_iter().flatten().cloned().collect()
}

fn publish(mapping: &PortMapping) -> Result<PublishSpec, CniError> {
    let port = |key: &str, number: i64| {
        let port = u16::try_from(number).ok().filter(|&port| port > 0);
        port.ok_or_else(|| {
            wrong(
                format!("portMappings: {key} is {number}"),
                "ports are 1 to 65535",
            )
        })
    };
    let protocol = match mapping.protocol.as_str() {
        "" => Ok(model::Protocol::Tcp),
        name => name.to_ascii_lowercase().parse(),
    };
    let protocol = protocol.map_err(|error: ParseError| misread("portMappings", error))?;
    let at = match mapping.host_ip.as_str() {
        "" => PublishAt::Everywhere,
        text => PublishAt::Address(address("portMappings: hostIP", text)?),
    };
    Ok(PublishSpec {
        published: port("hostPort", mapping.host_port)?,
        target: port("containerPort", mapping.container_port)?,
        count: 1,
        protocol,
        mode: PublishMode::Host,
        at,
        allow: Vec::new(),
    })
}

/// Bandwidth limits. As in the reference plugin a rate needs a burst.
fn bandwidth(limits: Option<&Limits>) -> Result<Bandwidth, CniError> {
    let Some(limits) = limits else {
        return Ok(Bandwidth::default());
    };
    for (way, rate, burst) in [
        ("ingress", limits.ingress_rate, limits.ingress_burst),
        ("egress", limits.egress_rate, limits.egress_burst),
    ] {
        if (rate == 0) != (burst == 0) {
            let cause = format!("bandwidth: {way}Rate is {rate} and {way}Burst {burst}");
            return Err(wrong(
                cause,
                "give both, in bits per second and bits, or neither",
            ));
        }
    }
    Ok(Bandwidth {
        ingress_rate: limits.ingress_rate,
        ingress_burst: limits.ingress_burst,
        egress_rate: limits.egress_rate,
        egress_burst: limits.egress_burst,
    })
}

/// Merges DNS settings: those of the runtime override those of the configuration.
fn dns(of_configuration: Dns, of_runtime: RuntimeDns) -> Dns {
    fn either<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
        if first.is_empty() { second } else { first }
    }
    Dns {
        nameservers: either(of_runtime.servers, of_configuration.nameservers),
        domain: of_configuration.domain,
        search: either(of_runtime.searches, of_configuration.search),
        options: either(of_runtime.options, of_configuration.options),
    }
}

/// `null` is what Go writes for an empty list.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn undecodable(error: &serde_json::Error) -> CniError {
    let next = "the runtime gives a network configuration as JSON on standard input";
    CniError::new(
        Code::Decoding,
        format!("the network configuration cannot be read: {error}"),
        next,
    )
}

fn unsupported(field: &str, next: &str) -> CniError {
    CniError::new(Code::Unsupported, format!("{field} is not supported"), next)
}

/// A value of this field that cannot be read.
pub(crate) fn misread(field: &str, error: ParseError) -> CniError {
    let error = error.within(field);
    wrong(error.cause, &error.next)
}

pub(crate) fn wrong(cause: impl Into<String>, next: &str) -> CniError {
    CniError::new(Code::Configuration, cause, next)
}
