//! Validates specs by themselves, independent of the state.

mod container;
mod invalid;
mod naming;

pub(crate) use container::container;
pub(crate) use naming::is_name;

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use model::{
    Balance, Driver, DriverConfig, EndpointMode, HealthCheck, Level, NetworkSpec, Node, Parent,
    ParseError, PublishAt, PublishMode, PublishSpec, Refusal, Runtime, ServiceSpec,
};

use invalid::invalid;
use naming::MAX_NAME;

/// Most replicas of one service: a typing error must not fill the log.
pub const MAX_REPLICAS: u32 = 10_000;
/// The most networks of one service: each is an interface of every task.
const MAX_NETWORKS: usize = 16;
/// The most ports of the hosts that one service publishes: each is reserved on every host.
const MAX_PUBLISHED: usize = 1_000;
/// Of ranges, however long, from [`Level::COMPOUNDS`] on.
const MAX_RANGES: usize = 1_000;
/// Longest affinity, in seconds: a day.
const MAX_AFFINITY: u32 = 86_400;
/// The least MTU of IPv4 (RFC 791 section 3.2) and of IPv6 (RFC 8200 section 5), in bytes.
const LEAST_MTU: (u32, u32) = (68, 1280);
const GREATEST_MTU: u32 = 65_535;

pub(crate) fn node(node: &Node) -> Result<(), Refusal> {
    Node::check_hostname(&node.hostname)?;
    let is_nobodys = |address: &&IpAddr| address.is_unspecified() || address.is_multicast();
    match [&node.address.ip(), &node.vtep]
        .into_iter()
        .find(is_nobodys)
    {
        None => Ok(()),
        Some(address) => {
            let next = "give one of the host's own addresses with `--advertise-addr` or \
                        `--data-path-addr`";
            Err(invalid(
                format!("{address} is not an address that other hosts can reach"),
                next,
            ))
        }
    }
}

/// The ports that Swarm allows too. Encrypted networks take the next one.
pub(crate) fn data_path_port(port: u16) -> Result<(), Refusal> {
    if (1024..49151).contains(&port) {
        return Ok(());
    }
    Err(invalid(
        format!("tunnels cannot use UDP port {port}"),
        "give a --data-path-port from 1024 to 49150",
    ))
}

pub(crate) fn network(spec: &NetworkSpec, level: Level) -> Result<(), Refusal> {
    network_name(&spec.name, level)?;
    if spec.encrypted && spec.driver.is_lan() {
        let cause = format!("networks of driver {} cannot be encrypted", spec.driver);
        return Err(invalid(
            cause,
            "leave --encrypted out, or use the driver overlay",
        ));
    }
    let known: &[&str] = match spec.driver {
        Driver::Overlay => &["mtu"],
        Driver::Macvlan => &["mtu", "parent", "macvlan_mode"],
        Driver::Ipvlan => &["mtu", "parent", "ipvlan_mode"],
    };
    if let Some(unknown) = spec
        .options
        .keys()
        .find(|key| !known.contains(&key.as_str()))
    {
        let cause = format!("there is no option {unknown:?} of {} networks", spec.driver);
        return Err(invalid(
            cause,
            format!("the options are: {}", known.join(", ")),
        ));
    }
    if spec.driver.is_lan() && spec.subnets.is_empty() {
        let next = "give it with --subnet, and its router with --gateway; --ip-range names the \
                    part that is ours to give";
        return Err(invalid(
            format!(
                "a {} network needs to know the prefix of its LAN",
                spec.driver
            ),
            next,
        ));
    }
    driver(spec, 0)?;
    mtu(spec).map(drop)
}

/// How endpoints of the network reach each other; `port` is that of tunnels that are not encrypted.
pub(crate) fn driver(spec: &NetworkSpec, port: u16) -> Result<DriverConfig, Refusal> {
    let Some(parent) = parent(spec)? else {
        return Ok(DriverConfig::Overlay {
            port: port + u16::from(spec.encrypted),
            encrypted: spec.encrypted,
        });
    };
    Ok(match spec.driver {
        Driver::Ipvlan => DriverConfig::Ipvlan {
            parent,
            mode: mode(spec, "ipvlan_mode")?,
        },
        Driver::Overlay | Driver::Macvlan => DriverConfig::Macvlan {
            parent,
            mode: mode(spec, "macvlan_mode")?,
        },
    })
}

/// The hosts' link that a network on a LAN is on.
pub(crate) fn parent(spec: &NetworkSpec) -> Result<Option<Parent>, Refusal> {
    let next = "give it as --opt parent=eth0, or --opt parent=eth0.50 for VLAN 50 of eth0";
    match spec.options.get("parent").filter(|_| spec.driver.is_lan()) {
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|error: ParseError| invalid(error.cause, next)),
        None if spec.driver.is_lan() => Err(invalid(
            format!("a {} network needs the hosts' link to its LAN", spec.driver),
            next,
        )),
        None => Ok(None),
    }
}

