//! Docker Engine's plugin: network driver and IPAM driver. The engine calls methods on a socket;
//! names, labels and health are watched by the engine's API. No method asks that API, because the
//! engine holds locks while it calls; at most a method waits a moment for what the watcher sees.

mod endpoint;
mod engine;
mod http;
mod ipam;
mod journal;
mod network;
mod pool;
mod ports;
mod refusal;
mod relay;
mod watch;
mod wire;

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dns::Audience;
use model::{
    Command, Container, ContainerCommand, ContainerConfig, ContainerKey, ContainerRuntime,
    EndpointId, Failure, Kind, Millis, NodeConfig, Outcome, Question, Refusal,
};
use tokio::{
    sync::{Mutex, MutexGuard, Notify, watch::Sender},
    time::{sleep, timeout},
};

pub use relay::relay;

use crate::{
    cluster::{Patience, ask, propose},
    containers,
    daemon::{Daemon, Member},
};
use journal::{Hold, Journal, Pending};
use watch::Look;

/// Below the daemon's directory.
const DIRECTORY: &str = "docker";
/// How long the kernel may take to have a device in place.
const READY: Duration = Duration::from_secs(15);
/// How long a plugin call may block on clean-up; what is left continues in the background.
const GIVING_UP: Duration = Duration::from_secs(3);
/// Interval at which pending changes are sent to the cluster.
const RETRY: Duration = Duration::from_secs(1);
/// Endpoints are worked on one at a time, by these many turns.
const TURNS: usize = 64;

/// The plugin's state.
pub struct Plugin {
    daemon: Arc<Daemon>,
    journal: Journal,
    turns: Vec<Mutex<()>>,
    /// There is something to tell the cluster.
    wake: Notify,
    /// There is something to ask the engine.
    news: Notify,
    /// Last inventory of the engine.
    look: Sender<Option<Look>>,
    /// Since when this daemon runs.
    started: Millis,
    /// When the engine that was listened to has died last; 0: never. Whatever it was at is over.
    engine_ended: AtomicU64,
}

/// Answers the engine of this host, if there ever is one.
pub async fn serve(daemon: Arc<Daemon>) -> Result<(), Failure> {
    match start(daemon) {
        Ok(parts) => parts.await,
        // A host without an engine is none the worse for it.
        Err(error) => {
            tracing::warn!(%error,
                "Docker's networks cannot be served: remove the cause and restart netd")
        }
    }
    std::future::pending().await
}

fn start(daemon: Arc<Daemon>) -> io::Result<impl Future<Output = ()>> {
    let journal = Journal::open(&daemon.options.directory.join(DIRECTORY))?;
    let plugin = Arc::new(Plugin::new(daemon, journal));
    let listener = http::listen()?;
    Ok(async move {
        tokio::join!(
            http::serve(&plugin, listener),
            plugin.tell(),
            plugin.watch()
        );
    })
}

fn now() -> Millis {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or_default()
}

impl Plugin {
    fn new(daemon: Arc<Daemon>, journal: Journal) -> Self {
        Self {
            daemon,
            journal,
            turns: (0..TURNS).map(|_| Mutex::new(())).collect(),
            wake: Notify::new(),
            news: Notify::new(),
            look: Sender::new(None),
            started: now(),
            engine_ended: AtomicU64::new(0),
        }
    }

    /// Whether the engine that began this at that time has died since.
    fn has_lost_its_engine(&self, since: Millis) -> bool {
        since < self.engine_ended.load(Ordering::Relaxed)
    }

    /// Whether netd or the engine has died since that time: an unfinished call of then will not be
    /// completed.
    fn is_of_before(&self, since: Millis) -> bool {
        since < self.started || self.has_lost_its_engine(since)
    }

    /// Without a cluster the engine is told to come again: what it holds is settled later.
    fn member(&self) -> Result<Member, Refusal> {
        self.daemon.member().map_err(|refusal| Refusal {
            kind: Kind::Unavailable,
            ..refusal
        })
    }

    fn key(&self, id: &str) -> Result<ContainerKey, Refusal> {
        Ok(ContainerKey {
            node: self.member()?.node(),
            runtime: ContainerRuntime::Docker,
            id: id.to_owned(),
        })
    }

    async fn propose(&self, command: Command) -> Result<Outcome, Refusal> {
        propose(&self.member()?, command).await
    }

    async fn ask<T>(&self, question: Question<T>) -> Result<T, Refusal> {
        ask(&self.member()?, question).await
    }

    /// One change of an endpoint at a time.
    async fn turn(&self, key: &str) -> MutexGuard<'_, ()> {
        let sum = key.bytes().fold(0_usize, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        self.turns[sum % self.turns.len()].lock().await
    }

