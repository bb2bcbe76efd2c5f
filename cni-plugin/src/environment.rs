//! Environment variables of the plugin (CNI specification 1.1, section 2, "Parameters"): which ones
//! each operation needs, and their valid values.

use std::collections::BTreeMap;

use api::CniName;

use crate::error::{CniError, Code};

/// The longest name of an interface, in bytes (`IFNAMSIZ` without its end).
const MAX_INTERFACE: usize = 15;
/// The longest id of a container, in bytes: with its interface it is a key in the cluster's ledger.
const MAX_CONTAINER: usize = 200;

/// The operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

/// What the environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    pub operation: Operation,
    /// Empty if the operation is about no interface.
    pub name: CniName,
    /// `CNI_NETNS`; empty where none is given.
    pub namespace: String,
    /// `CNI_ARGS`.
    pub arguments: BTreeMap<String, String>,
    /// Whether the host's own namespace is meant: `CNI_NETNS_OVERRIDE`.
    pub own_namespace: bool,
}

impl Environment {
    /// Parses the environment. Errors (code 4) name every missing variable, or the invalid one.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let value = |name: &str| variable(name).unwrap_or_default();
        let operation = operation(&value("CNI_COMMAND"))?;
        let missing: Vec<&str> = needed(operation)
            .iter()
            .copied()
            .filter(|name| value(name).is_empty())
            .collect();
        if !missing.is_empty() {
            let cause = format!("required env variables [{}] missing", missing.join(","));
            return Err(invalid(
                cause,
                "the runtime sets them: the plugin is not called by hand",
            ));
        }
        let name = CniName {
            container: value("CNI_CONTAINERID"),
            interface: value("CNI_IFNAME"),
            own: None,
        };
        if matches!(
            operation,
            Operation::Add | Operation::Check | Operation::Del
        ) {
            container("CNI_CONTAINERID", &name.container)?;
            interface(&name.interface)
                .map_err(|reason| invalid(format!("CNI_IFNAME {reason}"), "use another name"))?;
        }
        let own_namespace = matches!(
            value("CNI_NETNS_OVERRIDE").to_ascii_lowercase().as_str(),
            "true" | "1"
        );
        let namespace = value("CNI_NETNS");
        if matches!(operation, Operation::Add | Operation::Check) && !namespace.starts_with('/') {
            return Err(invalid(
                format!("CNI_NETNS {namespace:?} is not an absolute path"),
                "such as /run/netns/NAME",
            ));
        }
        Ok(Self {
            operation,
            name,
            namespace,
            arguments: arguments(&value("CNI_ARGS"), operation)?,
            own_namespace,
        })
    }
}

fn operation(command: &str) -> Result<Operation, CniError> {
    Ok(match command {
        "ADD" => Operation::Add,
        "CHECK" => Operation::Check,
        "DEL" => Operation::Del,
        "GC" => Operation::Gc,
        "STATUS" => Operation::Status,
        "VERSION" => Operation::Version,
        other => {
            let next = "it is one of ADD, DEL, CHECK, STATUS, GC, VERSION";
            return Err(invalid(format!("unknown CNI_COMMAND {other:?}"), next));
        }
    })
}

/// Required variables, as in the reference library's `skel`, without CNI_PATH: this plugin runs no
/// others.
fn needed(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Add | Operation::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
        Operation::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
        Operation::Gc | Operation::Status | Operation::Version => &[],
    }
}

/// Refuses what cannot be the id of a container; `field` is where the runtime gives it.
pub(crate) fn container(field: &str, id: &str) -> Result<(), CniError> {
    if id.len() > MAX_CONTAINER {
        return Err(invalid(
            format!("{field} has more than {MAX_CONTAINER} bytes"),
            "use a shorter one",
        ));
    }
    if is_name(id) {
        return Ok(());
    }
    let next = "it is letters, digits, '_', '.' and '-', beginning with a letter or digit";
    Err(invalid(
        format!("invalid characters in {field} {id:?}"),
        next,
    ))
}

/// Whether the text is a valid name of the specification.
pub(crate) fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.bytes().all(inner)
}

/// Why an interface cannot have a name. The text goes on after the name of the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InterfaceError {
    #[error("is empty")]
    Empty,
    #[error("{0:?} has more than {MAX_INTERFACE} bytes")]
    TooLong(String),
    #[error("{0:?} is . or ..")]
    Directory(String),
    #[error("{0:?} contains / or : or white space")]
    Characters(String),
}

/// Whether an interface may have this name.
pub(crate) fn interface(name: &str) -> Result<(), InterfaceError> {
    let is_refused =
        |character: char| character == '/' || character == ':' || character.is_whitespace();
    match name {
        "" => Err(InterfaceError::Empty),
        _ if name.len() > MAX_INTERFACE => Err(InterfaceError::TooLong(name.to_owned())),
        "." | ".." => Err(InterfaceError::Directory(name.to_owned())),
        _ if name.contains(is_refused) => Err(InterfaceError::Characters(name.to_owned())),
        _ => Ok(()),
    }
}

/// Parses `KEY=VALUE;KEY=VALUE`. Operations that must succeed ignore errors in it.
fn arguments(text: &str, operation: Operation) -> Result<BTreeMap<String, String>, CniError> {
    if !matches!(operation, Operation::Add | Operation::Check) {
        return Ok(BTreeMap::new());
    }
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(invalid(
            format!("CNI_ARGS holds {pair:?}"),
            "write KEY=VALUE;KEY=VALUE",
        )),
    };
    text.split(';')
        .filter(|part| !part.is_empty())
        .map(pair)
        .collect()
}

fn invalid(cause: impl Into<String>, next: &str) -> CniError {
    CniError::new(Code::Environment, cause, next)
}
