//! The command line: verbs and flags as in the docker CLI wherever docker has them. Parses; does
//! nothing.

mod service;

use std::{collections::BTreeMap, ffi::OsString, net::IpAddr, path::PathBuf, str::FromStr};

use clap::{
    Args, Command, CommandFactory, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
    parser::ValueSource,
};
use clap_complete::Shell;
use model::{Availability, BalancerKind, Driver, ParseError, Role, Subnet};

pub(crate) use self::service::{
    Health, Reach, Resolver, Rollout, ServiceCreate, ServiceUpdate, ServiceVerb, WaitFlags,
};
use crate::{
    failure::Telling,
    lab::{HostName, LabName},
    output::Format,
    values::{Moment, option, pair},
};

/// Networks and services for containers on a cluster of hosts.
#[derive(Debug, Parser)]
#[command(name = "swarmctl", version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    /// Unix socket of the local netd
    #[arg(long, global = true, env = "NETD_SOCKET", default_value = api::SOCKET,
        value_name = "PATH")]
    pub socket: PathBuf,
    /// Format of errors on standard error (default: that of the output where given, else text)
    #[arg(long, global = true, value_enum, value_name = "FORM")]
    pub errors: Option<Telling>,
    /// Command
    #[command(subcommand)]
    pub verb: Verb,
}

/// How errors are to be told, by all that stands on the command line: one that makes no sense says
/// it, too.
pub(crate) fn telling(line: &[OsString]) -> Telling {
    let asked = Arguments::command().ignore_errors(true);
    let Ok(read) = asked.try_get_matches_from(line) else {
        return Telling::Text;
    };
    let mut telling = read.get_one::<Telling>("errors").copied();
    let mut verb = &read;
    while let Some((_, deeper)) = verb.subcommand() {
        verb = deeper;
        telling = telling.or_else(|| verb.get_one::<Telling>("errors").copied());
    }
    let has_output = verb.try_contains_id("output").unwrap_or(false);
    let is_given = has_output && verb.value_source("output") == Some(ValueSource::CommandLine);
    let by_output = match verb.try_get_one::<Format>("output") {
        Ok(Some(Format::Json)) if is_given => Telling::Json,
        _ => Telling::Text,
    };
    telling.unwrap_or(by_output)
}

/// Command
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a cluster with this host as its first manager
    Init(Found),
    /// Join this host to a cluster
    Join(Join),
    /// Remove this host from its cluster
    Leave {
        /// Leave even if no manager can be reached, or if this is the last manager
        #[arg(short, long)]
        force: bool,
    },
    /// Show the command that joins a host, or replace the join token
    Token {
        /// Role that the token grants
        #[arg(value_parser = words::<Role, 2>(["worker", "manager"]))]
        role: Role,
        /// Replace the token: the old one is refused from now on; present nodes stay members
        #[arg(long)]
        rotate: bool,
        /// Print only the token
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show whether this host is a member, its node id, role and addresses
    Status {
        /// Output format
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Manage nodes
    #[command(subcommand)]
    Node(NodeVerb),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkVerb),
    /// Check IP address allocation
    #[command(subcommand)]
    Ipam(IpamVerb),
    /// Let programs of this host find names of networks that hosts call
    #[command(subcommand)]
    Names(NamesVerb),
    /// Manage services
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Manage tasks
    #[command(subcommand)]
    Task(TaskVerb),
    /// Show changes of nodes, networks, services, tasks and containers as they happen
    Events(Events),
    /// Run a command inside a running task on any host
    Exec(Exec),
    /// Print internal state of the local netd
    Debug {
        /// State to print
        what: Inside,
    },
    /// Simulate hosts on this machine, each with its own netd (needs root)
    Lab(Lab),
    /// Print a completion script for a shell
    Completion {
        /// Shell
        #[arg(value_parser = ["bash", "zsh", "fish"])]
        shell: String,
    },
    /// Create the namespaces of a lab host and start its first process
    #[command(hide = true)]
    LabBoot(LabProcess),
    /// Run as first process of a lab host
    #[command(hide = true)]
    LabHost(LabProcess),
    /// Run as switch of a lab
    #[command(hide = true)]
    LabSwitch {
        /// Name of the lab
        #[arg(long)]
        lab: LabName,
    },
}

