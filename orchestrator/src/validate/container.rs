//! Validates requests of container runtimes, independent of the state.

use model::{
    ContainerSpec, ContainerTraits, Level, PublishMode, Refusal, Sandbox, names::LinkName,
};

use super::{invalid, naming, publish};

/// The longest key and identity, in bytes, and the longest name before [`Level::COMPOUNDS`].
const MAX_TEXT: usize = 255;
/// The longest name that a runtime may give, in bytes: that of a pod of Kubernetes may have 253,
/// and its namespace, which comes behind it, 63. Whether it is one of DNS is another question,
/// which keeps no container from starting.
const MAX_NAME: usize = 512;
/// The longest path of Linux, in bytes (PATH_MAX of linux/limits.h, without the NUL).
const MAX_PATH: usize = 4_095;

pub(crate) fn container(spec: &ContainerSpec, level: Level) -> Result<(), Refusal> {
    let key = &spec.key.id;
    if key.is_empty() || key.len() > MAX_TEXT {
        return Err(invalid(
            format!("{key:?} names no interface of a container"),
            runtimes_word("1 to 255 bytes"),
        ));
    }
    for (wish, ipv6) in [(&spec.ipv4, false), (&spec.ipv6, true)] {
        if let Some(address) = wish.exact.filter(|address| address.is_ipv6() != ipv6) {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            return Err(invalid(
                format!("{address} is no {family} address"),
                "give one of each family at most",
            ));
        }
        if let Some(range) = wish.within.filter(|range| range.is_ipv6() != ipv6) {
            return Err(invalid(
                format!("{range} holds no address of the family that is asked for"),
                "give another range",
            ));
        }
    }
    if let Some(mac) = spec.mac.filter(|mac| mac.0[0] & 1 == 1 || mac.0 == [0; 6]) {
        return Err(invalid(
            format!("{mac} is no address of an interface"),
            "give one that is not a group's, or none",
        ));
    }
    if spec.left && spec.sandbox.is_some() {
        let cause = format!("container {key:?} has left its network namespace and names one");
        return Err(invalid(cause, runtimes_word("one or the other")));
    }
    spec.sandbox.as_ref().map_or(Ok(()), sandbox)?;
    match &spec.traits {
        Some(known) => traits(known, level),
        None => Ok(()),
    }
}

fn runtimes_word(rule: &str) -> String {
    format!("the runtime has to give {rule}")
}

fn sandbox(sandbox: &Sandbox) -> Result<(), Refusal> {
    let Sandbox {
        path,
        identity,
        interface,
    } = sandbox;
    if !path.starts_with('/') || path.len() > MAX_PATH || path.contains('\0') {
        return Err(invalid(
            format!("{path:?} is no path of a network namespace"),
            runtimes_word("an absolute path"),
        ));
    }
    if identity
        .as_ref()
        .is_some_and(|identity| identity.len() > MAX_TEXT)
    {
        return Err(invalid(
            "the identity of a network namespace is too long",
            runtimes_word("255 bytes at most"),
        ));
    }
    match interface
        .as_ref()
        .filter(|name| LinkName::parse(name).is_none())
    {
        Some(name) => Err(invalid(
            format!("{name:?} is no name of an interface"),
            runtimes_word("1 to 15 bytes without / or :"),
        )),
        None => Ok(()),
    }
}

/// Validates traits. A name that is not a DNS name is fine: runtimes have rules of their own.
fn traits(traits: &ContainerTraits, level: Level) -> Result<(), Refusal> {
    let longest = if level < Level::COMPOUNDS {
        MAX_TEXT
    } else {
        MAX_NAME
    };
    let names = [&traits.container, &traits.name]
        .into_iter()
        .chain(&traits.service)
        .chain(&traits.aliases);
    if let Some(name) = names.into_iter().find(|name| name.len() > longest) {
        let shown: String = name.chars().take(MAX_TEXT).collect();
        return Err(invalid(
            format!("{shown:?}\u{2026} is too long a name"),
            format!("use {longest} bytes at most"),
        ));
    }
    if traits.aliases.len() > ContainerTraits::MAX_ALIASES {
        let cause = format!("a container asks for {} aliases", traits.aliases.len());
        return Err(invalid(
            cause,
            format!(
                "a container has {} aliases on a network at most",
                ContainerTraits::MAX_ALIASES
            ),
        ));
    }
    if let Some(port) = traits
        .publish
        .iter()
        .find(|port| port.mode != PublishMode::Host)
    {
        let cause = format!("a container cannot publish {port} on every host");
        return Err(invalid(
            cause,
            "publish it with mode=host, or through a service that the container belongs to",
        ));
    }
    naming::ports(&traits.ports)?;
    // An engine tells a container's name once it runs.
    let whose = match traits.name.as_str() {
        "" => "the container".to_owned(),
        name => format!("container {name:?}"),
    };
    publish(&whose, &traits.publish, level)
}
