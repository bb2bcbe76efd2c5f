//! State shared by the daemon's parts: membership, desired state, progress of the kernel.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use agent::Executor;
use model::{Failure, Kind, Level, NodeConfig, Refusal};
use orchestrator::State;
use tokio::sync::watch;

use crate::containers;

/// This host's part in a cluster.
pub type Member = cluster::Member<State>;

/// How long a host that leaves waits for its kernel to be clean.
const CLEAN_UP: Duration = Duration::from_secs(20);

/// The file that remembers where the control plane listens, and where it does unless told
/// otherwise.
const LISTEN: &str = "listen";
const CONTROL_PORT: u16 = 2377;

/// Where the daemon keeps and offers things.
#[derive(Clone, Debug)]
pub struct Options {
    /// State directory; must survive a reboot.
    pub directory: PathBuf,
    /// The local API.
    pub socket: PathBuf,
    /// The newest level of the cluster that this daemon takes part in.
    pub known: Level,
    /// How much history of the cluster a manager keeps.
    pub history: cluster::Limits,
    /// Whom this host asks for names outside the cluster; those of /etc/resolv.conf if empty.
    pub dns: Vec<dns::NameServer>,
}

/// What the daemon's services share.
pub struct Daemon {
    /// Where it keeps and offers things.
    pub options: Options,
    /// The host's name.
    pub hostname: String,
    /// Runs the tasks of this host.
    pub executor: Arc<dyn Executor>,
    /// What this host should look like.
    pub desired: watch::Sender<Arc<NodeConfig>>,
    /// How far the kernel is, and the way to look inside; absent until the first view.
    pub dataplane: watch::Sender<
        Option<(
            watch::Receiver<Arc<dataplane::Status>>,
            dataplane::Dataplane,
        )>,
    >,
    /// Whose resolvers of names stand.
    pub serving: watch::Sender<BTreeSet<dns::Audience>>,
    /// Its part in a cluster, while it has one.
    pub member: watch::Sender<Option<Member>>,
    /// Held while that changes.
    pub membership: tokio::sync::Mutex<()>,
    /// What is not kept of what the engine's containers and networks ask for.
    pub(crate) unkept: watch::Sender<Vec<Failure>>,
    /// What CNI runtimes have attached here.
    pub(crate) roster: containers::roster::Roster,
}

impl Options {
    /// Where the tasks' own directories are.
    pub fn tasks(&self) -> PathBuf {
        self.directory.join("tasks")
    }
}

impl Daemon {
    /// Where the cluster's part of this host is kept and listens; remembered for the next start.
    pub fn cluster(&self, listen: SocketAddr) -> io::Result<cluster::Config> {
        fs::write(self.options.directory.join(LISTEN), listen.to_string())?;
        Ok(cluster::Config {
            directory: self.options.directory.clone(),
            listen,
            known: self.options.known,
            history: self.options.history,
        })
    }

    /// Where the cluster's part of this host was kept and listened when it last ran.
    pub fn last_cluster(&self) -> cluster::Config {
        let listen = fs::read_to_string(self.options.directory.join(LISTEN)).unwrap_or_default();
        // Without the file it never was a member, or listens as everyone does.
        let listen = listen
            .trim()
            .parse()
            .unwrap_or(SocketAddr::from((Ipv6Addr::UNSPECIFIED, CONTROL_PORT)));
        cluster::Config {
            directory: self.options.directory.clone(),
            listen,
            known: self.options.known,
            history: self.options.history,
        }
    }

    /// Why this host takes no part in Raft, though it is a manager.
    pub fn ailment(&self) -> Option<Failure> {
        self.member.borrow().as_ref()?.ailment().borrow().clone()
    }

    /// Why there is nothing to say about the kernel yet.
    pub fn has_no_view(&self) -> Refusal {
        let cause = format!("host {} has not received its view yet", self.hostname);
        Refusal::new(Kind::Unavailable, cause, "try again in a moment")
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
                let gone = async {
                    daemon
                        .member
                        .subscribe()
                        .wait_for(Option::is_none)
                        .await
                        .is_ok()
                };
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
        self.desired.send_replace(Arc::new(NodeConfig {
            generation,
            ..NodeConfig::empty(last.node)
        }));
        let Some((mut status, _)) = self.dataplane.borrow().clone() else {
            return;
        };
        let clean = status.wait_for(|status| status.generation >= generation && status.settled);
        if tokio::time::timeout(CLEAN_UP, clean).await.is_err() {
            tracing::warn!("the kernel is not clean yet; the data plane goes on trying");
        }
    }
}
