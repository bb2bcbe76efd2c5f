//! The daemon: what it holds, how its parts start, and what they tell each other. Between the cluster and the host
//! travels one value, the `NodeConfig`; back travels one, the `NodeReport`.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    net::{Ipv6Addr, SocketAddr},
    os::{
        linux::net::SocketAddrExt,
        unix::{self, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use model::{NodeConfig, NodeId, NodeReport, TaskId, TaskReport};
use nix::fcntl::{Flock, FlockArg};
use orchestrator::State;
use tokio::{sync::watch, task::JoinSet};

use crate::{agent, dataplane, local, names, notify, relay::Relay};

/// This host's part in a cluster.
pub type Member = cluster::Member<State>;

/// How long a host that leaves waits for its kernel to be clean.
const CLEAN_UP: Duration = Duration::from_secs(20);

/// The most failures of the kernel that are reported: enough to see what is wrong, few enough for the log.
const FAILURES: usize = 20;

/// The file that remembers where the control plane listens, and where it does unless told otherwise.
const LISTEN: &str = "listen";
const CONTROL_PORT: u16 = 2377;

/// Where the daemon keeps and offers things.
#[derive(Clone, Debug)]
pub struct Options {
    /// What must survive a reboot.
    pub directory: PathBuf,
    /// The local API.
    pub socket: PathBuf,
}

/// What the daemon's services share.
pub struct Daemon {
    /// Where it keeps and offers things.
    pub options: Options,
    /// The host's name.
    pub hostname: String,
    /// What this host should look like.
    pub desired: watch::Sender<Arc<NodeConfig>>,
    /// How far the kernel is, and the way to look inside; absent until the first view.
    pub dataplane: watch::Sender<Option<(watch::Receiver<Arc<dataplane::Status>>, dataplane::Dataplane)>>,
    /// Its part in a cluster, while it has one.
    pub member: watch::Sender<Option<Member>>,
    /// Held while that changes.
    pub membership: tokio::sync::Mutex<()>,
}

impl Daemon {
    /// Where the tasks' own directories are.
    pub fn tasks(&self) -> PathBuf {
        self.options.directory.join("tasks")
    }

    /// Where the cluster's part of this host is kept and listens; remembered for the next start.
    pub fn cluster(&self, listen: SocketAddr) -> io::Result<cluster::Config> {
        fs::write(self.options.directory.join(LISTEN), listen.to_string())?;
        Ok(cluster::Config { directory: self.options.directory.clone(), listen })
    }

    /// As this host was when it last ran.
    async fn resume(self: &Arc<Self>) -> anyhow::Result<Option<Member>> {
        let listen = fs::read_to_string(self.options.directory.join(LISTEN)).unwrap_or_default();
        // Without the file it never was a member, or listens as everyone does.
        let listen = listen.trim().parse().unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, CONTROL_PORT)));
        let config = cluster::Config { directory: self.options.directory.clone(), listen };
        Ok(Member::resume(config, |_| self.routes()).await?)
    }

    /// What the member's TCP listener serves besides the cluster's own.
    pub fn routes(self: &Arc<Self>) -> tonic::service::Routes {
        tonic::service::Routes::new(Relay::new(self.clone()).service())
    }

    /// Follows this member's view from now on.
    pub fn follow(self: &Arc<Self>, member: &Member) {
        let (mut view, daemon) = (member.view(), self.clone());
        self.member.send_replace(Some(member.clone()));
        tokio::spawn(async move {
            loop {
                let current = view.borrow_and_update().clone();
                // Generation 0 is no view at all: acting on it would stop every task.
                if current.generation > 0 {
                    daemon.desired.send_replace(current);
                }
                let gone = async { daemon.member.subscribe().wait_for(Option::is_none).await.is_ok() };
                tokio::select! {
                    changed = view.changed() => if changed.is_err() { return },
                    _ = gone => return,
                }
            }
        });
    }

    /// Takes everything of the cluster off this host.
    pub async fn forget(&self) {
        self.member.send_replace(None);
        let last = self.desired.borrow().clone();
        let generation = last.generation + 1;
        self.desired.send_replace(Arc::new(NodeConfig { generation, ..NodeConfig::empty(last.node) }));
        let Some((mut status, _)) = self.dataplane.borrow().clone() else { return };
        let clean = status.wait_for(|status| status.generation >= generation && status.settled);
        if tokio::time::timeout(CLEAN_UP, clean).await.is_err() {
            tracing::warn!("the kernel is not clean yet; the data plane goes on trying");
        }
    }
}

