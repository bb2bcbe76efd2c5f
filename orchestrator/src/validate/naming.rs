//! Validates names, aliases, named ports and resolver settings of a service.

use std::net::IpAddr;

use model::{DnsConfig, NamedPort, Refusal, ServiceSpec};

use super::invalid::invalid;

/// The longest name: one DNS label (RFC 1035 section 2.3.4).
pub(super) const MAX_NAME: usize = 63;
/// The most aliases of one service on one network.
const MAX_ALIASES: usize = 64;
/// The most named ports of one service.
const MAX_PORTS: usize = 64;
/// The longest name of a port (RFC 6335 section 5.1).
const MAX_PORT_NAME: usize = 15;
/// The longest domain name as text (RFC 1035 section 2.3.4).
const MAX_DOMAIN: usize = 253;
/// What C libraries take of a resolv.conf(5): MAXNS of glibc and musl, and glibc's search list
/// before 2.26.
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 6;
const MAX_OPTIONS: usize = 16;
const MAX_OPTION: usize = 32;

pub(super) fn service(spec: &ServiceSpec) -> Result<(), Refusal> {
    for attachment in &spec.networks {
        attachment
            .aliases
            .iter()
            .try_for_each(|alias| label("alias", alias))?;
        let has_tasks = attachment
            .aliases
            .iter()
            .any(|alias| alias.eq_ignore_ascii_case("tasks"));
        if has_tasks {
            let cause = "the alias \"tasks\" is reserved: `tasks.web` means every task of web";
            return Err(invalid(cause, "use another alias"));
        }
        if attachment.aliases.len() > MAX_ALIASES {
            let cause = format!(
                "service {:?} asks for {} aliases",
                spec.name,
                attachment.aliases.len()
            );
            return Err(invalid(
                cause,
                format!("a service has {MAX_ALIASES} aliases on a network at most"),
            ));
        }
    }
    spec.stack.as_deref().map_or(Ok(()), stack)?;
    ports(&spec.ports)?;
    dns(&spec.task.dns)
}

/// One DNS label of a host name (RFC 1123 section 2.1).
pub(super) fn label(what: &str, text: &str) -> Result<(), Refusal> {
    if is_label(text) {
        return Ok(());
    }
    let next = format!(
        "use letters, digits and '-', no '-' at either end, at most {MAX_NAME}: it becomes a DNS \
         label"
    );
    Err(invalid(format!("{text:?} is no {what}"), next))
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let whole = !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(inner);
    whole && (1..=MAX_NAME).contains(&text.len())
}

/// What a container can be called: one DNS label that is not reserved. Docker's names may have
/// underscores.
pub(crate) fn is_name(text: &str) -> bool {
    is_label(&text.replace('_', "x")) && !text.eq_ignore_ascii_case("tasks")
}

fn stack(stack: &str) -> Result<(), Refusal> {
    label("stack name", stack)?;
    if stack.bytes().all(|byte| byte.is_ascii_digit()) {
        let cause = format!("stack {stack:?} is a number: `web.{stack}` means a replica of web");
        return Err(invalid(cause, "use a name with a letter"));
    }
    Ok(())
}

pub(super) fn ports(ports: &[NamedPort]) -> Result<(), Refusal> {
    if ports.len() > MAX_PORTS {
        return Err(invalid(
            format!("{} named ports are too many", ports.len()),
            format!("give {MAX_PORTS} at most"),
        ));
    }
    for (index, port) in ports.iter().enumerate() {
        let name = &port.name;
        let has_letter = name.bytes().any(|byte| byte.is_ascii_alphabetic());
        if !is_label(name) || !has_letter || name.len() > MAX_PORT_NAME || name.contains("--") {
            let rule = "letters, digits and single '-' inside, at least one letter";
            let next = format!(
                "use {rule}, at most {MAX_PORT_NAME} (RFC 6335): `--port name=http,target=80`"
            );
            return Err(invalid(format!("{name:?} is no name of a port"), next));
        }
        if port.port == 0 {
            return Err(invalid(
                format!("port {name:?} has the number 0"),
                "give one from 1 to 65535",
            ));
        }
        let is_same = |other: &NamedPort| {
            other.protocol == port.protocol && other.name.eq_ignore_ascii_case(name)
        };
        if ports[..index].iter().any(is_same) {
            let cause = format!("port {name:?} of {} is named twice", port.protocol);
            return Err(invalid(cause, "give each port a name of its own"));
        }
    }
    Ok(())
}

fn dns(dns: &DnsConfig) -> Result<(), Refusal> {
    let counts = [
        ("--dns", dns.servers.len(), MAX_SERVERS),
        ("--dns-search", dns.search.len(), MAX_SEARCH),
        ("--dns-option", dns.options.len(), MAX_OPTIONS),
    ];
    if let Some((flag, count, most)) = counts.into_iter().find(|(_, count, most)| count > most) {
        return Err(invalid(
            format!("{flag} is given {count} times"),
            format!("C libraries read {most} at most"),
        ));
    }
    let is_nobodys = |server: &&IpAddr| server.is_unspecified() || server.is_multicast();
    if let Some(server) = dns.servers.iter().find(is_nobodys) {
        return Err(invalid(
            format!("{server} is not an address that a DNS server can have"),
            "give the server's own",
        ));
    }
    if let Some(domain) = dns.search.iter().find(|domain| !is_domain(domain)) {
        let next = "write domains such as example.org, or a lone `.` for none";
        return Err(invalid(format!("{domain:?} is no search domain"), next));
    }
    let is_option = |option: &&String| {
        let inner = |byte: u8| byte.is_ascii_graphic() && byte != b'#' && byte != b';';
        (1..=MAX_OPTION).contains(&option.len()) && option.bytes().all(inner)
    };
    match dns.options.iter().find(|option| !is_option(option)) {
        Some(option) => Err(invalid(
            format!("{option:?} is no resolver option"),
            "write it as in resolv.conf(5): ndots:1",
        )),
        None => Ok(()),
    }
}

/// Underscores are not allowed in host names, but in domains.
fn is_domain(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| (1..=MAX_NAME).contains(&label.len()) && label.bytes().all(inner);
    text == "."
        || text.len() <= MAX_DOMAIN
            && text
                .strip_suffix('.')
                .unwrap_or(text)
                .split('.')
                .all(is_label)
}
