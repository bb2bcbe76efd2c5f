//! Names that people give: which texts can be one, which of them mean something else already, and
//! to whom a name belongs that a service and a container both want. Pure, for all who store a name,
//! lead it somewhere or say why it leads nowhere.
//!
//! # Precedence
//!
//! On a network these mean the same whatever else is there, and no given name can take them:
//! `tasks.NAME`, `NAME.1`, `_port._tcp.NAME`, `_dns`, addresses, and names below in-addr.arpa and
//! ip6.arpa. Of the others the first of these counts:
//!
//! 1. a service's name, and what is formed from it: `web`, `web.shop`;
//! 2. an alias of services, which containers may share;
//! 3. a container's own name; 4. an alias of containers.
//!
//! A dotted name whose last label is the name of a stack is that stack's. What is formed
//! (`NAME.STACK`, `NAME.NETWORK`) is looked for before dotted names that were given.

use std::fmt;

use crate::ParseError;

/// The longest name as text, without the root's dot (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
/// The longest label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
/// Of SRV records (RFC 2782).
const PROTOCOLS: [&str; 3] = ["_tcp", "_udp", "_sctp"];
/// Where addresses resolve back to names (RFC 1035 section 3.5, RFC 3596 section 2.5).
const REVERSE: [&str; 2] = ["in-addr.arpa", "ip6.arpa"];

/// A name that somebody gave to a service or container: one label or more, in lower case, without
/// the root's dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsName(String);

impl DnsName {
    /// Reads a name. Case and a dot at its end make no other name (RFC 4343, RFC 1034 section 3.1).
    /// Underscores are none of host names (RFC 1123 section 2.1), but of Docker's and Compose's.
    ///
    /// # Errors
    /// It can be no name of DNS, or it means something else already.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let name = Self(normal(text));
        if !name.0.split('.').all(is_label) {
            let next = format!(
                "use labels of letters, digits, '-' and '_', at most {MAX_LABEL} each and no '-' \
                 at either end, with dots between them"
            );
            return Err(ParseError::new(format!("{text:?} is no name of DNS"), next));
        }
        if name.0.len() > MAX_NAME {
            return Err(ParseError::new(
                format!("{text:?} is too long for DNS"),
                format!("use {MAX_NAME} characters at most"),
            ));
        }
        match name.meaning() {
            Some(meaning) => Err(ParseError::new(
                format!("{text:?} is reserved: {meaning}"),
                "use another name",
            )),
            None => Ok(name),
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it means whatever there is on a network.
    fn meaning(&self) -> Option<&'static str> {
        let labels: Vec<&str> = self.0.split('.').collect();
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let is_port = match labels[..] {
            [first, _, ..] if PROTOCOLS.contains(&first) => true,
            [first, second, ..] => first.starts_with('_') && PROTOCOLS.contains(&second),
            _ => false,
        };
        let mut above = REVERSE.into_iter();
        match labels[..] {
            ["tasks", ..] => Some("`tasks.web` means every task of web"),
            ["_dns"] => Some("`_dns` means the resolver itself"),
            [_] => None,
            _ if labels.iter().all(|label| is_number(label)) => Some("it is read as an address"),
            [_, last] if is_number(last) => Some("`web.1` means a replica of web"),
            _ if is_port => Some("`_http._tcp.web` means a port of web"),
            _ if above.any(|zone| is_below(&self.0, zone)) => {
                Some("names below it are those of addresses")
            }
            _ => None,
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

/// One label; letters of other languages are none of DNS.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let whole = !text.starts_with('-') && !text.ends_with('-');
    whole && (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(inner)
}

fn is_below(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// As a name is compared: in lower case, without the root's dot.
pub fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The last label of a name of more than one.
pub fn last_of_dotted(name: &str) -> Option<&str> {
    name.rsplit_once('.').map(|(_, last)| last)
}

/// To whom a name on a network belongs that a container has, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The service that is called so: nobody else is.
    Service,
    /// Services of which it is an alias: a container may share it, but is not called so alone.
    Alias,
    /// The stack that its last label names.
    Stack,
}

/// What a container has a name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It alone is called so.
    Own,
    /// Others may have it, too.
    Shared,
}

/// Whether a name leads to the container that has it.
pub fn is_free(held: Option<Holder>, by: Use) -> bool {
    match held {
        None => true,
        Some(Holder::Alias) => by == Use::Shared,
        Some(Holder::Service | Holder::Stack) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<String> {
        DnsName::parse(text).ok().map(|name| name.to_string())
    }

    #[test]
    fn names_of_docker_compose_and_kubernetes_are_names() {
        for (text, name) in [
            ("db.example.com", "db.example.com"),
            ("API.Example.com.", "api.example.com"),
            ("my_alias", "my_alias"),
            ("shop_web_1", "shop_web_1"),
            (
                "etcd-node1.example.com-kube-system",
                "etcd-node1.example.com-kube-system",
            ),
            ("kube-proxy-10.0.0.1", "kube-proxy-10.0.0.1"),
            ("_private", "_private"),
            ("web.1.k3xz9", "web.1.k3xz9"),
            ("7", "7"),
            ("nas.home.arpa", "nas.home.arpa"),
            ("web.tasks", "web.tasks"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(name), "{text}");
        }
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(parsed(&longest), Some(longest.clone()));
        assert_eq!(parsed(&format!("{longest}b")), None);
        assert_eq!(parsed(&"a".repeat(64)), None);
    }

    #[test]
    fn texts_that_dns_cannot_name_are_refused_with_the_rule() {
        for text in [
            "", ".", "a..b", ".a", "a..", "-a", "a-.b", "a b", "*.b", "\u{fc}", "a/b",
        ] {
            let error = DnsName::parse(text).unwrap_err();
            assert!(error.cause.contains(&format!("{text:?}")), "{error}");
            assert!(error.next.contains("letters, digits"), "{error}");
        }
    }

    #[test]
    fn names_with_a_meaning_are_refused_with_that_meaning() {
        for (text, meaning) in [
            ("tasks", "every task"),
            ("Tasks.web", "every task"),
            ("tasks.db.example.com", "every task"),
            ("web.1", "replica"),
            ("10.0.0.1", "address"),
            ("1.2", "address"),
            ("_dns", "resolver"),
            ("_http._tcp.web", "port"),
            ("_udp.web", "port"),
            ("4.3.2.1.in-addr.arpa.", "addresses"),
            ("x.IP6.arpa", "addresses"),
        ] {
            let error = DnsName::parse(text).unwrap_err();
            assert!(error.cause.contains(meaning), "{text}: {error}");
        }
    }

    #[test]
    fn only_an_alias_is_shared_with_services() {
        let holders = [Holder::Service, Holder::Alias, Holder::Stack].map(Some);
        let free = |by: Use| holders.map(|held| is_free(held, by));
        assert_eq!(free(Use::Own), [false, false, false]);
        assert_eq!(free(Use::Shared), [false, true, false]);
        assert!(is_free(None, Use::Own) && is_free(None, Use::Shared));
    }
}
