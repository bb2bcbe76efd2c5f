//! What a task's own processes need to know, derived from the host's configuration. Pure.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use dns::ResolvConf;
use model::{NodeConfig, Runtime, TaskConfig, TaskId, names};
use serde::{Deserialize, Serialize};

/// Where a task finds `netd`, for `netd whoami`.
pub(crate) const PROGRAMS: &str = "/run/netd";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest host name that the kernel takes is 64 bytes, longest DNS label 63.
const HOSTNAME_LENGTH: usize = 63;

/// What to launch; `spec.json` in the task's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    /// `web.1`.
    pub name: String,
    /// The task's own host name, `web-1`.
    pub hostname: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Root directory, or the word for one; all of the host's own where none is given.
    pub rootfs: Option<PathBuf>,
    /// Its network namespace.
    pub namespace: PathBuf,
    /// Directory hidden from the task: the daemon's own state.
    pub hidden: PathBuf,
    /// Its cgroup, where the host has a version 2 hierarchy that can be written.
    pub cgroup: Option<PathBuf>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `/etc/hosts`.
    pub hosts: String,
}

/// Where a task is to run.
pub(crate) struct Place<'a> {
    /// The directory of all tasks.
    pub tasks: &'a Path,
    /// The host's name.
    pub node: &'a str,
    /// The cgroup of all tasks.
    pub cgroup: Option<&'a Path>,
    /// How the host itself resolves names.
    pub resolver: &'a ResolvConf,
}

impl LaunchSpec {
    /// What to launch for this task.
    pub(crate) fn new(
        id: TaskId,
        task: &TaskConfig,
        config: &NodeConfig,
        place: &Place<'_>,
    ) -> Self {
        let (argv, env, rootfs) = match &task.spec.runtime {
            Runtime::Exec { argv, env, rootfs } => (argv, env, rootfs),
        };
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
            resolv_conf: resolv_conf(task, config, place.resolver),
            hosts: hosts(&hostname, &addresses),
            hostname,
        }
    }
}

fn addresses(task: &TaskConfig, config: &NodeConfig) -> Vec<IpAddr> {
    let endpoints = task
        .endpoints
        .iter()
        .filter_map(|id| config.endpoints.get(id));
    endpoints
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
        .collect()
}

fn environment(
    id: TaskId,
    task: &TaskConfig,
    addresses: &[IpAddr],
    place: &Place<'_>,
) -> BTreeMap<String, String> {
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
    values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn hostname(service: &str, slot: u32) -> String {
    let suffix = format!("-{slot}");
    let kept: String = service
        .chars()
        .take(HOSTNAME_LENGTH - suffix.len())
        .collect();
    kept + &suffix
}

fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let own = addresses
        .iter()
        .map(|address| format!("{address} {hostname}\n"));
    "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned()
        + &own.collect::<String>()
}

/// The resolvers, which are ours, and the search domains and options that the user gave; the host's
/// where he gave none.
fn resolv_conf(task: &TaskConfig, config: &NodeConfig, host: &ResolvConf) -> String {
    let dns = &task.spec.dns;
    let search = if dns.search.is_empty() {
        &host.search
    } else {
        &dns.search
    };
    let is_ndots = |option: &&String| option.starts_with("ndots:");
    // Our names are asked for as they are, and not first below every search domain: the host's
    // ndots does not count.
    let options: Vec<&String> = match dns.options.as_slice() {
        [] => host
            .options
            .iter()
            .filter(|option| !is_ndots(option))
            .collect(),
        given => given.iter().collect(),
    };
    let mut text = nameservers(task, config);
    if !search.is_empty() && search[..] != ["."] {
        text += &format!("search {}\n", search.join(" "));
    }
    let ndots = if options.iter().any(is_ndots) {
        ""
    } else {
        " ndots:0"
    };
    let options: String = options.iter().map(|option| format!(" {option}")).collect();
    text + &format!("options{ndots}{options}\n")
}

/// The gateways of each network, IPv4 first; on a LAN, where those are not ours, the sandbox's own.
fn nameservers(task: &TaskConfig, config: &NodeConfig) -> String {
    let mut text = String::new();
    if task.is_on_lan(config) {
        return format!("nameserver {}\n", names::RESOLVER);
    }
    for endpoint in task
        .endpoints
        .iter()
        .filter_map(|id| config.endpoints.get(id))
    {
        let Some(network) = config.networks.get(&endpoint.network) else {
            continue;
        };
        let mut gateways: Vec<_> = network.subnets.iter().map(|lease| lease.gateway).collect();
        gateways.sort_by_key(IpAddr::is_ipv6);
        text.extend(
            gateways
                .iter()
                .map(|gateway| format!("nameserver {gateway}\n")),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::{DnsConfig, NodeId, ServiceId, TaskSpec, TaskState};

    use super::*;

    fn with(dns: DnsConfig, host: &str) -> String {
        let runtime = Runtime::Exec {
            argv: vec!["true".to_owned()],
            env: BTreeMap::new(),
            rootfs: None,
        };
        let task = TaskConfig {
            service: ServiceId(1),
            service_name: "web".to_owned(),
            stack: None,
            slot: 1,
            spec: TaskSpec {
                dns,
                ..TaskSpec::new(runtime)
            },
            desired: TaskState::Running,
            state: TaskState::Ready,
            draining: false,
            endpoints: Vec::new(),
        };
        resolv_conf(
            &task,
            &NodeConfig::empty(NodeId(1)),
            &ResolvConf::parse(host),
        )
    }

    #[test]
    fn search_domains_and_options_default_to_the_hosts() {
        let host = "nameserver 10.0.0.53\nsearch corp.example\noptions ndots:3 edns0\n";
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(with(DnsConfig::default(), ""), "options ndots:0\n");
        assert_eq!(
            with(DnsConfig::default(), host),
            "search corp.example\noptions ndots:0 edns0\n"
        );
        let own = DnsConfig {
            search: texts(&["a.example", "b.example"]),
            options: texts(&["ndots:1"]),
            servers: vec![],
        };
        assert_eq!(
            with(own, host),
            "search a.example b.example\noptions ndots:1\n"
        );
        assert_eq!(
            with(
                DnsConfig {
                    search: texts(&["."]),
                    ..DnsConfig::default()
                },
                host
            ),
            "options ndots:0 edns0\n"
        );
    }

    #[test]
    fn a_hostname_always_fits_a_dns_label() {
        assert_eq!(hostname("web", 1), "web-1");
        assert_eq!(hostname(&"w".repeat(63), 12).len(), HOSTNAME_LENGTH);
    }
}