fn mode<M: Default + std::str::FromStr<Err = ParseError>>(
    spec: &NetworkSpec,
    option: &str,
) -> Result<M, Refusal> {
    let wanted = spec
        .options
        .get(option)
        .map(|text| text.parse())
        .transpose();
    let next = format!("give --opt {option}= with one of these, or none for the first");
    wanted
        .map(Option::unwrap_or_default)
        .map_err(|error: ParseError| invalid(error.cause, next))
}

/// The MTU that the user asked for, in bytes.
pub(crate) fn mtu(spec: &NetworkSpec) -> Result<Option<u32>, Refusal> {
    let Some(text) = spec.options.get("mtu") else {
        return Ok(None);
    };
    // Next hops of overlays are of IPv6, whatever the family of their subnets.
    let has_ipv6 =
        !spec.driver.is_lan() || spec.subnets.iter().any(|subnet| subnet.subnet.is_ipv6());
    let least = if has_ipv6 { LEAST_MTU.1 } else { LEAST_MTU.0 };
    match text.parse() {
        Ok(mtu) if (least..=GREATEST_MTU).contains(&mtu) => Ok(Some(mtu)),
        _ => {
            let next = format!(
                "give a number from {least} to {GREATEST_MTU}, or none to get that of the host's \
                 link"
            );
            Err(invalid(
                format!("mtu {text:?} is no MTU that this network can have"),
                next,
            ))
        }
    }
}

pub(crate) fn network_name(name: &str, level: Level) -> Result<(), Refusal> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    // `web.NETWORK` has to be a name of DNS.
    if level >= Level::COMPOUNDS && name.split('.').any(str::is_empty) && !name.is_empty() {
        let next = "write dots only between other characters: `web.NETWORK` is a name of DNS";
        return Err(invalid(format!("{name:?} is no network name"), next));
    }
    if starts_well && name.len() <= MAX_NAME && name.bytes().all(inner) {
        return Ok(());
    }
    let next = format!(
        "use letters, digits, '_', '.' and '-', a letter or digit first, at most {MAX_NAME}"
    );
    Err(invalid(format!("{name:?} is no network name"), next))
}

pub(crate) fn service(spec: &ServiceSpec, level: Level) -> Result<(), Refusal> {
    naming::service_name(&spec.name, level)?;
    replicas(spec, spec.replicas)?;
    if spec.networks.len() > MAX_NETWORKS {
        let cause = format!(
            "service {:?} asks for {} networks",
            spec.name,
            spec.networks.len()
        );
        return Err(invalid(
            cause,
            format!("a service has {MAX_NETWORKS} networks at most"),
        ));
    }
    naming::service(spec, level)?;
    publish(&format!("service {:?}", spec.name), &spec.publish, level)?;
    health(&spec.name, spec.task.health.as_ref())?;
    balance(spec)?;
    if spec.external {
        external(spec)
    } else {
        runtime(&spec.name, &spec.task.runtime, level)
    }
}

/// An external service starts no tasks, so options about tasks are refused.
fn external(spec: &ServiceSpec) -> Result<(), Refusal> {
    let has_command = match &spec.task.runtime {
        Runtime::Exec { argv, .. } => !argv.is_empty(),
    };
    let what = match () {
        () if has_command => "a command",
        () if spec.task.health.is_some() => "a health check",
        () if spec
            .publish
            .iter()
            .any(|port| port.mode == PublishMode::Host) =>
        {
            "a port of the hosts that run its tasks"
        }
        () => return Ok(()),
    };
    let cause = format!("service {:?} is external and has {what}", spec.name);
    Err(invalid(
        cause,
        "leave it out, or --external: containers of others serve it, and it runs nothing",
    ))
}

/// Ports as people write them: `80/tcp`, `8000-8010/udp`.
pub(crate) fn range(port: &PublishSpec) -> String {
    match (port.published, port.last()) {
        (first, last) if first == last => format!("{first}/{}", port.protocol),
        (first, last) => format!("{first}-{last}/{}", port.protocol),
    }
}

/// `whose` is for people.
fn publish(whose: &str, published: &[PublishSpec], level: Level) -> Result<(), Refusal> {
    let ends_well = |first: u16, count: u16| first > 0 && first.checked_add(count - 1).is_some();
    for (index, port) in published.iter().enumerate() {
        if port.count == 0
            || !ends_well(port.published, port.count)
            || !ends_well(port.target, port.count)
        {
            let cause = format!("{port} is no range of ports");
            return Err(invalid(
                cause,
                "ports go from 1 to 65535, and both ranges are of one length",
            ));
        }
        if !is_place(&port.at) {
            return Err(no_place(port));
        }
        if let Some(other) = published[..index].iter().find(|other| other.overlaps(port)) {
            let cause = format!(
                "{whose} publishes port {} twice, as {other} and as {port}",
                range(port)
            );
            return Err(invalid(cause, "publish each port once"));
        }
    }
    is_not_too_much(whose, published, level)
}

