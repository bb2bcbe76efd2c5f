//! Runs the daemon: starts its parts and connects them. The cluster sends the host one value, the
//! `NodeConfig`; the host sends back one, the `NodeReport`.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{self, fs::DirBuilderExt},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use agent::{Exec, Sandboxes};
use cluster::{ClusterError, Halt};
use model::{Failure, Kind, NetworkId, Node, NodeConfig, NodeId, NodeReport, TaskId, TaskReport};
use nix::fcntl::{Flock, FlockArg};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    containers,
    daemon::{Daemon, Member, Options},
    docker, local, names, notify, relay, start,
};

/// Most kernel failures in one report: enough to see the cause, few enough for the log.
const FAILURES: usize = 20;
/// The most prefixes of its links that a node tells of.
const PREFIXES: usize = 256;

/// Generations applied within this time are reported together: each report is an entry of the log.
const TOGETHER: Duration = Duration::from_millis(20);

/// How a daemon ends that nothing has kept from its work.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Told,
    /// It is to start anew: what kept it from going on is mended.
    Again,
}

/// Runs the daemon until it is told to stop. Stopping it leaves tasks, links and rules as they are.
///
/// # Errors
/// Why it cannot start or go on.
pub async fn run(options: Options) -> Result<Ended, Failure> {
    if !nix::unistd::geteuid().is_root() {
        let cause = "netd makes namespaces, links and rules, which takes root";
        let next = "start it by `systemctl start netd`, or run it with sudo";
        return Err(Failure::new(Kind::Denied, cause, next).about("netd"));
    }
    let _lock = lock(&options.directory)?;
    let _host = claim()?;
    let hostname = nix::unistd::gethostname();
    let hostname = hostname
        .map_err(|error| start::refused("read the host's name", &error.into()))?
        .to_string_lossy()
        .into_owned();
    let daemon = Arc::new(Daemon {
        executor: Arc::new(Exec::new(options.tasks(), hostname.clone())),
        options,
        hostname,
        desired: watch::Sender::new(Arc::new(NodeConfig::empty(NodeId(0)))),
        dataplane: watch::Sender::new(None),
        serving: watch::Sender::default(),
        member: watch::Sender::new(None),
        membership: tokio::sync::Mutex::new(()),
        unkept: watch::Sender::default(),
        roster: containers::roster::Roster::default(),
    });
    let member = Member::resume(daemon.last_cluster(), |_| relay::routes(&daemon)).await?;
    match &member {
        Some(member) => daemon.follow(member),
        None => tracing::info!("this host is not part of a cluster yet"),
    }
    let mut parts = JoinSet::new();
    parts.spawn(local::serve(daemon.clone())?);
    parts.spawn(docker::serve(daemon.clone()));
    parts.spawn(host(daemon.clone()));
    parts.spawn(containers::liveness::run(daemon.clone()));
    let ended = tokio::select! {
        ended = stopped(&mut parts) => ended.map(|()| Ended::Told),
        halt = halted(&daemon) => match halt {
            Halt::TooNew(error) => Err(ClusterError::from(error).into()),
            Halt::Mended | Halt::Differs => Ok(Ended::Again),
            Halt::Panicked => Err(panicked()),
        },
    };
    let member = daemon.member.borrow().clone();
    if let Some(member) = member {
        member.shutdown().await;
    }
    ended
}

fn panicked() -> Failure {
    let cause = "Raft has panicked in this netd, which does not go on with what it has in memory";
    let next = "systemd starts netd again; keep its log, which says where the panic was";
    Failure::new(Kind::Unavailable, cause, next).about("Raft")
}

/// One daemon per directory: two would fight over the kernel.
fn lock(directory: &Path) -> Result<Flock<File>, Failure> {
    let next = "let root write there, or give another --directory";
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| start::cannot("make", directory, &error, next))?;
    let path = directory.join("lock");
    let file = File::create(&path).map_err(|error| start::cannot("open", &path, &error, next))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        let place = format!("runs on {}", directory.display());
        start::another(
            &place,
            "stop it first, or give this one its own --directory",
        )
    })
}

