//! The command line: verbs and flags as in the docker CLI wherever docker has them. Parses; does nothing.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use clap::{
    Args, Command, Parser, Subcommand, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use model::{
    Availability, Driver, EndpointMode, Engine, NamedPort, NetworkAttachment, PublishSpec, RestartCondition, Role,
    Scheduler, Subnet, UpdateFailure, UpdateOrder,
};

use crate::{
    lab::{HostName, LabName},
    output::Format,
    publish::published,
    values::{Millis, Scale, attachment, named_port, option, pair},
};

/// Container networks and services on a cluster of hosts.
#[derive(Debug, Parser)]
#[command(name = "swarmctl", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// Socket of the local netd.
    #[arg(long, global = true, env = "NETD_SOCKET", default_value = api::SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a cluster of this host.
    Init(Found),
    /// Join this host to a cluster.
    Join(Join),
    /// Take this host out of its cluster.
    Leave {
        /// Even if the cluster cannot be told, or this is its last manager.
        #[arg(short, long)]
        force: bool,
    },
    /// Show the command that joins a host, or replace its token.
    Token {
        /// Role that the token gives.
        #[arg(value_parser = words::<Role, 2>(["worker", "manager"]))]
        role: Role,
        /// Replace the token: the old one is refused from now on; nodes that are in stay in.
        #[arg(long)]
        rotate: bool,
        /// Print the token only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show where this host stands.
    Status {
        /// Output format.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Nodes of the cluster.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Networks.
    #[command(subcommand)]
    Network(NetworkVerb),
    /// Addresses.
    #[command(subcommand)]
    Ipam(IpamVerb),
    /// Services.
    #[command(subcommand)]
    Service(ServiceVerb),
    /// Tasks.
    #[command(subcommand)]
    Task(TaskVerb),
    /// Run a command inside a running task, on whichever host it is.
    Exec(Exec),
    /// Print the inside of this host's netd.
    Debug {
        /// What to print.
        what: Inside,
    },
    /// Simulated hosts on this machine, each with its own netd. Needs root.
    Lab(Lab),
    /// Print a shell's completion script.
    Completion {
        /// The shell.
        #[arg(value_parser = ["bash", "zsh", "fish"])]
        shell: String,
    },
    /// Build a lab's host around its first process.
    #[command(hide = true)]
    LabBoot(LabProcess),
    /// Be a lab's host: its first process.
    #[command(hide = true)]
    LabHost(LabProcess),
    /// Be a lab's switch.
    #[command(hide = true)]
    LabSwitch {
        /// The lab.
        #[arg(long)]
        lab: LabName,
    },
}

/// `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Address or interface that others reach this host's control plane by; the default route's where none is given.
    #[arg(long, value_name = "IP|INTERFACE[:PORT]")]
    pub advertise_addr: Option<String>,
    /// Where the control plane listens; every address of the advertised one's family where none is given.
    #[arg(long, value_name = "IP|INTERFACE[:PORT]")]
    pub listen_addr: Option<String>,
    /// Address or interface that tunnels end at; the advertised one where none is given.
    #[arg(long, value_name = "IP|INTERFACE")]
    pub data_path_addr: Option<String>,
}

/// `init`: the host's addresses, and what holds for the whole cluster.
#[derive(Debug, Args)]
pub struct Found {
    /// The addresses of this host.
    #[command(flatten)]
    pub host: Init,
    /// UDP port of the cluster's tunnels, 1024 to 49150; encrypted networks take the next one.
    #[arg(long, value_name = "PORT", default_value_t = api::DATA_PATH_PORT)]
    pub data_path_port: u16,
}

/// `join`.
#[derive(Debug, Args)]
pub struct Join {
    /// Token from `swarmctl token worker|manager`.
    #[arg(long)]
    pub token: String,
    /// The addresses of this host.
    #[command(flatten)]
    pub host: Init,
    /// A manager of the cluster.
    #[arg(value_name = "HOST[:PORT]")]
    pub manager: String,
}

