//! Command-line arguments of `swarmctl service`.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};
use model::{
    EndpointMode, NamedPort, NetworkAttachment, ParseError, PublishSpec, RestartCondition,
    Scheduler, Subnet, UpdateFailure, UpdateOrder,
};

use super::{Inspection, Listing, variable, words};
use crate::{
    publish::{Unpublish, published},
    values::{Millis, Scale, attachment, dns_server, named_port, option, pair},
};

/// `service …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceVerb {
    /// Create a service
    Create(Box<ServiceCreate>),
    /// List services
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// List the tasks of services, including ended ones
    Ps {
        /// Names or ids
        #[arg(required = true)]
        services: Vec<String>,
        /// Format and brevity.
        #[command(flatten)]
        listing: Listing,
    },
    /// Show all details of services
    Inspect {
        /// What to show and how.
        #[command(flatten)]
        inspection: Inspection,
        /// Show the traffic of the virtual IPs instead; asks every node
        #[arg(long)]
        traffic: bool,
    },
    /// Change a service; options that are not given keep their values. Tasks whose spec changes are
    /// replaced batch by batch
    Update(Box<ServiceUpdate>),
    /// Restore a service to its spec before the last update
    Rollback {
        /// Name or id
        service: String,
        /// Whether the command waits.
        #[command(flatten)]
        wait: WaitFlags,
    },
    /// Change the number of replicas
    Scale {
        /// Service and its new number of replicas
        #[arg(required = true, value_name = "SERVICE=REPLICAS")]
        scales: Vec<Scale>,
        /// Return without waiting for the tasks
        #[arg(short, long)]
        detach: bool,
    },
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true)]
        services: Vec<String>,
        /// Return before the tasks have stopped
        #[arg(short, long)]
        detach: bool,
    },
    /// Print the output of a service's tasks or of one task
    Logs {
        /// Keep printing new lines
        #[arg(short, long)]
        follow: bool,
        /// Number of last lines to print per task
        #[arg(short = 'n', long, default_value = "all", value_name = "N", value_parser = tail)]
        tail: u32,
        /// Print the time of each line
        #[arg(short, long)]
        timestamps: bool,
        /// Name or id of a service or task
        #[arg(value_name = "SERVICE|TASK")]
        target: String,
    },
}

/// `service create`.
#[derive(Debug, Args)]
pub(crate) struct ServiceCreate {
    /// Name of the service, also its DNS name
    #[arg(long)]
    pub name: String,
    /// Number of tasks
    #[arg(long, default_value_t = 1)]
    pub replicas: u32,
    /// Start no tasks; containers run by Docker or CNI serve it if they carry the label
    /// netd.service=NAME and share its network
    #[arg(long, conflicts_with_all = ["replicas", "argv", "env", "rootfs"])]
    pub external: bool,
    /// Network to attach to, with optional aliases: name=net,alias=db,alias=pg. The first network
    /// with a way out carries the default route. Services may share an alias: it resolves to all of
    /// them
    #[arg(long = "network", value_name = "NETWORK|name=NETWORK,alias=ALIAS",
        value_parser = attachment)]
    pub networks: Vec<NetworkAttachment>,
    /// Stack of the service. Its DNS name is then also NAME.STACK, and shop-web of stack shop is
    /// also web.shop. Tasks of a stack resolve names of their own stack first
    #[arg(long)]
    pub stack: Option<String>,
    /// Named port, published as SRV record such as _http._tcp.web
    #[arg(long = "port", value_name = "name=NAME,target=PORT[,protocol=tcp|udp|sctp]",
        value_parser = named_port)]
    pub ports: Vec<NamedPort>,
    /// DNS server for names outside the cluster, queried from inside each task (default: the host's
    /// resolvers)
    #[arg(long = "dns", value_name = "ADDRESS", value_parser = dns_server)]
    pub dns: Vec<IpAddr>,
    /// DNS search domain of the tasks (default: the host's search domains; `.` for none)
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of the tasks' resolv.conf(5) (default: the host's options, and ndots:0)
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Resolve names to tasks as soon as they are placed on a node, before they are healthy: for
    /// stores whose members must find each other first. The virtual IP still waits for healthy
    /// tasks
    #[arg(long)]
    pub dns_publish_not_ready: bool,
    /// Publish a port of the tasks on all hosts; with mode=host only on hosts that run a task. AT
    /// is an address or interface of the hosts. Ranges: 8000-8010:80-90. Docker's long form works,
    /// too
    #[arg(short, long, value_name = "[AT:]PUBLISHED:TARGET[/PROTOCOL][,mode=MODE][,allow=CIDR]",
        value_parser = published)]
    pub publish: Vec<PublishSpec>,
    /// Prefix from which callers may use the published ports (default: everywhere)
    #[arg(long, value_name = "CIDR", requires = "publish")]
    pub publish_allow: Vec<Subnet>,
    /// Runtime of the tasks
    #[arg(long, default_value = "exec", value_parser = ["exec"])]
    pub runtime: String,
    /// Environment variable; without =VALUE it is copied from this command's environment
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Root directory of the tasks: an absolute path, `host` for the host's own, read-only and
    /// without its secrets and state, or `minimal` (default) for its programs and libraries
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Condition under which an ended task is replaced by a new one
    #[arg(long, default_value = "any",
        value_parser = words::<RestartCondition, 3>(["any", "on-failure", "none"]))]
    pub restart_condition: RestartCondition,
    /// Time between the end of a task and the start of its replacement
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    pub restart_delay: Millis,
    /// Maximum number of restarts per replica; 0 is no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub restart_max_attempts: u32,
    /// Time between SIGTERM and SIGKILL
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    pub stop_grace_period: Millis,
    /// What the service's name resolves to: vip is a virtual IP, dnsrr the addresses of the tasks
    #[arg(long, default_value = "vip", value_parser = words::<EndpointMode, 2>(["vip", "dnsrr"]))]
    pub endpoint_mode: EndpointMode,
    /// Load balancing of the virtual IP and the published ports: in turn (rr, wrr), fewest
    /// connections (lc, wlc; only virtual IPs balanced by IPVS), or client address (sh; mh moves
    /// few clients when tasks come and go)
    #[arg(long, default_value = "rr", value_name = "HOW",
        value_parser = words::<Scheduler, 6>(["rr", "wrr", "lc", "wlc", "sh", "mh"]))]
    pub lb: Scheduler,
    /// Keep sending a client to the same task if it returns within DURATION
    #[arg(long, value_name = "DURATION")]
    pub affinity: Option<Millis>,
    /// Label, KEY=VALUE
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = option)]
    pub labels: Vec<(String, String)>,
    /// How its tasks are asked whether they are well.
    #[command(flatten)]
    pub health: Health,
    /// How its tasks are replaced.
    #[command(flatten)]
    pub rollout: Rollout,
    /// Whether the command waits.
    #[command(flatten)]
    pub wait: WaitFlags,
    /// Program and arguments
    #[arg(last = true, required_unless_present = "external", value_name = "ARGV")]
    pub argv: Vec<String>,
}