/// One daemon per network namespace, too, to which abstract names belong: each would remove what
/// the other makes.
fn claim() -> Result<unix::net::UnixListener, Failure> {
    let name = unix::net::SocketAddr::from_abstract_name("netd");
    let bound = name.and_then(|name| unix::net::UnixListener::bind_addr(&name));
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            start::another("runs in this network namespace", "stop it first")
        }
        _ => start::refused("claim this network namespace", &error),
    })
}

async fn stopped(parts: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| start::refused("listen to signals", &error));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = parts.join_next() => {
            ended.map_err(|panic| start::ended("a part of netd", panic))?
                .and_then(|()| Err(start::ended("a part of netd", "it had no reason to")))
        }
    }
}

/// Waits until this host can be no member of its cluster any more, of whichever it is one.
async fn halted(daemon: &Daemon) -> Halt {
    let mut membership = daemon.member.subscribe();
    loop {
        let member = membership.borrow_and_update().clone();
        let halted = async {
            match member {
                Some(member) => member.halted().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            halt = halted => return halt,
            changed = membership.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
    }
}

/// The host's side: data plane, names and agent follow `desired`, and their status is reported. A
/// member waits for its first view: without one, everything on the host would look unwanted.
async fn host(daemon: Arc<Daemon>) -> Result<(), Failure> {
    let upstream = names::upstream(&daemon.options.dns)?;
    let is_member = daemon.member.borrow().is_some();
    let mut first = daemon.desired.subscribe();
    if is_member {
        let known = first.wait_for(|config| config.generation > 0).await;
        known.map_err(|closed| start::ended("this host's view", closed))?;
    }
    let inhabited = {
        let (executor, desired) = (daemon.executor.clone(), daemon.desired.subscribe());
        move |sandbox| match desired.borrow().containers.get(&sandbox) {
            Some(container) => containers::open(&container.path, container.identity.as_deref()),
            None => executor.sandbox(TaskId(sandbox.0)),
        }
    };
    let (opened, sockets) = mpsc::unbounded_channel();
    let (status, inside) = dataplane::spawn(
        daemon.desired.subscribe(),
        &daemon.options.directory,
        inhabited,
        move |sandbox| names::open(sandbox, &opened),
    )
    .map_err(|error| start::refused("start the data plane", &error))?;
    daemon
        .dataplane
        .send_replace(Some((status.clone(), inside)));
    let (found, sandboxes) = watch::channel(Sandboxes::default());
    let (tasks, reports) = watch::channel(Vec::new());
    let _agent = agent::spawn(
        daemon.executor.clone(),
        daemon.desired.subscribe(),
        sandboxes,
        tasks,
    );
    let names = {
        let (daemon, status) = (daemon.clone(), status.clone());
        let desired = daemon.desired.subscribe();
        tokio::spawn(async move {
            names::serve(upstream, desired, status, sockets, &daemon.serving).await
        })
    };
    let tell_systemd = async {
        status.clone().wait_for(|status| status.settled).await.ok();
        notify::ready().unwrap_or_else(|error| tracing::warn!(%error, "cannot notify systemd"));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = report(&daemon, status.clone(), found, reports) => Ok(()),
        () = tell_systemd => Ok(()),
        ended = names => ended.map_err(|panic| start::ended("the resolver", panic)),
    }
}

fn sandboxes_of(status: &dataplane::Status) -> Sandboxes {
    let mut refused = BTreeMap::new();
    for failure in &status.failures {
        // What failed first is the cause of the rest.
        failure.sandbox.map(|sandbox| {
            refused.entry(sandbox).or_insert_with(|| Failure {
                // Of a task it is known what it is about.
                object: String::new(),
                ..failure.why.clone()
            })
        });
    }
    Sandboxes {
        ready: status.ready.clone(),
        refused,
    }
}

/// Sends a report whenever the kernel's generation or a task changes.
async fn report(
    daemon: &Daemon,
    mut status: watch::Receiver<Arc<dataplane::Status>>,
    sandboxes: watch::Sender<Sandboxes>,
    mut tasks: watch::Receiver<Vec<TaskReport>>,
) {
    let mut member = daemon.member.subscribe();
    // Of a host that is no member: nothing.
    let mut ailment = watch::Sender::new(None).subscribe();
    let mut unkept = daemon.unkept.subscribe();
    let (mut progress, mut told, mut due) = (Progress::default(), None, None);
    loop {
        let current = status.borrow_and_update().clone();
        let found = sandboxes_of(&current);
        sandboxes.send_if_modified(|known| {
            let changed = *known != found;
            *known = found;
            changed
        });
        progress.follow(&current);
        let tasks_now = tasks.borrow_and_update().clone();
        // Before the first pass nothing is known of this kernel, which is not to say that it can do
        // nothing.
        let looked = current.node.is_some();
        if let Some(member) = member.borrow_and_update().as_ref().filter(|_| looked) {
            if told.is_none() {
                ailment = member.ailment();
            }
            let ailment = ailment.borrow_and_update().clone();
            let failures = current.failures.iter().map(|failure| failure.why.clone());
            let unkept = unkept.borrow_and_update().clone();
            let unheard = Node::check_hostname(&daemon.hostname).err();
            let unheard = unheard.map(|why| why.about("the host's new name"));
            let causes = ailment.into_iter().chain(unheard).chain(failures);
            let causes = few(causes.chain(unkept));
            let (node, capabilities) = (member.node(), current.capabilities.clone());
            let (applied, behind) = progress.of(node);
            let (lost, on_link) = (
                current.lost.clone(),
                current.on_link.iter().take(PREFIXES).copied().collect(),
            );
            let report = NodeReport {
                failures: Vec::new(),
                causes,
                tasks: tasks_now,
                capabilities,
                lost,
                on_link,
                node,
                applied,
                behind,
                hostname: Some(daemon.hostname.clone()),
            };
            let report = report.at(daemon.desired.borrow().level);
            let is_known = told.as_ref().is_some_and(|told| is_known(told, &report));
            if !is_known || due.is_some_and(|due| Instant::now() >= due) {
                member.report(report.clone());
                (told, due) = (Some(report), None);
            } else if told.as_ref() != Some(&report) {
                due = due.or(Some(Instant::now() + TOGETHER));
            }
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            changed = tasks.changed() => if changed.is_err() { return },
            changed = unkept.changed() => if changed.is_err() { return },
            changed = member.changed() => {
                if changed.is_err() { return }
                told = None;
            }
            Ok(()) = ailment.changed() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// The first failures, and how many there are beside.
fn few(failures: impl Iterator<Item = Failure>) -> Vec<Failure> {
    let mut causes: Vec<Failure> = failures.collect();
    let more = causes.len().saturating_sub(FAILURES);
    if more > 0 {
        causes.truncate(FAILURES - 1);
        let cause = format!("{} failures more than these are not told", more + 1);
        let next = "mend those first; `swarmctl status` on the host has all of its kernel's";
        causes.push(Failure::new(Kind::Exhausted, cause, next).about("netd"));
    }
    causes
}

/// How far the kernel is, for managers. What failed is not applied: those that wait for this host
/// must go on waiting. Nobody waits for a task that cannot be here, nor for a port that another
/// program has, and what one network lacks holds up those on that network alone.
#[derive(Default)]
struct Progress {
    node: Option<NodeId>,
    applied: u64,
    /// What it had of networks before they began to lack something.
    behind: BTreeMap<NetworkId, u64>,
}

impl Progress {
    fn follow(&mut self, status: &dataplane::Status) {
        let Some(lacking) = &status.behind else {
            return;
        };
        // A host that has joined anew has nothing yet of what it is to have.
        if self.node != status.node {
            *self = Self {
                node: status.node,
                ..Self::default()
            };
        }
        self.behind.retain(|network, _| lacking.contains(network));
        for network in lacking {
            self.behind.entry(*network).or_insert(self.applied);
        }
        self.applied = status.generation;
    }

    /// The generation that a node has applied, and that of networks that it is behind with.
    fn of(&self, node: NodeId) -> (u64, BTreeMap<NetworkId, u64>) {
        if self.node == Some(node) {
            (self.applied, self.behind.clone())
        } else {
            (0, BTreeMap::new())
        }
    }
}

/// Whether a report says nothing new but how far the kernel is.
fn is_known(told: &NodeReport, report: &NodeReport) -> bool {
    *report
        == NodeReport {
            applied: report.applied,
            ..told.clone()
        }
}