/// A range of ports takes as much as a single one once every host leads it as a range.
fn is_not_too_much(whose: &str, published: &[PublishSpec], level: Level) -> Result<(), Refusal> {
    let all: usize = published.iter().map(|port| usize::from(port.count)).sum();
    if level < Level::COMPOUNDS && all > MAX_PUBLISHED {
        return Err(invalid(
            format!("{whose} publishes {all} ports"),
            format!(
                "publish {MAX_PUBLISHED} at most until every node runs this version of netd, or \
                 a later one"
            ),
        ));
    }
    if published.len() > MAX_RANGES {
        return Err(invalid(
            format!(
                "{whose} publishes {all} ports in {} ranges",
                published.len()
            ),
            format!("publish {MAX_RANGES} ranges at most"),
        ));
    }
    Ok(())
}

/// No host answers there.
pub(crate) fn no_place(port: &PublishSpec) -> Refusal {
    invalid(
        format!("no host answers at {}", port.at),
        "give an address or an interface of the hosts, or none for all of them",
    )
}

/// Whether a port's address or interface is valid. No host needs to have it now.
fn is_place(at: &PublishAt) -> bool {
    match at {
        PublishAt::Everywhere => true,
        // Whether it may be of one family, the state knows.
        PublishAt::Address(address) => !address.is_multicast(),
        PublishAt::Interface(name) => model::names::LinkName::parse(name).is_some(),
    }
}

fn health(service: &str, check: Option<&HealthCheck>) -> Result<(), Refusal> {
    let Some(check) = check else { return Ok(()) };
    let is_command = check
        .argv
        .first()
        .is_some_and(|program| !program.is_empty());
    if !is_command || check.argv.iter().any(|word| word.contains('\0')) {
        return Err(invalid(
            format!("the health check of service {service:?} is no command"),
            "give --health-cmd COMMAND",
        ));
    }
    if check.interval == 0 || check.timeout == 0 || check.retries == 0 {
        let cause = format!("the health check of service {service:?} has no time, or no attempt");
        return Err(invalid(
            cause,
            "give an interval and a timeout of 1ms or more, and 1 retry or more",
        ));
    }
    Ok(())
}

fn balance(spec: &ServiceSpec) -> Result<(), Refusal> {
    let (name, balance) = (&spec.name, spec.balance);
    if spec.endpoint_mode == EndpointMode::Dnsrr && balance != Balance::default() {
        let cause = format!(
            "service {name:?} has no virtual IP that could choose: its endpoint mode is dnsrr"
        );
        return Err(invalid(
            cause,
            "leave --lb and --affinity away, or use --endpoint-mode vip",
        ));
    }
    match balance.affinity {
        Some(seconds) if !(1..=MAX_AFFINITY).contains(&seconds) => {
            let cause = format!("service {name:?} asks for an affinity of {seconds} s");
            Err(invalid(
                cause,
                format!("give one from 1 s to {} h", MAX_AFFINITY / 3600),
            ))
        }
        _ => Ok(()),
    }
}

pub(crate) fn replicas(spec: &ServiceSpec, replicas: u32) -> Result<(), Refusal> {
    let service = &spec.name;
    if spec.external && replicas > 0 {
        let cause = format!("service {service:?} is external: only containers of others serve it");
        return Err(invalid(
            cause,
            "attach containers that name it as their service, or make another service",
        ));
    }
    if replicas <= MAX_REPLICAS {
        return Ok(());
    }
    let next =
        format!("a service has {MAX_REPLICAS} replicas at most; make a second service for more");
    Err(invalid(
        format!("service {service:?} cannot have {replicas} replicas"),
        next,
    ))
}

fn runtime(service: &str, runtime: &Runtime, level: Level) -> Result<(), Refusal> {
    match runtime {
        Runtime::Exec { argv, env, rootfs } => {
            let is_word = |path: &&Path| level >= Level::KEYS && Runtime::is_word(path);
            let directory = rootfs.as_deref().filter(|path| !is_word(path));
            exec(service, argv, env, directory)
        }
    }
}

/// A program of the host.
fn exec(
    service: &str,
    argv: &[String],
    env: &BTreeMap<String, String>,
    rootfs: Option<&Path>,
) -> Result<(), Refusal> {
    if argv.first().is_none_or(String::is_empty) {
        let cause = format!("service {service:?} has no command to run");
        return Err(invalid(
            cause,
            "give the program and its arguments after `--`",
        ));
    }
    if let Some(name) = env
        .keys()
        .find(|name| name.is_empty() || name.contains(['=', '\0']))
    {
        return Err(invalid(
            format!("{name:?} is no name of an environment variable"),
            "write --env NAME=VALUE",
        ));
    }
    if argv
        .iter()
        .chain(env.values())
        .any(|text| text.contains('\0'))
    {
        let cause =
            format!("a NUL byte stands in the command or environment of service {service:?}");
        return Err(invalid(
            cause,
            "the kernel passes no NUL bytes to programs: remove it",
        ));
    }
    match rootfs {
        Some(path) if !path.is_absolute() => {
            let cause = format!(
                "root directory {:?} of service {service:?} is not absolute",
                path.display()
            );
            Err(invalid(
                cause,
                "give a path that starts with `/` and exists on every node",
            ))
        }
        _ => Ok(()),
    }
}
