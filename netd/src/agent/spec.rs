//! All that a task's own processes need to know, projected from the host's configuration. Pure.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use model::{NodeConfig, Runtime, TaskConfig, TaskId, names};
use serde::{Deserialize, Serialize};

/// Where a task finds `netd`, for `netd whoami`.
pub const PROGRAMS: &str = "/run/netd";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest host name that the kernel takes is 64 bytes, longest DNS label 63.
const HOSTNAME_LENGTH: usize = 63;

/// What to launch; `spec.json` in the task's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// `web.1`.
    pub name: String,
    /// The task's own host name, `web-1`.
    pub hostname: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Root directory; the host's own where none is given.
    pub rootfs: Option<PathBuf>,
    /// Its network namespace.
    pub namespace: PathBuf,
    /// What the task must not see of the host: the daemon's own state.
    pub hidden: PathBuf,
    /// Its cgroup, where the host has a version 2 hierarchy that can be written.
    pub cgroup: Option<PathBuf>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `/etc/hosts`.
    pub hosts: String,
}

/// Where a task is to run.
pub struct Place<'a> {
    /// The directory of all tasks.
    pub tasks: &'a Path,
    /// The host's name.
    pub node: &'a str,
    /// The cgroup of all tasks.
    pub cgroup: Option<&'a Path>,
}

impl LaunchSpec {
    /// What to launch for this task.
    pub fn new(id: TaskId, task: &TaskConfig, config: &NodeConfig, place: &Place<'_>) -> Self {
        let Runtime::Exec { argv, env, rootfs } = &task.spec.runtime;
        let hostname = hostname(&task.service_name, task.slot);
        let addresses = addresses(task, config);
        let mut whole = environment(id, task, &addresses, place);
        whole.insert("HOSTNAME".to_owned(), hostname.clone());
        whole.insert("PATH".to_owned(), format!("{PATH}:{PROGRAMS}"));
        whole.extend(env.clone());
        Self {
            name: task.name(),
            argv: argv.clone(),
            env: whole,
            rootfs: rootfs.clone(),
            namespace: Path::new(names::NAMESPACE_DIRECTORY).join(names::sandbox_namespace(id)),
            hidden: place.tasks.parent().unwrap_or(place.tasks).to_owned(),
            cgroup: place.cgroup.map(|all| all.join(id.to_string())),
            resolv_conf: resolv_conf(task, config),
            hosts: hosts(&hostname, &addresses),
            hostname,
        }
    }
}

fn addresses(task: &TaskConfig, config: &NodeConfig) -> Vec<IpAddr> {
    let endpoints = task.endpoints.iter().filter_map(|id| config.endpoints.get(id));
    endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}

fn environment(id: TaskId, task: &TaskConfig, addresses: &[IpAddr], place: &Place<'_>) -> BTreeMap<String, String> {
    let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
    let values = [
        ("HOME", "/root".to_owned()),
        ("NETD_TASK", task.name()),
        ("NETD_TASK_ID", id.to_string()),
        ("NETD_SERVICE", task.service_name.clone()),
        ("NETD_SLOT", task.slot.to_string()),
        ("NETD_NODE", place.node.to_owned()),
        ("NETD_ADDRESSES", addresses.join(" ")),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn hostname(service: &str, slot: u32) -> String {
    let suffix = format!("-{slot}");
    let kept: String = service.chars().take(HOSTNAME_LENGTH - suffix.len()).collect();
    kept + &suffix
}

fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let own = addresses.iter().map(|address| format!("{address} {hostname}\n"));
    "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned() + &own.collect::<String>()
}

/// The resolvers: the gateways of each network, IPv4 first; on a LAN, where those are not ours, the sandbox's own. No
/// search list: names are ours as they are.
fn resolv_conf(task: &TaskConfig, config: &NodeConfig) -> String {
    let mut text = String::new();
    if task.is_on_lan(config) {
        return format!("nameserver {}\noptions ndots:0\n", names::RESOLVER);
    }
    for endpoint in task.endpoints.iter().filter_map(|id| config.endpoints.get(id)) {
        let Some(network) = config.networks.get(&endpoint.network) else { continue };
        let mut gateways: Vec<_> = network.subnets.iter().map(|lease| lease.gateway).collect();
        gateways.sort_by_key(IpAddr::is_ipv6);
        text.extend(gateways.iter().map(|gateway| format!("nameserver {gateway}\n")));
    }
    text + "options ndots:0\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostname_always_fits_a_dns_label() {
        assert_eq!(hostname("web", 1), "web-1");
        assert_eq!(hostname(&"w".repeat(63), 12).len(), HOSTNAME_LENGTH);
    }
}