    /// The outcome of writing something down.
    fn keep(&self, written: io::Result<()>) -> Result<(), Refusal> {
        written.map_err(|error| {
            let directory = self.daemon.options.directory.join(DIRECTORY);
            let cause = format!("cannot write below {}: {error}", directory.display());
            Refusal::new(Kind::Unavailable, cause, "make room on that disk")
        })
    }

    /// Has the cluster know an endpoint as it is held.
    async fn attach(&self, key: &str, hold: &Hold) -> Result<Container, Refusal> {
        match self
            .propose(Command::Container(ContainerCommand::Attach {
                spec: Box::new(self.spec(key, hold)?),
            }))
            .await?
        {
            Outcome::Container(container) => Ok(*container),
            other => {
                let cause = format!("the cluster answered {other:?} to the endpoint {key}");
                Err(Refusal::new(
                    Kind::Unavailable,
                    cause,
                    "update the managers",
                ))
            }
        }
    }

    /// Waits until an endpoint's device is where it can be taken, and, in a sandbox that is there
    /// already, names are answered. Engines before 28 make it afterwards.
    async fn ready(&self, path: &str, endpoint: EndpointId) -> Result<(), Refusal> {
        let is_meant = |entry: &ContainerConfig| {
            entry.path == path && entry.endpoints.iter().any(|joint| joint.id == endpoint)
        };
        let find = |config: &NodeConfig| {
            let mut containers = config.containers.iter();
            let (&sandbox, _) = containers.find(|(_, entry)| is_meant(entry))?;
            Some(sandbox)
        };
        let patience = Patience {
            ready: READY,
            refused: READY,
        };
        let config = self.daemon.until_ready(find, patience).await?;
        let Some(sandbox) = find(&config).filter(|_| containers::open(path, None).is_some()) else {
            return Ok(());
        };
        let audience = Audience::Sandbox(sandbox);
        let mut serving = self.daemon.serving.subscribe();
        let stands = serving.wait_for(|serving| serving.contains(&audience));
        if timeout(READY, stands).await.is_err() {
            tracing::warn!(
                path,
                "a container starts in which names are not answered yet"
            );
        }
        Ok(())
    }

    /// Gives an endpoint and its addresses up. Its turn is the caller's.
    async fn detach(&self, key: &str) -> Result<(), Refusal> {
        self.propose(Command::Container(ContainerCommand::Detach {
            keys: vec![self.key(key)?],
        }))
        .await?;
        self.keep(self.journal.holds.remove(key))
    }

    /// Sends an endpoint's pending change to the cluster.
    async fn settle(&self, key: &str) -> Result<(), Refusal> {
        let _turn = self.turn(key).await;
        let Some(hold) = self.journal.holds.get(key) else {
            return Ok(());
        };
        match hold.pending {
            None => return Ok(()),
            Some(Pending::Detach) => return self.detach(key).await,
            Some(Pending::Leave) => {}
        }
        match self.attach(key, &hold).await {
            Err(refusal) if refusal.kind == Kind::Unavailable => return Err(refusal),
            Err(refusal) => {
                tracing::info!(key, %refusal, "an endpoint leaves that this host has no record of")
            }
            Ok(_) => {}
        }
        self.keep(self.journal.holds.put(
            key,
            &Hold {
                pending: None,
                ..hold
            },
        ))
    }

    /// As [`Self::settle`], for as long as the engine can wait; the rest is done later.
    async fn settle_soon(&self, key: &str) {
        self.soon(self.settle(key)).await;
    }

    async fn remove_soon(&self, network: &str) {
        self.soon(self.remove_network(network)).await;
    }

    async fn soon(&self, work: impl Future<Output = Result<(), Refusal>>) {
        match timeout(GIVING_UP, work).await {
            Ok(Ok(())) => return,
            Ok(Err(refusal)) => {
                tracing::warn!(%refusal, next = refusal.next, "the release will be retried later")
            }
            Err(_) => {
                tracing::warn!("the cluster does not answer; the release will be retried later")
            }
        }
        self.wake.notify_one();
    }

    /// Background loop: sends pending changes to the cluster.
    async fn tell(&self) {
        loop {
            let mut undone = BTreeMap::new();
            for (key, _) in self
                .journal
                .holds
                .all()
                .into_iter()
                .filter(|(_, hold)| hold.pending.is_some())
            {
                if let Err(refusal) = self.settle(&key).await {
                    undone.insert(key, refusal);
                }
            }
            for (id, _) in self
                .journal
                .networks
                .all()
                .into_iter()
                .filter(|(_, network)| network.removed)
            {
                if let Err(refusal) = self.remove_network(&id).await {
                    undone.insert(id, refusal);
                }
            }
            match undone.first_key_value() {
                Some((object, refusal)) => {
                    tracing::debug!(object, %refusal, count = undone.len(), "releases to retry")
                }
                None => self.wake.notified().await,
            }
            sleep(RETRY).await;
        }
    }
}