/// Parts of every `ls`.
#[derive(Debug, Args)]
pub struct Listing {
    /// Output format.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// Print ids only.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Parts of every `inspect`.
#[derive(Debug, Args)]
pub struct Inspection {
    /// Names or ids.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Output format.
    #[arg(short, long, value_enum, default_value = "json")]
    pub output: Format,
}

/// `node …`.
#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// List the nodes.
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Show nodes in full.
    Inspect {
        /// Names or ids; `self` is this node.
        #[arg(default_value = "self", value_name = "NODE")]
        names: Vec<String>,
        /// Output format.
        #[arg(short, long, value_enum, default_value = "json")]
        output: Format,
    },
    /// List the tasks of a node.
    Ps {
        /// Name or id.
        #[arg(default_value = "self")]
        node: String,
        /// Format and brevity.
        #[command(flatten)]
        listing: Listing,
    },
    /// Open a node to the scheduler or close it; choose its balancer.
    Update {
        /// With pause it gets no new tasks; with drain its tasks move elsewhere.
        #[arg(long, required_unless_present = "balancer",
            value_parser = words::<Availability, 3>(["active", "pause", "drain"]))]
        availability: Option<Availability>,
        /// What translates virtual IPs there; with auto IPVS where the kernel has it, else nftables.
        #[arg(long, value_parser = words::<Engine, 3>(["auto", "ipvs", "nftables"]))]
        balancer: Option<Engine>,
        /// Name or id.
        node: String,
    },
    /// Remove nodes from the cluster.
    #[command(visible_alias = "remove")]
    Rm {
        /// Even if the node is alive.
        #[arg(short, long)]
        force: bool,
        /// Names or ids.
        #[arg(required = true)]
        nodes: Vec<String>,
    },
}

/// `network …`.
#[derive(Debug, Subcommand)]
pub enum NetworkVerb {
    /// Make a network.
    Create(NetworkCreate),
    /// List the networks.
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Show networks in full.
    Inspect {
        /// What to show and how.
        #[command(flatten)]
        inspection: Inspection,
        /// Show instead what has passed between the hosts, asked of every node.
        #[arg(long)]
        peers: bool,
    },
    /// Replace the keys of all encrypted networks; nothing is lost meanwhile.
    RotateKey,
    /// Compare ledger, view and kernel on every node; exit code 1 where they differ.
    Verify {
        /// Names or ids; every network where none is given.
        #[arg(value_name = "NETWORK")]
        networks: Vec<String>,
        /// Output format.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Remove networks that nothing uses.
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids.
        #[arg(required = true)]
        networks: Vec<String>,
    },
}

/// `ipam …`.
#[derive(Debug, Subcommand)]
pub enum IpamVerb {
    /// Prove that the ledger holds the addresses in use and no others; exit code 1 where it does not.
    Check,
}

/// `network create`.
#[derive(Debug, Args)]
pub struct NetworkCreate {
    /// How its endpoints reach each other.
    #[arg(short, long, default_value = "overlay", value_parser = words::<Driver, 3>(["overlay", "macvlan", "ipvlan"]))]
    pub driver: Driver,
    /// A prefix such as 10.0.9.0/24 or fd00:9::/64; from the default pools where none is given. For macvlan and ipvlan
    /// it is that of the LAN, and must be given.
    #[arg(long = "subnet", value_name = "PREFIX")]
    pub subnets: Vec<Subnet>,
    /// A router's address inside one of the subnets; the first address where none is given.
    #[arg(long = "gateway", value_name = "ADDRESS")]
    pub gateways: Vec<IpAddr>,
    /// The part of a subnet that addresses are given out of: on a LAN, one that its DHCP server leaves alone.
    #[arg(long = "ip-range", value_name = "PREFIX")]
    pub ranges: Vec<Subnet>,
    /// No way out, no forwarding of names.
    #[arg(long)]
    pub internal: bool,
    /// Let containers attach that belong to no service.
    #[arg(long)]
    pub attachable: bool,
    /// Encrypt between hosts.
    #[arg(long)]
    pub encrypted: bool,
    /// A note.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = option)]
    pub labels: Vec<(String, String)>,
    /// A driver option. All: mtu=1400. macvlan and ipvlan: parent=eth0, or parent=eth0.50 for VLAN 50 of eth0, which is made
    /// where it is missing. macvlan: macvlan_mode=bridge|private|vepa|passthru; ipvlan: ipvlan_mode=l2|l3. In modes other
    /// than bridge, l2 and l3 a host and its own containers do not reach each other.
    #[arg(short, long = "opt", value_name = "KEY=VALUE", value_parser = option)]
    pub options: Vec<(String, String)>,
    /// The network's name.
    pub name: String,
}

