//! `netd-netavark`, the plugin of netavark's API 1.0.0: `create` describes a network of the cluster
//! to Podman, `setup` and `teardown` attach and detach a container's interface.
//!
//! The crate `netavark` has the protocol's types, but it is netavark itself: D-Bus, DHCP, netlink
//! and nftables come with it. What is said here are two small JSON documents.

mod network;
mod setup;
#[cfg(test)]
mod tests;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use api::{CniInterface, ContainerReply, ContainerRequest};
use model::{ContainerTraits, Kind, Question, Refusal, other_version};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    call::{self, Wait},
    error::CniError,
    input,
};

/// The option of a network that names the cluster's, as with Docker Engine.
const NETWORK: &str = "netd.network";
/// The only version of the API that there is.
const API: &str = "1.0.0";

/// The program.
pub fn main() -> ExitCode {
    // What is no UTF-8 does not count as missing: it is refused for what it is.
    let words = env::args_os().skip(1);
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let (output, code) = match run(&words) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(refusal) => (
            Some(json!({ "error": refusal.in_one_line() })),
            ExitCode::FAILURE,
        ),
    };
    match output.map_or(Ok(()), |value| writeln!(io::stdout(), "{value}")) {
        Ok(()) => code,
        Err(error) => {
            eprintln!("netd-netavark: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<Option<Value>, Refusal> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["info"] => Ok(Some(info())),
        ["create"] => create().map(Some),
        ["setup", namespace] => setup(namespace).map(Some),
        ["teardown", namespace] => teardown(namespace).map(|()| None),
        _ => Err(Refusal::new(
            Kind::Invalid,
            format!("{words:?} is none of create, setup NAMESPACE, teardown NAMESPACE and info"),
            "Podman and netavark call the plugin: it is not called by hand",
        )),
    }
}

fn info() -> Value {
    json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": API })
}

fn create() -> Result<Value, Refusal> {
    let asked: network::Asked = given()?;
    let about = |refusal: Refusal| refusal.about(format!("network {}", asked.name()));
    asked.refuse_unsupported().map_err(about)?;
    let of_cluster = call::question(&Question::network(asked.of_cluster()));
    let of_cluster = of_cluster.map_err(|silent| about(explain_missing(silent.into())))?;
    asked.described(&of_cluster).map_err(about)
}

/// Podman has no way to tell a plugin that a network is removed: so none is made for it.
fn explain_missing(refusal: Refusal) -> Refusal {
    if refusal.kind != Kind::NotFound {
        return refusal;
    }
    let next = format!(
        "`swarmctl network create --attachable NAME` makes one in the cluster, and \
         `-o {NETWORK}=NAME` names it where Podman's has another name"
    );
    Refusal { next, ..refusal }
}

fn setup(namespace: &str) -> Result<Value, Refusal> {
    let asked: setup::Asked = given()?;
    let object = asked.object();
    let about = |refusal: Refusal| refusal.about(&object);
    let asked = asked.checked(namespace).map_err(about)?;
    crate::namespace::refuse_own("the network namespace", namespace)
        .map_err(|error| about(invalid(error)))?;
    let asked = without_ports_that_lead_nowhere(asked).map_err(about)?;
    let request = ContainerRequest::Add(Box::new(asked.clone()));
    match call::ask(&request, Wait::Restart) {
        Ok(ContainerReply::Attached(attached)) => Ok(setup::status(&asked, &attached)),
        Ok(ContainerReply::Done) => Err(about(other_version("netd"))),
        Err(silent) => Err(about(silent.into())),
    }
}

/// Podman gives all ports of a container with each of its networks. One that nobody outside reaches
/// does not publish them; that is told, because no other network may do it.
fn without_ports_that_lead_nowhere(asked: CniInterface) -> Result<CniInterface, Refusal> {
    if asked.traits.publish.is_empty() {
        return Ok(asked);
    }
    let network = call::question(&Question::network(&asked.network)).map_err(Refusal::from)?;
    let Some(reason) = setup::leads_nowhere(&network) else {
        return Ok(asked);
    };
    eprintln!(
        "netd-netavark: network {} {reason}: it publishes no ports of container {}",
        network.spec.name, asked.traits.name
    );
    let traits = ContainerTraits {
        publish: Vec::new(),
        ..asked.traits
    };
    Ok(CniInterface { traits, ..asked })
}

fn teardown(namespace: &str) -> Result<(), Refusal> {
    let left: setup::Left = given()?;
    call::give_up(&left.request(namespace), "netd-netavark: teardown")
        .map_err(|refusal| refusal.about(left.object()))
}

/// What Podman or netavark has written to standard input.
fn given<T: DeserializeOwned>() -> Result<T, Refusal> {
    let input = input::read().map_err(|error| unreadable(&error.to_string()))?;
    read(&input)
}

fn read<T: DeserializeOwned>(input: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(input).map_err(|error| unreadable(&error.to_string()))
}

fn unreadable(reason: &str) -> Refusal {
    Refusal::new(
        Kind::Invalid,
        format!("standard input cannot be read: {reason}"),
        "Podman and netavark write the network and the container there as JSON",
    )
}

/// What the checks that are shared with CNI refuse.
fn invalid(error: CniError) -> Refusal {
    Refusal::new(Kind::Invalid, error.cause, error.next)
}
