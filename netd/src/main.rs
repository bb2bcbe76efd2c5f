//! `netd`: the daemon of every host, the stages of its tasks, and `netd whoami`.

use std::{
    io::IsTerminal,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use clap::{Parser, Subcommand};
use model::{Failure, Kind, Level};
use netd::{
    daemon, docker,
    run::{self, Ended},
    whoami,
};
use tracing_subscriber::{
    filter::{ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// What is logged where nobody says otherwise: openraft's own lines say nothing to its users, and
/// hickory's are as many as forged packets.
const LOGGED: &str = "info,openraft=off,hickory_net=off";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Daemon for the networks, names, virtual IPs and tasks of this host
#[derive(Parser)]
#[command(name = "netd", version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// State directory; must survive a reboot
    #[arg(long, default_value = "/var/lib/netd")]
    directory: PathBuf,
    /// Unix socket of the local API
    #[arg(long, default_value = api::SOCKET)]
    socket: PathBuf,
    /// Highest cluster level that this host takes part in. While one host holds a lower level, the
    /// cluster stays there, and each host can go back to its earlier version
    #[arg(long, value_name = "LEVEL", default_value_t = Level::NEWEST.0,
          value_parser = clap::value_parser!(u16).range(..=i64::from(Level::NEWEST.0)))]
    max_level: u16,
    /// How many days a manager remembers what objects became (`swarmctl events`)
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    history_days: u32,
    /// Most disk space of that memory; the oldest changes are forgotten first
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    history_size: u32,
    /// DNS server for names outside the cluster, in place of those of /etc/resolv.conf: ADDRESS, or
    /// `tls://ADDRESS#NAME` for DNS over TLS (port 853) with a certificate for NAME, or for the
    /// address if there is no NAME. Repeat it for up to 3, which are asked in this order
    #[arg(long, value_name = "SERVER")]
    dns: Vec<dns::NameServer>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a small HTTP server that prints the task, its host and the client's address
    Whoami {
        /// TCP port, on IPv4 and IPv6
        #[arg(long, default_value_t = 80)]
        port: u16,
    },
    /// Run as managed Docker plugin: forward the engine's calls to the host's netd
    #[command(hide = true)]
    DockerRelay {
        /// Socket inside the plugin that the engine connects to
        #[arg(long, default_value = "/run/docker/plugins/netd.sock")]
        inside: PathBuf,
        /// Socket of the host's netd
        #[arg(long, default_value = "/host/netd.sock")]
        host: PathBuf,
    },
}

fn main() -> ExitCode {
    // The hidden subcommands of tasks enter namespaces, which only a single-threaded process can
    // do: they come first.
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = agent::stage(&words) {
        return code;
    }
    cluster::note_panics();
    let Arguments {
        directory,
        socket,
        max_level,
        history_days,
        history_size,
        dns,
        verb,
    } = Arguments::parse();
    let result = match verb {
        Some(Verb::Whoami { port }) => whoami::run(port).map_err(Failure::from),
        Some(Verb::DockerRelay { inside, host }) => block_on(docker::relay(&inside, &host)),
        None => serve(daemon::Options {
            directory,
            socket,
            known: Level(max_level),
            history: cluster::Limits {
                age: DAY * history_days,
                bytes: u64::from(history_size) << 20,
            },
            dns,
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("netd: {}", failure.in_full());
            failure.kind.exit_code().into()
        }
    }
}

fn serve(options: daemon::Options) -> Result<(), Failure> {
    tracing_subscriber::registry()
        .with(log_filter()?)
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr),
        )
        .init();
    match block_on(run::run(options))? {
        Ended::Told => Ok(()),
        Ended::Again => Err(again()),
    }
}

/// Runs this program anew in this process, with the arguments that it was given. Returns only if
/// that fails.
fn again() -> Failure {
    let mut words = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(words.next().unwrap_or_else(|| "netd".into()))
        .args(words);
    let error = command.exec();
    let cause = format!("netd cannot start itself anew: {error}");
    let next = "start it by `systemctl start netd`";
    Failure::new(Kind::Unavailable, cause, next).with_errno(error.raw_os_error())
}

/// What is logged: `NETD_LOG`, a level, or levels of modules (`info,cluster=debug`).
fn log_filter() -> Result<Targets, Failure> {
    let asked = std::env::var_os("NETD_LOG").filter(|asked| !asked.is_empty());
    let filter = match &asked {
        Some(asked) => asked.to_string_lossy(),
        None => LOGGED.into(),
    };
    let refused = |error: ParseError| {
        let cause = format!("the environment variable NETD_LOG is no log filter: {error}");
        let next = "set it to a level, or to levels of modules: NETD_LOG=info,cluster=debug";
        Failure::new(Kind::Invalid, cause, next)
    };
    filter.parse().map_err(refused)
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let failed = |error: std::io::Error| {
        let cause = format!("cannot start threads: {error}");
        let next = "raise the limits of processes and open files (`ulimit -u`, `ulimit -n`)";
        Failure::new(Kind::Exhausted, cause, next).with_errno(error.raw_os_error())
    };
    runtime.map_err(failed)?.block_on(work)
}