/// `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Address or interface at which other hosts reach this host's control plane (default: the
    /// address of the default route)
    #[arg(long, value_name = "IP|INTERFACE[:PORT]")]
    pub advertise_addr: Option<String>,
    /// Address or interface on which the control plane listens (default: all addresses of the
    /// advertised address's family)
    #[arg(long, value_name = "IP|INTERFACE[:PORT]")]
    pub listen_addr: Option<String>,
    /// Address or interface at which VXLAN tunnels end (default: the advertised address)
    #[arg(long, value_name = "IP|INTERFACE")]
    pub data_path_addr: Option<String>,
}

/// `init`: the host's addresses, and what holds for the whole cluster.
#[derive(Debug, Args)]
pub(crate) struct Found {
    /// The addresses of this host.
    #[command(flatten)]
    pub host: Init,
    /// UDP port of VXLAN tunnels in the whole cluster, 1024 to 49150; encrypted networks use the
    /// next port
    #[arg(long, value_name = "PORT", default_value_t = api::DATA_PATH_PORT)]
    pub data_path_port: u16,
}

/// `join`.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Join token, printed by `swarmctl token worker|manager`
    #[arg(long)]
    pub token: String,
    /// The addresses of this host.
    #[command(flatten)]
    pub host: Init,
    /// Address of a manager of the cluster
    #[arg(value_name = "HOST[:PORT]")]
    pub manager: String,
}

/// `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Begin with the changes after this revision, at this time, or this long ago, from the
    /// leader's history (default: with the next change)
    #[arg(long, value_name = "REVISION|TIME|DURATION")]
    pub since: Option<Moment>,
    /// Stop at this time, or at the time that is this long ago (default: go on for ever)
    #[arg(long, value_name = "TIME|DURATION")]
    pub until: Option<Moment>,
    /// Show only changes that match: type=KIND, event=made|changed|removed, service=NAME,
    /// node=NAME, network=NAME, id=ID (with one type). Of several filters with the same key, one
    /// must match
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    pub filter: Vec<(String, String)>,
    /// Output format: a line of text, or one of JSON, for each change
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Parts of every `ls`.
#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
}

/// Parts of every `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspection {
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "json")]
    pub output: Format,
}

/// `node …`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Show all details of nodes
    Inspect {
        /// Names or ids; `self` is this node
        #[arg(default_value = "self", value_name = "NODE")]
        names: Vec<String>,
        /// Output format
        #[arg(short, long, value_enum, default_value = "json")]
        output: Format,
    },
    /// List the tasks of a node
    Ps {
        /// Name or id
        #[arg(default_value = "self")]
        node: String,
        /// Format and brevity.
        #[command(flatten)]
        listing: Listing,
    },
    /// Change a node's availability to the scheduler, or its balancer
    Update {
        /// Availability: pause gives the node no new tasks; drain also moves its tasks to other
        /// nodes
        #[arg(long, required_unless_present = "balancer",
            value_parser = words::<Availability, 3>(["active", "pause", "drain"]))]
        availability: Option<Availability>,
        /// Balancer of virtual IPs on the node; auto is IPVS if the kernel has it, else nftables
        #[arg(long, value_parser = words::<BalancerKind, 3>(["auto", "ipvs", "nftables"]))]
        balancer: Option<BalancerKind>,
        /// Refuse the change unless this still is the node's version (`node inspect`)
        #[arg(long, value_name = "VERSION")]
        version: Option<u64>,
        /// Name or id
        node: String,
    },
    /// Remove nodes from the cluster
    #[command(visible_alias = "remove")]
    Rm {
        /// Remove a node even if it is alive
        #[arg(short, long)]
        force: bool,
        /// Names or ids
        #[arg(required = true)]
        nodes: Vec<String>,
    },
}

/// `network …`.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Create a network
    Create(NetworkCreate),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Show all details of networks
    Inspect {
        /// What to show and how.
        #[command(flatten)]
        inspection: Inspection,
        /// Show the traffic between the hosts instead; asks every node
        #[arg(long)]
        peers: bool,
    },
    /// Change whether hosts of the cluster call tasks and containers of an overlay by address
    Update {
        /// Name or id
        network: String,
        /// Every host of the cluster may call, or none; every host has part in the network then
        #[arg(long, value_enum)]
        hosts: Switch,
    },
    /// Let machines that are no members call tasks and containers of an overlay by address
    #[command(group(clap::ArgGroup::new("callers").required(true).multiple(true)))]
    Expose {
        /// Name or id
        network: String,
        /// Prefix of machines that may call; they need a route to the network's subnets by any host
        #[arg(long, value_name = "CIDR", group = "callers")]
        to: Vec<Subnet>,
        /// Prefix of machines that may no longer
        #[arg(long, value_name = "CIDR", group = "callers")]
        rm: Vec<Subnet>,
    },
    /// Replace the keys of all encrypted networks without losing packets
    RotateKey,
    /// Compare ledger, view and kernel on every node; exit code 1 if they differ
    Verify {
        /// Names or ids (default: every network)
        #[arg(value_name = "NETWORK")]
        networks: Vec<String>,
        /// Output format
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Remove unused networks
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true)]
        networks: Vec<String>,
    },
}

