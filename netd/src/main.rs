//! `netd`: the daemon of every host, the stages of its tasks, and `netd whoami`.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use netd::{daemon, docker, run, whoami};

/// Networks, names, virtual IPs and tasks of this host.
#[derive(Parser)]
#[command(name = "netd", version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// What must survive a reboot
    #[arg(long, default_value = "/var/lib/netd")]
    directory: PathBuf,
    /// Where the local API listens
    #[arg(long, default_value = api::SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// A tiny HTTP responder for trying things out: says which task answered, where, and who asked
    Whoami {
        /// TCP port, both families
        #[arg(long, default_value_t = 80)]
        port: u16,
    },
    /// The inside of the managed Docker plugin: passes the engine's calls on to the host's netd
    #[command(hide = true)]
    DockerRelay {
        /// Where the engine looks inside the plugin
        #[arg(long, default_value = "/run/docker/plugins/netd.sock")]
        inside: PathBuf,
        /// The host's socket
        #[arg(long, default_value = "/host/netd.sock")]
        host: PathBuf,
    },
}

fn main() -> ExitCode {
    // The stages of a task enter namespaces, which only a process of one thread can do: they come
    // first.
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = agent::stage(&words) {
        return code;
    }
    let Arguments {
        directory,
        socket,
        verb,
    } = Arguments::parse();
    let result = match verb {
        Some(Verb::Whoami { port }) => whoami::run(port).map_err(Into::into),
        Some(Verb::DockerRelay { inside, host }) => block_on(docker::relay(&inside, &host)),
        None => serve(daemon::Options { directory, socket }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: daemon::Options) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("NETD_LOG");
    let filter = filter.unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("info,openraft=off,hickory_server=warn")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    block_on(run::run(options))
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
