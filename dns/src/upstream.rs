//! Forwarding to other resolvers: the host's, or those that the user set for a task. They are asked
//! in their order, each with a short head start before the next (`order.rs`), by hickory's clients
//! (`client.rs`); the answer is cached for its TTL. Equal queries are forwarded once.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream::FuturesUnordered,
};
use hickory_net::NetError;
use model::{SandboxId, names::RESOLVER};
use tokio::sync::Semaphore;

use crate::{
    answer::Transport,
    cache::{Cache, Key, Way},
    client::{Encrypted, Exchange},
    name_server::{NameServer, Trust},
    order::{Late, Lateness, Order, Said, Server, Step},
    resolv_conf::{PORT, ResolvConf},
    wire::{Foreign, Query, code},
};

/// Most resolvers asked, as in glibc (MAXNS in resolv.h).
pub const MAX_RESOLVERS: usize = 3;
/// Most forwarded queries of this host in flight.
const MAX_IN_FLIGHT: usize = 1024;

/// Runs a closure inside the network namespace of a sandbox. Errors: the namespace cannot be
/// entered, or the closure's own.
pub type Enter = Arc<
    dyn Fn(SandboxId, &mut (dyn FnMut() -> io::Result<()> + Send)) -> io::Result<()> + Send + Sync,
>;

/// The resolvers of the host and of its tasks, and the cache of their answers.
pub struct Upstream {
    resolvers: Resolvers,
    enter: Option<Enter>,
    encrypted: Encrypted,
    in_flight: Semaphore,
    cache: Mutex<Cache>,
    asked: Mutex<HashMap<(Key, Transport), Answering>>,
    /// Those of the host that were asked last.
    last: Mutex<Vec<NameServer>>,
    late: Mutex<Late>,
}

type Answer = Result<Arc<Foreign>, Arc<Unanswered>>;
type Answering = Shared<BoxFuture<'static, Answer>>;

#[derive(Debug)]
enum Resolvers {
    Fixed(Vec<NameServer>),
    File(PathBuf),
}

/// Why a forwarded query has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Too many queries are in flight.
    #[error("{MAX_IN_FLIGHT} forwarded queries of this host are in flight: ask again")]
    Busy,
    /// No resolver is configured other than our own.
    #[error("there is no resolver to forward to other than netd itself: add one to {0}")]
    NoResolver(String),
    /// None answered in time.
    #[error("none of these resolvers answered: {0}; see {1}")]
    Silent(String, String),
}

impl Upstream {
    /// What `/etc/resolv.conf` says at the time of each question.
    pub fn system() -> Self {
        Self::resolv_conf("/etc/resolv.conf")
    }

    /// What a file in the form of resolv.conf(5) says at the time of each question.
    pub fn resolv_conf(path: impl Into<PathBuf>) -> Self {
        Self::over(Resolvers::File(path.into()))
    }

    /// Always these.
    pub fn fixed(resolvers: Vec<SocketAddr>) -> Self {
        let resolvers = resolvers.into_iter().map(NameServer::from);
        Self::over(Resolvers::Fixed(resolvers.collect()))
    }

    /// Always these; those over TLS only if somebody is trusted.
    pub fn servers(resolvers: Vec<NameServer>, trust: Option<Trust>) -> Self {
        Self {
            encrypted: Encrypted::new(trust),
            ..Self::over(Resolvers::Fixed(resolvers))
        }
    }

    /// Tasks' own resolvers are asked by sockets made like this; without it, from the host.
    pub fn inside(self, enter: Enter) -> Self {
        Self {
            enter: Some(enter),
            ..self
        }
    }

    fn over(resolvers: Resolvers) -> Self {
        Self {
            resolvers,
            enter: None,
            encrypted: Encrypted::new(None),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            cache: Mutex::default(),
            asked: Mutex::default(),
            last: Mutex::default(),
            late: Mutex::default(),
        }
    }