/// `service …`.
#[derive(Debug, Subcommand)]
pub enum ServiceVerb {
    /// Make a service.
    Create(Box<ServiceCreate>),
    /// List the services.
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// List the tasks of services, ended ones included.
    Ps {
        /// Names or ids.
        #[arg(required = true)]
        services: Vec<String>,
        /// Format and brevity.
        #[command(flatten)]
        listing: Listing,
    },
    /// Show services in full.
    Inspect {
        /// What to show and how.
        #[command(flatten)]
        inspection: Inspection,
        /// Show instead what has passed by the virtual IPs, asked of every node.
        #[arg(long)]
        traffic: bool,
    },
    /// Change a service: what is not given stays. Tasks that are to run something else are replaced batch by batch.
    Update(Box<ServiceUpdate>),
    /// Go back to what a service was before its last update.
    Rollback {
        /// Name or id.
        service: String,
        /// Return at once.
        #[arg(short, long)]
        detach: bool,
        /// Show no progress.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Change the number of replicas.
    Scale {
        /// SERVICE=REPLICAS.
        #[arg(required = true, value_name = "SERVICE=REPLICAS")]
        scales: Vec<Scale>,
        /// Return at once.
        #[arg(short, long)]
        detach: bool,
    },
    /// Remove services.
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids.
        #[arg(required = true)]
        services: Vec<String>,
        /// Return before their tasks have stopped.
        #[arg(short, long)]
        detach: bool,
    },
    /// Print what a service or a task has written.
    Logs {
        /// Go on as lines are written.
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines of each task.
        #[arg(short = 'n', long, default_value = "all", value_name = "N", value_parser = tail)]
        tail: u32,
        /// Print when each line was written.
        #[arg(short, long)]
        timestamps: bool,
        /// Name or id of a service or a task.
        #[arg(value_name = "SERVICE|TASK")]
        target: String,
    },
}