/// Of what is or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// `names …`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum NamesVerb {
    /// Tell systemd-resolved to ask netd for NAME.NETWORK.netd.internal (needs root)
    Enable,
    /// Undo that (needs root)
    Disable,
}

/// `ipam …`.
#[derive(Debug, Subcommand)]
pub(crate) enum IpamVerb {
    /// Check that exactly the addresses in use are allocated; exit code 1 if not
    Check,
}

/// `network create`.
#[derive(Debug, Args)]
pub(crate) struct NetworkCreate {
    /// Driver: overlay is VXLAN between hosts, macvlan and ipvlan are on the hosts' LAN
    #[arg(short, long, default_value = "overlay",
        value_parser = words::<Driver, 3>(["overlay", "macvlan", "ipvlan"]))]
    pub driver: Driver,
    /// Subnet, such as 10.0.9.0/24 or fd00:9::/64 (default: one per family from the default pools).
    /// macvlan and ipvlan require the LAN's subnet
    #[arg(long = "subnet", value_name = "PREFIX")]
    pub subnets: Vec<Subnet>,
    /// Gateway address inside one of the subnets (default: the first address)
    #[arg(long = "gateway", value_name = "ADDRESS")]
    pub gateways: Vec<IpAddr>,
    /// Part of a subnet from which addresses are allocated. On a LAN choose one that its DHCP
    /// server does not use
    #[arg(long = "ip-range", value_name = "PREFIX")]
    pub ranges: Vec<Subnet>,
    /// Allow no connections out of the network, and forward no DNS queries
    #[arg(long)]
    pub internal: bool,
    /// Allow containers of Docker and CNI runtimes to attach
    #[arg(long)]
    pub attachable: bool,
    /// Encrypt traffic between hosts (IPsec ESP)
    #[arg(long)]
    pub encrypted: bool,
    /// Label, KEY=VALUE
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = option)]
    pub labels: Vec<(String, String)>,
    /// Driver option. All drivers: mtu=1400. macvlan and ipvlan: parent=eth0, or parent=eth0.50 for
    /// VLAN 50 of eth0, which netd creates if it is missing. macvlan:
    /// macvlan_mode=bridge|private|vepa|passthru. ipvlan: ipvlan_mode=l2|l3. In other modes than
    /// bridge, l2 and l3 a host and its own containers cannot reach each other
    #[arg(short, long = "opt", value_name = "KEY=VALUE", value_parser = option)]
    pub options: Vec<(String, String)>,
    /// Name of the network
    pub name: String,
}

/// `task …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskVerb {
    /// Stop tasks after their connections have drained; a new task replaces each
    #[command(visible_alias = "remove")]
    Rm {
        /// Names (web.1) or ids
        #[arg(required = true)]
        tasks: Vec<String>,
        /// Return before the tasks have stopped
        #[arg(short, long)]
        detach: bool,
    },
}

/// `exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Forward standard input even from a terminal; other input is always forwarded
    #[arg(short, long)]
    pub interactive: bool,
    /// Environment variable; without =VALUE it is copied from this command's environment
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Name (web.1) or id
    pub task: String,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub argv: Vec<String>,
}

/// What `debug` prints.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Inside {
    /// Desired state of this host
    Config,
    /// State observed in the kernel
    Observed,
    /// Changes that netd would make next
    Plan,
    /// Digest of this manager's copy of the replicated state: equal on all managers at equal index
    Digest,
}

/// `lab …`.
#[derive(Debug, Args)]
pub(crate) struct Lab {
    /// Name of the lab
    #[arg(long, global = true, default_value = "lab")]
    pub name: LabName,
    /// Command
    #[command(subcommand)]
    pub verb: LabVerb,
}