    /// What was said before and still holds, with its age in seconds.
    pub(crate) fn known(&self, key: &Key) -> Option<(Arc<Foreign>, u32)> {
        hold(&self.cache).get(key, Instant::now())
    }

    /// Asks the resolvers but `ourselves`, each for 4 seconds at most. An answer cut short is asked
    /// for again over TCP if that is how the client asked. Where none has a useful answer, one
    /// resolver's refusal is the answer. A question that comes back to us while it is on its way
    /// gets no further.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        query: &Query<'_>,
        way: Way,
        transport: Transport,
        ourselves: &BTreeSet<IpAddr>,
    ) -> Answer {
        let (key, upstream, ourselves) = (Key::of(way, query), self.clone(), ourselves.clone());
        let hops = query.edns.map_or(0, |edns| edns.hops).saturating_add(1);
        let asked = (key.clone(), transport);
        let question = query.question.to_vec();
        let begin = || {
            let (key, asked) = (key.clone(), asked.clone());
            let work = async move {
                let exchange = Exchange {
                    question,
                    key: &key,
                    hops,
                    transport,
                    enter: upstream.enter.as_ref(),
                    encrypted: &upstream.encrypted,
                };
                let answer = upstream
                    .forward(exchange, &ourselves)
                    .await
                    .map_err(Arc::new);
                hold(&upstream.asked).remove(&asked);
                if let Ok(answer) = &answer
                    && key.way.may_be_kept()
                {
                    hold(&upstream.cache).put(key, answer.clone(), Instant::now());
                }
                answer
            };
            work.boxed().shared()
        };
        let answering = hold(&self.asked)
            .entry(asked.clone())
            .or_insert_with(begin)
            .clone();
        // Who began it may have given up.
        let _forgotten = Forget(self, &asked, &answering);
        answering.clone().await
    }

    async fn forward(
        &self,
        exchange: Exchange<'_>,
        ourselves: &BTreeSet<IpAddr>,
    ) -> Result<Arc<Foreign>, Unanswered> {
        let _permit = self.in_flight.try_acquire().map_err(|_| Unanswered::Busy)?;
        let (mut resolvers, source) = match &exchange.key.way {
            Way::Host => (self.resolvers().await, self.source()),
            Way::Sandbox(_, servers) => (
                servers.iter().map(|&server| plain(server)).collect(),
                "the service's --dns".to_owned(),
            ),
            Way::Engine(_) => (vec![plain(RESOLVER.into())], "the engine's log".to_owned()),
        };
        resolvers
            .retain(|resolver| !is_ourselves(resolver.address.ip(), &exchange.key.way, ourselves));
        resolvers.truncate(MAX_RESOLVERS);
        if resolvers.is_empty() {
            return Err(Unanswered::NoResolver(source));
        }
        let sandbox = exchange.key.way.sandbox();
        let servers: Vec<Server> = resolvers.into_iter().map(|at| (sandbox, at)).collect();
        let found = self.in_turn(&exchange, &servers).await;
        found.ok_or_else(|| {
            let asked: Vec<String> = servers.iter().map(|(_, at)| at.to_string()).collect();
            Unanswered::Silent(asked.join(", "), source)
        })
    }

    /// Asks these, each when its turn has come. `None`: none has answered.
    async fn in_turn(&self, exchange: &Exchange<'_>, servers: &[Server]) -> Option<Arc<Foreign>> {
        let now = Instant::now();
        let lateness: Vec<Lateness> = {
            let late = hold(&self.late);
            servers.iter().map(|server| late.of(server, now)).collect()
        };
        let mut order = Order::new(lateness);
        let mut running = FuturesUnordered::new();
        let found = loop {
            let until = match order.step(Instant::now()) {
                Step::Ask(at) => {
                    order.asked(at, Instant::now());
                    let answer = exchange.run(&servers[at].1);
                    running.push(async move { (at, answer.await) });
                    continue;
                }
                Step::Wait(until) => until,
                Step::End => break None,
            };
            let (at, answer) = tokio::select! {
                Some(answer) = running.next() => answer,
                () = passed(until) => continue,
            };
            if answer.is_ok() {
                hold(&self.late).note(servers[at].clone(), Lateness::None, Instant::now());
            }
            if let Some(found) = order.said(at, said(answer)) {
                break Some(found);
            }
        };
        let now = Instant::now();
        for (at, lateness) in order.late(now) {
            hold(&self.late).note(servers[at].clone(), lateness, now);
        }
        found.or_else(|| order.end()).map(Arc::new)
    }

    async fn resolvers(&self) -> Vec<NameServer> {
        let found = match &self.resolvers {
            Resolvers::Fixed(resolvers) => resolvers.clone(),
            Resolvers::File(path) => {
                let text = tokio::fs::read_to_string(path).await.unwrap_or_default();
                let servers = ResolvConf::parse(&text).servers.into_iter();
                servers.map(NameServer::from).collect()
            }
        };
        let mut last = hold(&self.last);
        if *last != found {
            hold(&self.cache).forget_host();
            last.clone_from(&found);
        }
        found
    }

    fn source(&self) -> String {
        match &self.resolvers {
            Resolvers::Fixed(_) => "netd --dns".to_owned(),
            Resolvers::File(path) => path.display().to_string(),
        }
    }
}