/// Health check options of `service create` and `service update`.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Health check: command run inside each task by /bin/sh -c; exit code 0 is healthy. A task
    /// takes traffic once it is healthy
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between two health checks (default: 30s)
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<Millis>,
    /// Time after which a health check counts as failed (default: 30s)
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<Millis>,
    /// Number of consecutive failures after which the task is stopped, to be replaced by its
    /// restart policy (default: 3)
    #[arg(long, value_name = "N")]
    pub health_retries: Option<u32>,
    /// Time after the start of a task in which failures do not count (default: 0s)
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<Millis>,
}

/// Rollout options of `service create` and `service update`.
#[derive(Debug, Args)]
pub(crate) struct Rollout {
    /// Time that open connections get to finish before a planned stop, once no new connections
    /// arrive (default: 10s)
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<Millis>,
    /// Number of replicas replaced at a time; 0 is all (default: 1)
    #[arg(long, value_name = "N")]
    pub update_parallelism: Option<u32>,
    /// Time between the start of one batch of replacements and the next (default: 0s)
    #[arg(long, value_name = "DURATION")]
    pub update_delay: Option<Millis>,
    /// Order of replacement: start-first starts additional tasks before it stops old ones (default:
    /// stop-first)
    #[arg(long, value_parser = words::<UpdateOrder, 2>(["stop-first", "start-first"]))]
    pub update_order: Option<UpdateOrder>,
    /// Action when new tasks end by themselves (default: pause)
    #[arg(long, value_parser = words::<UpdateFailure, 2>(["pause", "continue"]))]
    pub update_failure_action: Option<UpdateFailure>,
}

/// Options of `service update` about names, ports and balancing. They take effect at once and
/// replace no task.
#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// Publish another port on all hosts, written as for create
    #[arg(long, value_name = "[AT:]PUBLISHED:TARGET[/PROTOCOL][,allow=CIDR]",
        value_parser = published)]
    pub publish_add: Vec<PublishSpec>,
    /// Prefix from which callers may use the added ports (default: everywhere)
    #[arg(long, value_name = "CIDR", requires = "publish_add")]
    pub publish_allow: Vec<Subnet>,
    /// Remove published ports, named by target port (80, 53/udp, 80-90) or by both ports (8080:80)
    #[arg(long, value_name = "[PUBLISHED:]TARGET[/PROTOCOL]")]
    pub publish_rm: Vec<Unpublish>,
    /// Add an alias on one of its networks
    #[arg(long, value_name = "NETWORK=ALIAS", value_parser = pair)]
    pub alias_add: Vec<(String, String)>,
    /// Remove an alias
    #[arg(long, value_name = "NETWORK=ALIAS", value_parser = pair)]
    pub alias_rm: Vec<(String, String)>,
    /// Add a named port, or change its number
    #[arg(long, value_name = "name=NAME,target=PORT[,protocol=tcp|udp|sctp]",
        value_parser = named_port)]
    pub port_add: Vec<NamedPort>,
    /// Remove the named port of this name
    #[arg(long, value_name = "NAME")]
    pub port_rm: Vec<String>,
    /// New stack of the service; an empty value removes it from its stack
    #[arg(long)]
    pub stack: Option<String>,
    /// Resolve names to tasks as soon as they are placed on a node, before they are healthy
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    pub dns_publish_not_ready: Option<bool>,
    /// New load balancing of the virtual IP and the published ports, written as for create
    #[arg(long, value_name = "HOW",
        value_parser = words::<Scheduler, 6>(["rr", "wrr", "lc", "wlc", "sh", "mh"]))]
    pub lb: Option<Scheduler>,
    /// Keep sending a client to the same task if it returns within DURATION; 0 ends that
    #[arg(long, value_name = "DURATION")]
    pub affinity: Option<Millis>,
}

