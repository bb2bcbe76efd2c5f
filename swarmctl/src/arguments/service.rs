//! The arguments of `service …`.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};
use model::{
    EndpointMode, NamedPort, NetworkAttachment, PublishSpec, RestartCondition, Scheduler, Subnet,
    UpdateFailure, UpdateOrder,
};

use super::{Inspection, Listing, variable, words};
use crate::{
    publish::{Unpublish, published},
    values::{Millis, Scale, attachment, named_port, option, pair},
};

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
    /// Change a service: what is not given stays. Tasks that are to run something else are replaced
    /// batch by batch.
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
    /// It runs nothing: containers of others serve it, those that name it as their service and are
    /// on its network.
    #[arg(long, conflicts_with_all = ["replicas", "argv", "env", "rootfs"])]
    pub external: bool,
    /// A network to attach to, with further names there if wanted: name=net,alias=db,alias=pg. The
    /// first carries the way out. Services may share an alias: it leads to all of them.
    #[arg(long = "network", value_name = "NETWORK|name=NETWORK,alias=ALIAS", value_parser = attachment)]
    pub networks: Vec<NetworkAttachment>,
    /// The stack that it is part of: it is also NAME.STACK, shop-web of stack shop is web.shop, and
    /// tasks of a stack find their own stack's services first.
    #[arg(long)]
    pub stack: Option<String>,
    /// A port with a name, which SRV records tell: _http._tcp.web.
    #[arg(long = "port", value_name = "name=NAME,target=PORT[,protocol=tcp|udp|sctp]", value_parser = named_port)]
    pub ports: Vec<NamedPort>,
    /// Whom the tasks' resolver asks for names of others, from inside each task; the host's
    /// resolvers where none is given.
    #[arg(long = "dns", value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// A search domain of the tasks instead of the host's; a lone `.` for none.
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// An option of resolv.conf(5) instead of the host's; ndots:0 unless given, for names are ours
    /// as they are.
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Names lead to tasks as soon as they have a place, not only once they are well: for stores
    /// whose members must find each other to become so. The virtual IP still waits.
    #[arg(long)]
    pub dns_publish_not_ready: bool,
    /// Ports of all hosts that lead to ports of its tasks; with ,mode=host of the hosts that run
    /// one. AT is an address or an interface of the hosts; ranges are written 8000-8010:80-90.
    /// Docker's long form is understood as well.
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
    /// How its virtual IP and its published ports choose: in turn (rr, wrr), by the fewest
    /// connections (lc, wlc; virtual IPs with IPVS only), or by the client's address (sh, and mh,
    /// which moves few clients when tasks come and go).
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
    #[arg(last = true, required_unless_present = "external", value_name = "ARGV")]
    pub argv: Vec<String>,
}

/// The health check of `service create` and `service update`.
#[derive(Debug, Args)]
pub struct Health {
    /// Command that asks a task whether it is well, run inside it by /bin/sh -c; exit code 0 is a
    /// good answer. A task takes traffic from the first one on.
    #[arg(long, value_name = "COMMAND")]
    pub health_cmd: Option<String>,
    /// Time between two checks; 30s unless given.
    #[arg(long, value_name = "DURATION")]
    pub health_interval: Option<Millis>,
    /// Time after which a check has failed; 30s unless given.
    #[arg(long, value_name = "DURATION")]
    pub health_timeout: Option<Millis>,
    /// Failures in a row after which the task is ended and its restart policy replaces it; 3 unless
    /// given.
    #[arg(long, value_name = "N")]
    pub health_retries: Option<u32>,
    /// Time from the start in which failures do not count; 0s unless given.
    #[arg(long, value_name = "DURATION")]
    pub health_start_period: Option<Millis>,
}

/// How `service create` and `service update` have tasks replaced.
#[derive(Debug, Args)]
pub struct Rollout {
    /// Time that connections get to run out before a planned stop, once no new ones come; 10s
    /// unless given.
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<Millis>,
    /// How many replicas are replaced at a time, 0 for all; 1 unless given.
    #[arg(long, value_name = "N")]
    pub update_parallelism: Option<u32>,
    /// Time between the start of one batch and the next batch; 0s unless given.
    #[arg(long, value_name = "DURATION")]
    pub update_delay: Option<Millis>,
    /// With start-first further tasks take traffic while others are replaced; stop-first unless
    /// given.
    #[arg(long, value_parser = words::<UpdateOrder, 2>(["stop-first", "start-first"]))]
    pub update_order: Option<UpdateOrder>,
    /// What is done when new tasks end by themselves; pause unless given.
    #[arg(long, value_parser = words::<UpdateFailure, 2>(["pause", "continue"]))]
    pub update_failure_action: Option<UpdateFailure>,
}