/// `lab …`.
#[derive(Debug, Subcommand)]
pub(crate) enum LabVerb {
    /// Create hosts h1, h2, … and a cluster of them
    Up {
        /// Number of hosts
        #[arg(long, default_value_t = 3,
            value_parser = clap::value_parser!(u8).range(1..=i64::from(HostName::MOST)))]
        hosts: u8,
        /// Number of managers among them (default: 3, or all if there are fewer hosts)
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(HostName::MOST)))]
        managers: Option<u8>,
        /// Run another netd on a host than the one beside swarmctl; repeatable
        #[arg(long, value_name = "HOST=PATH")]
        netd: Vec<HostBinary>,
        /// Keep the lab when a step fails
        #[arg(long)]
        keep: bool,
    },
    /// Remove the lab and everything on its hosts
    Down,
    /// List labs and their hosts
    #[command(visible_alias = "list")]
    Ls {
        /// Output format
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Run a command on a host
    Exec {
        /// Host, such as h1
        host: HostName,
        /// Program and arguments
        #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
        argv: Vec<String>,
    },
    /// Cut a host's power: all its processes die at once; its disk stays
    Kill {
        /// Host, such as h1
        host: HostName,
    },
    /// Power a host on
    Start {
        /// Host, such as h1
        host: HostName,
    },
    /// Kill a host's netd with SIGKILL; it is restarted as by systemd
    Crash {
        /// Host, such as h1
        host: HostName,
    },
    /// Replace a host's netd by another one and restart it, as a package upgrade does
    ///
    /// The host keeps the new netd after `lab crash`, `lab kill` and `lab start`. A host that is
    /// off runs the new netd once it is on.
    Upgrade {
        /// Host, such as h1
        host: HostName,
        /// The netd to run, newer or older
        #[arg(long, value_name = "PATH")]
        netd: PathBuf,
    },
    /// Print the log of a host's netd
    Logs {
        /// Host, such as h1
        host: HostName,
    },
}

/// `h3=PATH`: a lab host and the program to run on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostBinary {
    /// Host, such as h1
    pub host: HostName,
    /// The program.
    pub path: PathBuf,
}

impl FromStr for HostBinary {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (host, path) = text
            .split_once('=')
            .filter(|(_, path)| !path.is_empty())
            .ok_or_else(|| {
                let form = "HOST=PATH, such as h3=target/debug/netd";
                ParseError::not(text, "a program of a host", form)
            })?;
        Ok(Self {
            host: host.parse()?,
            path: path.into(),
        })
    }
}

/// The lab and host of a lab process.
#[derive(Debug, Args)]
pub(crate) struct LabProcess {
    /// Name of the lab
    #[arg(long)]
    pub lab: LabName,
    /// Host, such as h1
    #[arg(long)]
    pub host: HostName,
}

impl Inside {
    /// The daemon's word for it.
    pub(crate) fn wire(self) -> api::Debug {
        match self {
            Inside::Config => api::Debug::Config,
            Inside::Observed => api::Debug::Observed,
            Inside::Plan => api::Debug::Plan,
            Inside::Digest => api::Debug::Digest,
        }
    }
}

