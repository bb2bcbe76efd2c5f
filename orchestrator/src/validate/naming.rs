//! Validates names, aliases, named ports and resolver settings of a service.

use std::net::IpAddr;

use model::{DnsConfig, DnsName, Level, NamedPort, Refusal, ServiceSpec, dns_name};

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

pub(super) fn service(spec: &ServiceSpec, level: Level) -> Result<(), Refusal> {
    for attachment in &spec.networks {
        if level < Level::COMPOUNDS {
            labels(&attachment.aliases, level)?;
        } else {
            let mut aliases = attachment.aliases.iter();
            aliases.try_for_each(|name| alias(spec, name))?;
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
    let stack = spec.stack.as_deref();
    stack.map_or(Ok(()), |name| self::stack(name, level))?;
    ports(&spec.ports)?;
    dns(&spec.task.dns)
}

pub(super) fn service_name(name: &str, level: Level) -> Result<(), Refusal> {
    label("service name", name, level)?;
    if name.eq_ignore_ascii_case("tasks") {
        let cause = "the service name \"tasks\" is reserved: `tasks.web` means every task of web";
        return Err(invalid(cause, "use another name"));
    }
    Ok(())
}

/// What aliases could be before [`Level::COMPOUNDS`].
fn labels(aliases: &[String], level: Level) -> Result<(), Refusal> {
    let mut each = aliases.iter();
    each.try_for_each(|alias| label("alias", alias, level))?;
    if aliases
        .iter()
        .any(|alias| alias.eq_ignore_ascii_case("tasks"))
    {
        let cause = "the alias \"tasks\" is reserved: `tasks.web` means every task of web";
        return Err(invalid(cause, "use another alias"));
    }
    Ok(())
}

fn alias(spec: &ServiceSpec, alias: &str) -> Result<(), Refusal> {
    let name = DnsName::parse(alias).map_err(|error| Refusal::from(error.within("alias")))?;
    let stack = spec.stack.as_deref().map(dns_name::normal);
    let ending = dns_name::last_of_dotted(name.as_str());
    if let Some(stack) = stack.filter(|stack| ending == Some(stack)) {
        let cause = format!("the alias {alias:?} ends with the service's own stack");
        let next = format!("leave .{stack} out: an alias is called by its stack anyway");
        return Err(invalid(cause, next));
    }
    Ok(())
}

/// One DNS label of a host name (RFC 1123 section 2.1). From [`Level::COMPOUNDS`] on underscores
/// may stand between other characters, as in names of Swarm and Compose.
fn label(what: &str, text: &str, level: Level) -> Result<(), Refusal> {
    let has_underscores = level >= Level::COMPOUNDS && !text.starts_with('_');
    let is_it = if has_underscores && !text.ends_with('_') {
        is_label(&text.replace('_', "x"))
    } else {
        is_label(text)
    };
    if is_it {
        return Ok(());
    }
    let (inside, ends) = if level >= Level::COMPOUNDS {
        (
            "letters, digits, '-' and '_'",
            "no '-' or '_' at either end",
        )
    } else {
        ("letters, digits and '-'", "no '-' at either end")
    };
    let next = format!("use {inside}, {ends}, at most {MAX_NAME}: it becomes a DNS label");
    Err(invalid(format!("{text:?} is no {what}"), next))
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let whole = !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(inner);
    whole && (1..=MAX_NAME).contains(&text.len())
}

/// What a container can be called below [`Level::COMPOUNDS`]: one DNS label that is not reserved.
/// Docker's names may have underscores.
pub(crate) fn is_name(text: &str) -> bool {
    is_label(&text.replace('_', "x")) && !text.eq_ignore_ascii_case("tasks")
}

fn stack(stack: &str, level: Level) -> Result<(), Refusal> {
    label("stack name", stack, level)?;
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