/// What `service update` changes of how others find and reach a service. It holds at once, and no
/// task is replaced for it.
#[derive(Debug, Args)]
pub struct Reach {
    /// Further ports of all hosts that lead to ports of its tasks, written as for create.
    #[arg(long, value_name = "[AT:]PUBLISHED:TARGET[/PROTOCOL][,allow=CIDR]", value_parser = published)]
    pub publish_add: Vec<PublishSpec>,
    /// A prefix of those who may call at the ports that are added; everybody where none is given.
    #[arg(long, value_name = "CIDR", requires = "publish_add")]
    pub publish_allow: Vec<Subnet>,
    /// Published ports that are to go, by the port of the tasks (80, 53/udp, 80-90), or by both
    /// (8080:80).
    #[arg(long, value_name = "[PUBLISHED:]TARGET[/PROTOCOL]")]
    pub publish_rm: Vec<Unpublish>,
    /// A further name on one of its networks.
    #[arg(long, value_name = "NETWORK=ALIAS", value_parser = pair)]
    pub alias_add: Vec<(String, String)>,
    /// A further name that is to go.
    #[arg(long, value_name = "NETWORK=ALIAS", value_parser = pair)]
    pub alias_rm: Vec<(String, String)>,
    /// A port with a name, new or with another number.
    #[arg(long, value_name = "name=NAME,target=PORT[,protocol=tcp|udp|sctp]", value_parser = named_port)]
    pub port_add: Vec<NamedPort>,
    /// The name of a port that is to go.
    #[arg(long, value_name = "NAME")]
    pub port_rm: Vec<String>,
    /// The stack that it is part of from now on; an empty one for none.
    #[arg(long)]
    pub stack: Option<String>,
    /// Whether names lead to tasks as soon as they have a place, not only once they are well.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub dns_publish_not_ready: Option<bool>,
    /// How its virtual IP and its published ports choose from now on, written as for create.
    #[arg(long, value_name = "HOW", value_parser = words::<Scheduler, 6>(["rr", "wrr", "lc", "wlc", "sh", "mh"]))]
    pub lb: Option<Scheduler>,
    /// For how long after its last connection a client comes back to the same task; 0 for no longer
    /// than it.
    #[arg(long, value_name = "DURATION")]
    pub affinity: Option<Millis>,
}

/// What `service update` changes of whom tasks ask for names. Tasks are replaced for it: it stands
/// in their resolv.conf.
#[derive(Debug, Args)]
pub struct Resolver {
    /// A further resolver for names of others.
    #[arg(long, value_name = "ADDRESS")]
    pub dns_add: Vec<IpAddr>,
    /// A resolver that is to be asked no more.
    #[arg(long, value_name = "ADDRESS")]
    pub dns_rm: Vec<IpAddr>,
    /// A further search domain.
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search_add: Vec<String>,
    /// A search domain that is to go.
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search_rm: Vec<String>,
    /// A further option of resolv.conf(5).
    #[arg(long, value_name = "OPTION")]
    pub dns_option_add: Vec<String>,
    /// An option that is to go.
    #[arg(long, value_name = "OPTION")]
    pub dns_option_rm: Vec<String>,
}

/// `service update`.
#[derive(Debug, Args)]
pub struct ServiceUpdate {
    /// How many tasks run.
    #[arg(long)]
    pub replicas: Option<u32>,
    /// An environment variable, new or with another value; without =VALUE it is taken from this
    /// command's environment.
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
    /// How others find and reach it.
    #[command(flatten)]
    pub reach: Reach,
    /// What its tasks' resolver does.
    #[command(flatten)]
    pub resolver: Resolver,
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

fn tail(text: &str) -> Result<u32, String> {
    match text {
        "all" => Ok(0),
        number => number
            .parse()
            .ok()
            .filter(|&lines| lines > 0)
            .ok_or_else(|| "expected a number of lines or all".into()),
    }
}