/// Options of `service update` about the tasks' resolver. They replace tasks, because they are in
/// the tasks' resolv.conf.
#[derive(Debug, Args)]
pub(crate) struct Resolver {
    /// Add a DNS server for names outside the cluster
    #[arg(long, value_name = "ADDRESS", value_parser = dns_server)]
    pub dns_add: Vec<IpAddr>,
    /// Remove a DNS server
    #[arg(long, value_name = "ADDRESS")]
    pub dns_rm: Vec<IpAddr>,
    /// Add a DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search_add: Vec<String>,
    /// Remove a DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search_rm: Vec<String>,
    /// Add an option of resolv.conf(5)
    #[arg(long, value_name = "OPTION")]
    pub dns_option_add: Vec<String>,
    /// Remove an option of resolv.conf(5)
    #[arg(long, value_name = "OPTION")]
    pub dns_option_rm: Vec<String>,
}

/// `service update`.
#[derive(Debug, Args)]
pub(crate) struct ServiceUpdate {
    /// Number of tasks
    #[arg(long)]
    pub replicas: Option<u32>,
    /// Add or change an environment variable; without =VALUE it is copied from this command's
    /// environment
    #[arg(short, long = "env", visible_alias = "env-add", value_name = "NAME[=VALUE]",
        value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Remove an environment variable
    #[arg(long, value_name = "NAME")]
    pub env_rm: Vec<String>,
    /// Root directory of the tasks: an absolute path, `host` or `minimal`
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Condition under which an ended task is replaced by a new one
    #[arg(long, value_parser = words::<RestartCondition, 3>(["any", "on-failure", "none"]))]
    pub restart_condition: Option<RestartCondition>,
    /// Time between the end of a task and the start of its replacement
    #[arg(long, value_name = "DURATION")]
    pub restart_delay: Option<Millis>,
    /// Maximum number of restarts per replica; 0 is no limit
    #[arg(long, value_name = "N")]
    pub restart_max_attempts: Option<u32>,
    /// Time between SIGTERM and SIGKILL
    #[arg(long, value_name = "DURATION")]
    pub stop_grace_period: Option<Millis>,
    /// Add or change a label, KEY=VALUE
    #[arg(short, long = "label", visible_alias = "label-add", value_name = "KEY=VALUE",
        value_parser = option)]
    pub labels: Vec<(String, String)>,
    /// Remove the label of this key
    #[arg(long, value_name = "KEY")]
    pub label_rm: Vec<String>,
    /// How others find and reach it.
    #[command(flatten)]
    pub reach: Reach,
    /// What its tasks' resolver does.
    #[command(flatten)]
    pub resolver: Resolver,
    /// How its tasks are asked whether they are well.
    #[command(flatten)]
    pub health: Health,
    /// Remove the health check
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_timeout",
        "health_retries", "health_start_period"])]
    pub no_healthcheck: bool,
    /// How its tasks are replaced.
    #[command(flatten)]
    pub rollout: Rollout,
    /// Replace every task even if its spec does not change
    #[arg(long)]
    pub force: bool,
    /// Whether the command waits.
    #[command(flatten)]
    pub wait: WaitFlags,
    /// Name or id
    pub service: String,
    /// Program and arguments
    #[arg(last = true, value_name = "ARGV")]
    pub argv: Vec<String>,
}

/// Whether a command waits until tasks are as they should be.
#[derive(Debug, Args)]
pub(crate) struct WaitFlags {
    /// Return without waiting for the tasks
    #[arg(short, long)]
    pub detach: bool,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
}

fn tail(text: &str) -> Result<u32, ParseError> {
    match text {
        "all" => Ok(0),
        number => number
            .parse()
            .ok()
            .filter(|&lines| lines > 0)
            .ok_or_else(|| ParseError::not(text, "a number of lines", "one from 1 on, or all")),
    }
}