/// `service create`.
#[derive(Debug, Args)]
pub struct ServiceCreate {
    /// The service's name; also its DNS name.
    #[arg(long)]
    pub name: String,
    /// How many tasks run.
    #[arg(long, default_value_t = 1)]
    pub replicas: u32,
    /// A network to attach to, with further names there if wanted: name=net,alias=db,alias=pg. The first carries the way
    /// out. Services may share an alias: it leads to all of them.
    #[arg(long = "network", value_name = "NETWORK|name=NETWORK,alias=ALIAS", value_parser = attachment)]
    pub networks: Vec<NetworkAttachment>,
    /// The stack that it is part of: it is also NAME.STACK, shop-web of stack shop is web.shop, and tasks of a stack find
    /// their own stack's services first.
    #[arg(long)]
    pub stack: Option<String>,
    /// A port with a name, which SRV records tell: _http._tcp.web.
    #[arg(long = "port", value_name = "name=NAME,target=PORT[,protocol=tcp|udp|sctp]", value_parser = named_port)]
    pub ports: Vec<NamedPort>,
    /// Whom the tasks' resolver asks for names of others, from inside each task; the host's resolvers where none is given.
    #[arg(long = "dns", value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// A search domain of the tasks instead of the host's; a lone `.` for none.
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// An option of resolv.conf(5) instead of the host's; ndots:0 unless given, for names are ours as they are.
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Names lead to tasks as soon as they have a place, not only once they are well: for stores whose members must find
    /// each other to become so. The virtual IP still waits.
    #[arg(long)]
    pub dns_publish_not_ready: bool,
    /// Ports of all hosts that lead to ports of its tasks; with ,mode=host of the hosts that run one. AT is an address or an
    /// interface of the hosts; ranges are written 8000-8010:80-90. Docker's long form is understood as well.
    #[arg(short, long, value_name = "[AT:]PUBLISHED:TARGET[/PROTOCOL][,mode=MODE][,allow=CIDR]", value_parser = published)]
    pub publish: Vec<PublishSpec>,
    /// A prefix of those who may call at its published ports; everybody where none is given.
    #[arg(long, value_name = "CIDR", requires = "publish")]
    pub publish_allow: Vec<Subnet>,
    /// What runs the tasks.
    #[arg(long, default_value = "exec", value_parser = ["exec"])]
    pub runtime: String,
    /// An environment variable; without =VALUE it is taken from this command's environment.
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Root directory of the tasks; the host's own, read-only, where none is given.
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// When a task that ended is started again.
    #[arg(long, default_value = "any", value_parser = words::<RestartCondition, 3>(["any", "on-failure", "none"]))]
    pub restart_condition: RestartCondition,
    /// Time between its end and the new start.
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    pub restart_delay: Millis,
    /// How many restarts a replica gets; 0 is no limit.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub restart_max_attempts: u32,
    /// Time between SIGTERM and SIGKILL.
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub stop_grace_period: Millis,
    /// What the name resolves to.
    #[arg(long, default_value = "vip", value_parser = words::<EndpointMode, 2>(["vip", "dnsrr"]))]
    pub endpoint_mode: EndpointMode,
    /// How its virtual IP chooses: in turn (rr, wrr), by the fewest connections (lc, wlc; IPVS only), or by the client's address
    /// (sh, and mh, which moves few clients when tasks come and go).
    #[arg(long, default_value = "rr", value_name = "HOW",
        value_parser = words::<Scheduler, 6>(["rr", "wrr", "lc", "wlc", "sh", "mh"]))]
    pub lb: Scheduler,
    /// For how long after its last connection a client comes back to the same task.
    #[arg(long, value_name = "DURATION")]
    pub affinity: Option<Millis>,
    /// A note.
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = option)]
    pub labels: Vec<(String, String)>,
    /// How its tasks are asked whether they are well.
    #[command(flatten)]
    pub health: Health,
    /// How its tasks are replaced.
    #[command(flatten)]
    pub rollout: Rollout,
    /// Return at once.
    #[arg(short, long)]
    pub detach: bool,
    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
    /// Program and arguments.
    #[arg(last = true, required = true, value_name = "ARGV")]
    pub argv: Vec<String>,
}

/// The health check of `service create` and `service update`.
#[derive(Debug, Args)]
pub struct Health {
    /// Command that asks a task whether it is well, run inside it by /bin/sh -c; exit code 0 is a good answer. A task takes
    /// traffic from the first one on.
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between two checks; 30s unless given.
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<Millis>,
    /// Time after which a check has failed; 30s unless given.
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<Millis>,
    /// Failures in a row after which the task is ended and its restart policy replaces it; 3 unless given.
    #[arg(long, value_name = "N")]
    pub health_retries: Option<u32>,
    /// Time from the start in which failures do not count; 0s unless given.
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<Millis>,
}

/// How `service create` and `service update` have tasks replaced.
#[derive(Debug, Args)]
pub struct Rollout {
    /// Time that connections get to run out before a planned stop, once no new ones come; 10s unless given.
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<Millis>,
    /// How many replicas are replaced at a time, 0 for all; 1 unless given.
    #[arg(long, value_name = "N")]
    pub update_parallelism: Option<u32>,
    /// Time between the start of one batch and the next batch; 0s unless given.
    #[arg(long, value_name = "DURATION")]
    pub update_delay: Option<Millis>,
    /// With start-first further tasks take traffic while others are replaced; stop-first unless given.
    #[arg(long, value_parser = words::<UpdateOrder, 2>(["stop-first", "start-first"]))]
    pub update_order: Option<UpdateOrder>,
    /// What is done when new tasks end by themselves; pause unless given.
    #[arg(long, value_parser = words::<UpdateFailure, 2>(["pause", "continue"]))]
    pub update_failure_action: Option<UpdateFailure>,
}