/// Runs the daemon until it is told to stop. Stopping it leaves tasks, links and rules as they are.
pub async fn run(options: Options) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("netd makes namespaces, links and rules, which takes root: `systemctl start netd`, or run it with sudo");
    }
    let _lock = lock(&options.directory)?;
    let _host = claim()?;
    let hostname = nix::unistd::gethostname()?.into_string().unwrap_or_else(|_| "localhost".to_owned());
    let daemon = Arc::new(Daemon {
        options,
        hostname,
        desired: watch::Sender::new(Arc::new(NodeConfig::empty(NodeId(0)))),
        dataplane: watch::Sender::new(None),
        member: watch::Sender::new(None),
        membership: tokio::sync::Mutex::new(()),
    });
    let member = daemon.resume().await?;
    match &member {
        Some(member) => daemon.follow(member),
        None => tracing::info!("this host is part of no cluster yet"),
    }
    let mut parts = JoinSet::new();
    let server = local::serve(daemon.clone())?;
    parts.spawn(server);
    parts.spawn(host(daemon.clone(), member.is_some()));
    stopped(&mut parts).await?;
    let member = daemon.member.borrow().clone();
    if let Some(member) = member {
        member.shutdown().await;
    }
    Ok(())
}

/// One daemon per directory: two would fight over the kernel.
fn lock(directory: &Path) -> anyhow::Result<Flock<File>> {
    let make = || DirBuilder::new().recursive(true).mode(0o700).create(directory);
    make().with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}: run netd as root", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err(_) => bail!("another netd runs on {}: stop it first", directory.display()),
    }
}

/// One daemon per network namespace, too, to which abstract names belong: each would remove what the other makes.
fn claim() -> anyhow::Result<unix::net::UnixListener> {
    let name = unix::net::SocketAddr::from_abstract_name("netd").context("naming the claim")?;
    unix::net::UnixListener::bind_addr(&name).context("another netd runs in this network namespace: stop it first")
}

async fn stopped(parts: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = parts.join_next() => ended?.and_then(|()| bail!("a part of the daemon ended by itself")),
    }
}

/// The host's side: kernel, names and tasks follow `desired`; what they say is reported. A member waits for its first
/// view, because without one everything here would look superfluous.
async fn host(daemon: Arc<Daemon>, is_member: bool) -> anyhow::Result<()> {
    let mut first = daemon.desired.subscribe();
    if is_member {
        first.wait_for(|config| config.generation > 0).await?;
    }
    let tasks = daemon.tasks();
    let inhabited = move |task| agent::sandbox(&tasks, task);
    let (status, inside) =
        dataplane::spawn(daemon.desired.subscribe(), inhabited).context("the data plane cannot start")?;
    daemon.dataplane.send_replace(Some((status.clone(), inside)));
    let (ready, sandboxes) = watch::channel(BTreeSet::new());
    let (tasks, reports) = watch::channel(Vec::new());
    let _agent = agent::spawn(daemon.tasks(), daemon.hostname.clone(), daemon.desired.subscribe(), sandboxes, tasks);
    let names = tokio::spawn(names::serve(daemon.desired.subscribe(), status.clone()));
    let tell_systemd = async {
        status.clone().wait_for(|status| status.settled).await.ok();
        notify::ready().unwrap_or_else(|error| tracing::warn!(%error, "systemd could not be told"));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = report(&daemon, status.clone(), ready, reports) => Ok(()),
        () = tell_systemd => Ok(()),
        ended = names => ended.context("the resolver ended"),
    }
}

/// Passes on what the kernel has and how the tasks are, whenever either changes.
async fn report(
    daemon: &Daemon,
    mut status: watch::Receiver<Arc<dataplane::Status>>,
    ready: watch::Sender<BTreeSet<TaskId>>,
    mut tasks: watch::Receiver<Vec<TaskReport>>,
) {
    let mut member = daemon.member.subscribe();
    let mut applied = 0;
    loop {
        let current = status.borrow_and_update().clone();
        if *ready.borrow() != current.ready {
            ready.send_replace(current.ready.clone());
        }
        // What failed is not applied: managers that wait for this host must go on waiting.
        if current.failures.is_empty() {
            applied = current.generation;
        }
        let tasks_now = tasks.borrow_and_update().clone();
        if let Some(member) = member.borrow_and_update().as_ref() {
            let failures = current.failures.iter().take(FAILURES).map(ToString::to_string).collect();
            member.report(NodeReport { node: member.node(), applied, failures, tasks: tasks_now });
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = tasks.changed() => if changed.is_err() { return },
            changed = member.changed() => if changed.is_err() { return },
        }
    }
}