/// The completion script of a shell.
pub(crate) fn completion(shell: &str) -> Result<String, ParseError> {
    let unknown = |_| ParseError::not(shell, "a shell", "bash, elvish, fish, powershell or zsh");
    let shell: Shell = shell.parse().map_err(unknown)?;
    let mut script = Vec::new();
    let all = Arguments::command();
    // clap_complete offers what is hidden, too.
    let shown = all
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .cloned();
    let mut offered = Command::new("swarmctl")
        .disable_help_subcommand(true)
        .args(all.get_arguments().cloned())
        .subcommands(shown);
    clap_complete::generate(shell, &mut offered, "swarmctl", &mut script);
    // All that it is made from is text.
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// A parser for the values that `model` serialises as these words.
fn words<T, const N: usize>(words: [&'static str; N]) -> impl TypedValueParser<Value = T>
where
    T: serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| serde_json::from_value(word.into()))
}

fn variable(text: &str) -> Result<(String, String), ParseError> {
    match text.split_once('=') {
        Some(_) => pair(text),
        None => std::env::var(text)
            .map(|value| (text.to_owned(), value))
            .map_err(|_| {
                let cause = format!("there is no {text} in this command's environment");
                ParseError::new(cause, format!("write {text}=VALUE"))
            }),
    }
}

/// Labels and options by key; the last one of a key counts, as in docker.
pub(crate) fn by_key(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_command_after_the_dashes_keeps_its_own_flags_and_dashes() {
        let parsed = parse(
            "swarmctl lab exec h1 --name x -- swarmctl service create --name web -- netd \
             whoami --port 80",
        )
        .unwrap();
        let Verb::Lab(Lab {
            name,
            verb: LabVerb::Exec { host, argv },
        }) = parsed.verb
        else {
            panic!("another verb")
        };
        assert_eq!(
            (name.to_string(), host.to_string()),
            ("x".to_owned(), "h1".to_owned())
        );
        assert_eq!(
            argv.join(" "),
            "swarmctl service create --name web -- netd whoami --port 80"
        );
    }

    #[test]
    fn exec_works_with_and_without_dashes() {
        for line in [
            "swarmctl exec web.1 -- ls -l",
            "swarmctl exec web.1 ls -l",
            "swarmctl exec -i -e A=b web.1 -- ls -l",
        ] {
            let Verb::Exec(exec) = parse(line).unwrap().verb else {
                panic!("another verb")
            };
            assert_eq!(
                (exec.task.as_str(), exec.argv.join(" ").as_str()),
                ("web.1", "ls -l"),
                "{line}"
            );
        }
    }

    #[test]
    fn errors_are_told_in_json_where_that_is_asked_for() {
        let telling = |line: &str| {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            telling(&words)
        };
        for line in [
            "swarmctl node ls -o json",
            "swarmctl node inspect h1 --output=json",
            "swarmctl network verify -ojson",
            "swarmctl --errors json network create net",
            "swarmctl service rm web --errors json",
            "swarmctl node ls --errors json -o table",
            "swarmctl node ls -o json --nonsense",
        ] {
            assert_eq!(telling(line), Telling::Json, "{line}");
        }
        for line in [
            "swarmctl node ls",
            // JSON unless told otherwise, which nobody has told.
            "swarmctl node inspect h1",
            "swarmctl network create -o json net",
            "swarmctl exec web.1 -- ls -o json",
            "swarmctl node ls -o json --errors text",
            "swarmctl nonsense",
        ] {
            assert_eq!(telling(line), Telling::Text, "{line}");
        }
    }

    #[test]
    fn o_is_opt_on_network_create_and_output_elsewhere() {
        let Verb::Network(NetworkVerb::Create(create)) =
            parse("swarmctl network create -o mtu=1400 -o encrypted --driver overlay net")
                .unwrap()
                .verb
        else {
            panic!("another verb")
        };
        assert_eq!(
            by_key(create.options),
            BTreeMap::from([
                ("encrypted".into(), String::new()),
                ("mtu".into(), "1400".into())
            ])
        );
        let Verb::Network(NetworkVerb::Ls(listing)) =
            parse("swarmctl network list -o json").unwrap().verb
        else {
            panic!("another verb")
        };
        assert_eq!(listing.output, Format::Json);
    }

    #[test]
    fn completion_offers_words_and_no_inner_verbs() {
        for shell in ["bash", "zsh", "fish"] {
            let script = completion(shell).unwrap();
            assert!(
                script.contains("drain") && script.contains("dnsrr"),
                "{shell}"
            );
            assert!(!script.contains("lab-boot"), "{shell}");
        }
    }

    #[test]
    fn malformed_values_are_usage_errors() {
        for line in [
            "swarmctl service create --name web",
            "swarmctl service create --name web --restart-delay 5x -- a",
            "swarmctl service create --name web --network name=net,alia=db -- a",
            "swarmctl service create --name web --network alias=db -- a",
            "swarmctl service create --name web --port name=http -- a",
            "swarmctl service create --name web --port name=http,target=0 -- a",
            "swarmctl service create --name web --dns nowhere -- a",
            "swarmctl service scale web",
            "swarmctl service scale web=-1",
            "swarmctl network create --subnet 10.0.9.1/24 net",
            "swarmctl network create --driver bridge net",
            "swarmctl node update --availability off h1",
            "swarmctl node update h1",
            "swarmctl node update --balancer haproxy h1",
            "swarmctl service create --name web --lb fastest -- a",
            "swarmctl service create --name web --external -- a",
            "swarmctl service create --name web --external --replicas 1",
            "swarmctl token boss",
            "swarmctl lab up --hosts 0",
            "swarmctl lab up --netd /usr/bin/netd",
            "swarmctl lab up --netd h3=",
            "swarmctl lab upgrade h3",
            "swarmctl lab exec web -- true",
            "swarmctl lab down --name ../x",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