/// `service update`.
#[derive(Debug, Args)]
pub struct ServiceUpdate {
    /// How many tasks run.
    #[arg(long)]
    pub replicas: Option<u32>,
    /// An environment variable, new or with another value; without =VALUE it is taken from this command's environment.
    #[arg(short, long = "env", visible_alias = "env-add", value_name = "NAME[=VALUE]", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// An environment variable that is to go.
    #[arg(long, value_name = "NAME")]
    pub env_rm: Vec<String>,
    /// Root directory of the tasks.
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// When a task that ended is started again.
    #[arg(long, value_parser = words::<RestartCondition, 3>(["any", "on-failure", "none"]))]
    pub restart_condition: Option<RestartCondition>,
    /// Time between its end and the new start.
    #[arg(long, value_name = "DURATION")]
    pub restart_delay: Option<Millis>,
    /// How many restarts a replica gets; 0 is no limit.
    #[arg(long, value_name = "N")]
    pub restart_max_attempts: Option<u32>,
    /// Time between SIGTERM and SIGKILL.
    #[arg(long, value_name = "DURATION")]
    pub stop_grace_period: Option<Millis>,
    /// A note, new or with another value.
    #[arg(short, long = "label", visible_alias = "label-add", value_name = "KEY=VALUE", value_parser = option)]
    pub labels: Vec<(String, String)>,
    /// A note that is to go.
    #[arg(long, value_name = "KEY")]
    pub label_rm: Vec<String>,
    /// How its tasks are asked whether they are well.
    #[command(flatten)]
    pub health: Health,
    /// Ask them no more.
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_timeout", "health_retries", "health_start_period"])]
    pub no_healthcheck: bool,
    /// How its tasks are replaced.
    #[command(flatten)]
    pub rollout: Rollout,
    /// Replace every task even if nothing changes for it.
    #[arg(long)]
    pub force: bool,
    /// Return at once.
    #[arg(short, long)]
    pub detach: bool,
    /// Show no progress.
    #[arg(short, long)]
    pub quiet: bool,
    /// Name or id.
    pub service: String,
    /// Program and arguments.
    #[arg(last = true, value_name = "ARGV")]
    pub argv: Vec<String>,
}

/// `task …`.
#[derive(Debug, Subcommand)]
pub enum TaskVerb {
    /// Stop tasks, once their connections have run out; the next run of their replica follows.
    #[command(visible_alias = "remove")]
    Rm {
        /// Names (web.1) or ids.
        #[arg(required = true)]
        tasks: Vec<String>,
        /// Return before they have stopped.
        #[arg(short, long)]
        detach: bool,
    },
}

/// `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Forward a terminal's input too; other input always is.
    #[arg(short, long)]
    pub interactive: bool,
    /// An environment variable.
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Name (web.1) or id.
    pub task: String,
    /// Program and arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub argv: Vec<String>,
}

/// What `debug` prints.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Inside {
    /// What the host should look like.
    Config,
    /// What the kernel says.
    Observed,
    /// What would be changed next.
    Plan,
}

/// `lab …`.
#[derive(Debug, Args)]
pub struct Lab {
    /// The lab.
    #[arg(long, global = true, default_value = "lab")]
    pub name: LabName,
    /// What to do.
    #[command(subcommand)]
    pub verb: LabVerb,
}

/// `lab …`.
#[derive(Debug, Subcommand)]
pub enum LabVerb {
    /// Make hosts h1, h2, … and a cluster of them.
    Up {
        /// How many.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(HostName::MOST)))]
        hosts: u8,
        /// How many of them are managers; up to three where not given.
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(HostName::MOST)))]
        managers: Option<u8>,
        /// Leave everything as it is when a step fails.
        #[arg(long)]
        keep: bool,
    },
    /// Remove the lab and all that is on its hosts.
    Down,
    /// List labs and their hosts.
    #[command(visible_alias = "list")]
    Ls {
        /// Output format.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Run a command as if on a host.
    Exec {
        /// The host.
        host: HostName,
        /// Program and arguments.
        #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
        argv: Vec<String>,
    },
    /// Cut a host's power: everything on it is gone at once; its disk stays.
    Kill {
        /// The host.
        host: HostName,
    },
    /// Power a host on again.
    Start {
        /// The host.
        host: HostName,
    },
    /// Kill -9 of a host's netd alone; it is started again as systemd would.
    Crash {
        /// The host.
        host: HostName,
    },
    /// Print the log of a host's netd.
    Logs {
        /// The host.
        host: HostName,
    },
}