/// Waits for a moment, if there is one.
async fn passed(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// A resolver that a task or an engine has.
fn plain(address: IpAddr) -> NameServer {
    SocketAddr::from((address, PORT)).into()
}

fn said(answer: Result<Foreign, NetError>) -> Said<Foreign> {
    match answer {
        Ok(answer) if answer.has_answers() => Said::Found(answer),
        Ok(answer) if matches!(answer.code, code::NO_ERROR | code::NX_DOMAIN) => {
            Said::Nothing(answer)
        }
        Ok(answer) => Said::Refused(answer),
        Err(error) => {
            tracing::debug!(%error, "a resolver did not answer");
            Said::Failed
        }
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Our own resolvers are at gateways and, in sandboxes, at the address that Docker has its at: on a
/// host that is a container of Docker's, and in one, that one is another's.
fn is_ourselves(resolver: IpAddr, way: &Way, ourselves: &BTreeSet<IpAddr>) -> bool {
    ourselves.contains(&resolver)
        || matches!(way, Way::Sandbox(..)) && resolver == IpAddr::V4(RESOLVER)
}

/// Takes a question off the list if the last who waits for it goes.
struct Forget<'a>(&'a Upstream, &'a (Key, Transport), &'a Answering);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut asked = hold(&self.0.asked);
        // The list has one, this guard's owner the other.
        let is_last = self.2.strong_count().is_some_and(|count| count <= 2);
        if is_last
            && asked
                .get(self.1)
                .is_some_and(|listed| listed.ptr_eq(self.2))
        {
            asked.remove(self.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_addresses_are_known_from_where_they_are_asked() {
        let gateway: IpAddr = "10.0.9.1".parse().unwrap();
        let (ours, dockers) = (BTreeSet::from([gateway]), IpAddr::V4(RESOLVER));
        let task = Way::Sandbox(SandboxId(1), Vec::new());
        let is = |resolver, way: &Way| is_ourselves(resolver, way, &ours);
        assert_eq!(
            [
                is(gateway, &Way::Host),
                is(gateway, &task),
                is(dockers, &task)
            ],
            [true; 3]
        );
        assert!(!is(dockers, &Way::Host) && !is(dockers, &Way::Engine(SandboxId(1))));
    }

    #[tokio::test]
    async fn a_changed_resolv_conf_counts_from_the_next_question() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let upstream = Upstream::resolv_conf(file.path());
        for server in ["10.0.0.1", "10.0.0.2"] {
            std::fs::write(file.path(), format!("nameserver {server}\n")).unwrap();
            assert_eq!(
                upstream.resolvers().await,
                [format!("{server}:53").parse().unwrap()]
            );
        }
    }
}