/// Who one of a lab's own processes is for.
#[derive(Debug, Args)]
pub struct LabProcess {
    /// The lab.
    #[arg(long)]
    pub lab: LabName,
    /// The host.
    #[arg(long)]
    pub host: HostName,
}

impl Inside {
    /// The daemon's word for it.
    pub fn wire(self) -> api::Debug {
        match self {
            Inside::Config => api::Debug::Config,
            Inside::Observed => api::Debug::Observed,
            Inside::Plan => api::Debug::Plan,
        }
    }
}

/// The completion script of a shell.
pub fn completion(shell: &str) -> Result<String, String> {
    let shell: Shell = shell.parse()?;
    let mut script = Vec::new();
    let all = <Arguments as clap::CommandFactory>::command();
    // clap_complete offers what is hidden, too.
    let shown = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    let mut offered =
        Command::new("swarmctl").disable_help_subcommand(true).args(all.get_arguments().cloned()).subcommands(shown);
    clap_complete::generate(shell, &mut offered, "swarmctl", &mut script);
    String::from_utf8(script).map_err(|error| error.to_string())
}

/// The values that `model` writes with these words.
fn words<T, const N: usize>(words: [&'static str; N]) -> impl TypedValueParser<Value = T>
where
    T: serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| serde_json::from_value(word.into()))
}

fn tail(text: &str) -> Result<u32, String> {
    match text {
        "all" => Ok(0),
        number => {
            number.parse().ok().filter(|&lines| lines > 0).ok_or_else(|| "expected a number of lines or all".into())
        }
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(_) => pair(text),
        None => std::env::var(text)
            .map(|value| (text.to_owned(), value))
            .map_err(|_| format!("there is no {text} in this command's environment: write {text}=VALUE")),
    }
}

/// Notes and options by their keys; the last of a key counts, as in docker.
pub fn by_key(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
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
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_command_after_the_dashes_keeps_its_own_flags_and_dashes() {
        let parsed =
            parse("swarmctl lab exec h1 --name x -- swarmctl service create --name web -- netd whoami --port 80")
                .unwrap();
        let Verb::Lab(Lab { name, verb: LabVerb::Exec { host, argv } }) = parsed.verb else { panic!("another verb") };
        assert_eq!((name.to_string(), host.to_string()), ("x".to_owned(), "h1".to_owned()));
        assert_eq!(argv.join(" "), "swarmctl service create --name web -- netd whoami --port 80");
    }

    #[test]
    fn exec_works_with_and_without_dashes() {
        for line in
            ["swarmctl exec web.1 -- ls -l", "swarmctl exec web.1 ls -l", "swarmctl exec -i -e A=b web.1 -- ls -l"]
        {
            let Verb::Exec(exec) = parse(line).unwrap().verb else { panic!("another verb") };
            assert_eq!((exec.task.as_str(), exec.argv.join(" ").as_str()), ("web.1", "ls -l"), "{line}");
        }
    }

    #[test]
    fn o_is_opt_on_network_create_and_output_elsewhere() {
        let Verb::Network(NetworkVerb::Create(create)) =
            parse("swarmctl network create -o mtu=1400 -o encrypted --driver overlay net").unwrap().verb
        else {
            panic!("another verb")
        };
        assert_eq!(
            by_key(create.options),
            BTreeMap::from([("encrypted".into(), String::new()), ("mtu".into(), "1400".into())])
        );
        let Verb::Network(NetworkVerb::Ls(listing)) = parse("swarmctl network list -o json").unwrap().verb else {
            panic!("another verb")
        };
        assert_eq!(listing.output, Format::Json);
    }

    #[test]
    fn completion_offers_words_and_no_inner_verbs() {
        for shell in ["bash", "zsh", "fish"] {
            let script = completion(shell).unwrap();
            assert!(script.contains("drain") && script.contains("dnsrr"), "{shell}");
            assert!(!script.contains("lab-boot"), "{shell}");
        }
    }

    #[test]
    fn what_is_no_value_is_a_usage_error() {
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
            "swarmctl token boss",
            "swarmctl lab up --hosts 0",
            "swarmctl lab exec web -- true",
            "swarmctl lab down --name ../x",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
