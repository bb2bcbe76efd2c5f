//! A host as member of a cluster: init, join, resume, leave, and proposals and queries to the
//! leader.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{
    Proposal, decode, encode, lists,
    proto::{Json, control_client::ControlClient, membership_client::MembershipClient},
};
use model::{
    Answer, Availability, BalancerKind, ClusterCommand, Command, Failure, Kind, Level, Node,
    NodeCommand, NodeConfig, NodeId, NodeReport, NodeStatus, Query, Refusal, RequestId, Response,
    Role, StateMachine, TooNew,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Request, Status, service::Routes, transport::Channel};

use crate::{
    ClusterError, JoinAnswer, JoinCall, LinkError, PeerIdentity, Token,
    bounds::Bounds,
    comparison, drive, election, files,
    identity::Identity,
    joining::{Config, Host, JoinOptions, ask_to_join, forget_state, prepare, reachable},
    leader::{PATIENCE, RETRY_PAUSE, no_answer},
    link::{Links, Target},
    pki,
    raft::{Consensus, Mark, Retry, Seat, StateDigest, now},
    server,
    session::{self, Outbox},
    tls,
    view::View,
    visitors::{self, Visitors},
    vouching::Vouched,
};

/// Timeout of one try at one leader.
const TRY_TIMEOUT: Duration = Duration::from_secs(6);
/// Timeout until an admitted host is a working member.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a manager that votes writes down how far its log is.
const REMEMBER: Duration = Duration::from_secs(60);
/// How long a host that leaves with --force tries to tell the cluster.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a host cannot go on as a member.
#[derive(Clone, Debug)]
pub enum Halt {
    /// A later version wrote what it was sent.
    TooNew(TooNew),
    /// Raft has ended, and its disk takes writes again: whoever starts anew goes on.
    Mended,
    /// Its copy of the state is not that of the other managers: it starts anew without its log.
    Differs,
    /// Raft has panicked: what it has in memory is not to be trusted.
    Panicked,
}

/// This host as member of its cluster. Clones are the same member; it works until
/// [`Member::shutdown`].
pub struct Member<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    config: Config,
    identity: Identity,
    links: Links,
    consensus: Option<Arc<Consensus<S>>>,
    view: View,
    outbox: Outbox,
    stop: watch::Sender<bool>,
    halted: watch::Sender<Option<Halt>>,
    /// Why this manager takes no part in Raft.
    ailment: watch::Sender<Option<Failure>>,
    tasks: Mutex<JoinSet<()>>,
    vouched: Vouched,
    /// What others may take of this member before it knows them.
    bounds: Arc<Bounds>,
    visitors: Arc<Visitors>,
}

impl<S> Clone for Member<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<S: StateMachine> Member<S> {
    /// Makes a new cluster, with a new authority, of this one manager; its tunnels use this UDP
    /// port. Errors: the host already is a member, or its address or directory cannot be used.
    pub async fn init(
        config: Config,
        host: Host,
        data_path_port: u16,
        extra: impl FnOnce(&Member<S>) -> Routes,
    ) -> Result<Self, ClusterError> {
        let listener = prepare(&config)?;
        let address = reachable(host.advertise, &listener)?;
        let authority = pki::new_authority()?;
        let own = pki::new_request()?;
        let (key, certificate) = pki::sign(&authority, &own.request, Role::Manager)?;
        let identity = Identity::new(
            certificate,
            own.key,
            authority.root_certificate.clone(),
            Vec::new(),
            Vec::new(),
        )?;
        let record = Node {
            id: key.node(),
            hostname: host.hostname,
            address,
            vtep: host.vtep,
            role: Role::Manager,
            availability: Availability::Active,
            balancer: BalancerKind::default(),
            status: NodeStatus::Unknown,
            applied: 0,
            behind: Default::default(),
            failures: Vec::new(),
            causes: Vec::new(),
            capabilities: None,
            on_link: BTreeSet::new(),
            key: None,
            joined: now(),
            version: 0,
        };
        let member = Self::assemble(config, identity).await?;
        let made = member
            .found(
                address,
                Command::Cluster(ClusterCommand::Bootstrap {
                    authority,
                    node: record,
                    data_path_port,
                }),
            )
            .await;
        member.settle(made, listener, extra).await
    }

    /// Joins this host to the cluster of the token, with the role of the token. Returns once it is
    /// a working member: its view is here, and a manager votes. Errors: the token, the address, or
    /// the cluster's refusal.
    pub async fn join(
        config: Config,
        options: JoinOptions,
        extra: impl FnOnce(&Member<S>) -> Routes,
    ) -> Result<Self, ClusterError> {
        let token: Token = options.token.parse()?;
        let listener = prepare(&config)?;
        let own = pki::new_request()?;
        let answer = ask_to_join(&token, &options, &listener, own.request, config.known).await?;
        let identity = Identity::joined(answer, own.key)?;
        let member = Self::assemble(config, identity).await?;
        let saved = member.inner.identity.save(&member.inner.config.directory);
        member.settle(saved, listener, extra).await
    }

    /// Resumes this host's membership; `None` if it is no member. Needs no other member: the view
    /// on disk is used at once.
    pub async fn resume(
        config: Config,
        extra: impl FnOnce(&Member<S>) -> Routes,
    ) -> Result<Option<Self>, ClusterError> {
        let Some(identity) = Identity::load(&config.directory)? else {
            return Ok(None);
        };
        let listener = server::listen(config.listen)?;
        let links = Links::new(tls::client(&identity)?);
        // First: a view of a later version says the level that a netd must know.
        let view = View::open(&config.directory, identity.node, config.known)?;
        let (consensus, ill) = match consensus(&config, &identity, &links).await {
            Ok(consensus) => (consensus, None),
            Err(error) if error.is_of_the_log() => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let member = Self::with(config, identity, links, view, consensus);
        if let Some(error) = ill {
            member.goes_without_log(error);
        }
        member.start(listener, extra)?;
        Ok(Some(member))
    }

    async fn assemble(config: Config, identity: Identity) -> Result<Self, ClusterError> {
        files::make_directory(&config.directory)?;
        let links = Links::new(tls::client(&identity)?);
        let view = View::open(&config.directory, identity.node, config.known)?;
        let consensus = consensus(&config, &identity, &links).await?;
        Ok(Self::with(config, identity, links, view, consensus))
    }

    fn with(
        config: Config,
        identity: Identity,
        links: Links,
        view: View,
        consensus: Option<Arc<Consensus<S>>>,
    ) -> Self {
        let (stop, _) = watch::channel(false);
        let (outbox, tasks, halted, ailment) = Default::default();
        Self {
            inner: Arc::new(Inner {
                config,
                identity,
                links,
                consensus,
                view,
                outbox,
                stop,
                halted,
                ailment,
                tasks,
                vouched: Vouched::default(),
                bounds: Arc::new(Bounds::new()),
                visitors: Arc::default(),
            }),
        }
    }

    /// A manager whose log cannot be used does not vote; the rest of its host goes on. Where the
    /// disk is at fault, it is tried again.
    fn goes_without_log(&self, error: ClusterError) {
        let is_disk = matches!(error, ClusterError::Disk { .. });
        let Failure {
            kind, cause, next, ..
        } = error.into();
        let cause = format!("this manager does not vote: {cause}");
        tracing::error!(cause, next, "the rest of netd goes on");
        self.is_ill(Failure::new(kind, cause, next).about("Raft"));
        if is_disk {
            let (member, directory) = (self.clone(), self.inner.config.directory.clone());
            let mended = async move {
                drive::takes_writes_again(&directory).await;
                member.halt(Halt::Mended);
            };
            let mut tasks = self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            tasks.spawn(mended);
        }
    }

    fn start(
        &self,
        listener: TcpListener,
        extra: impl FnOnce(&Member<S>) -> Routes,
    ) -> Result<(), ClusterError> {
        let tls = tls::server(&self.inner.identity)?;
        let serving = server::serve(
            self.clone(),
            listener,
            tls,
            extra(self),
            self.inner.stop.subscribe(),
        );
        let mut tasks = self
            .inner
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(serving);
        tasks.spawn(session::run(self.clone()));
        tasks.spawn(visitors::watch(self.clone()));
        let member = self.clone();
        tasks.spawn(async move { member.own_view().keep().await });
        if let Some(consensus) = &self.inner.consensus {
            tasks.spawn(drive::run(self.clone(), consensus.clone()));
            tasks.spawn(drive::watch_for_panics(self.clone(), consensus.clone()));
            tasks.spawn(election::watch(consensus.standing.clone(), self.clone()));
            tasks.spawn(enlist(self.clone(), consensus.clone()));
            tasks.spawn(comparison::run(self.clone(), consensus.clone()));
        }
        Ok(())
    }

    /// The first entry of a new cluster. The identity is saved last: without it nothing has
    /// happened.
    async fn found(&self, address: SocketAddr, bootstrap: Command) -> Result<(), ClusterError> {
        let failed = |Retry(reason)| ClusterError::Raft {
            operation: "make a cluster",
            reason,
        };
        let consensus = self.here().map_err(failed)?;
        consensus.initialize(address).await?;
        while !consensus.standing.leads() {
            sleep(RETRY_PAUSE).await;
        }
        consensus
            .write(RequestId(rand::random()), bootstrap)
            .await
            .map_err(failed)??;
        self.inner.identity.save(&self.inner.config.directory)
    }

    /// Starts working; whatever fails until this is a full member undoes it.
    async fn settle(
        self,
        begun: Result<(), ClusterError>,
        listener: TcpListener,
        extra: impl FnOnce(&Member<S>) -> Routes,
    ) -> Result<Self, ClusterError> {
        let joins = !self.inner.identity.managers.is_empty();
        let settled = match begun.and_then(|()| self.start(listener, extra)) {
            Ok(()) => timeout(SETTLE_TIMEOUT, self.settled())
                .await
                .map_err(|_| unsettled()),
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            if joins {
                let command = Command::Node(NodeCommand::Remove { node: self.node() });
                let _told = timeout(
                    FAREWELL,
                    self.propose(Proposal {
                        request: RequestId(rand::random()),
                        command,
                    }),
                )
                .await;
            }
            self.shutdown().await;
            self.forget()?;
            return Err(error);
        }
        Ok(self)
    }

    async fn settled(&self) {
        if let Some(consensus) = &self.inner.consensus {
            while !consensus.standing.votes() {
                sleep(RETRY_PAUSE).await;
            }
        }
        let mut view = self.view();
        let _stopped = view.wait_for(|view| view.generation > 0).await;
    }

    /// Removes this host from its cluster and deletes its data. Without `force` refused for the
    /// last manager, if the remaining managers would have no majority, and if no manager can be
    /// reached.
    pub async fn leave(&self, force: bool) -> Result<(), Refusal> {
        let command = Command::Node(NodeCommand::Remove { node: self.node() });
        let farewell = self.propose(Proposal {
            request: RequestId(rand::random()),
            command,
        });
        let patience = if force {
            FAREWELL
        } else {
            PATIENCE + TRY_TIMEOUT
        };
        let told = timeout(patience, farewell).await;
        match told.unwrap_or_else(|_| Err(no_answer("it did not answer in time"))) {
            // Not found, denied: the cluster has removed it already.
            Err(refusal) if !matches!(refusal.kind, Kind::NotFound | Kind::Denied) => {
                if !force {
                    return Err(refusal);
                }
                tracing::warn!(
                    cause = refusal.cause,
                    "this host leaves without the cluster's consent"
                );
            }
            _ => {}
        }
        self.shutdown().await;
        Ok(self.forget()?)
    }

    fn forget(&self) -> Result<(), ClusterError> {
        Identity::remove(&self.inner.config.directory)?;
        forget_state(&self.inner.config)
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.inner.identity.node
    }

    /// This node, as others see it.
    pub(crate) fn identity(&self) -> PeerIdentity {
        let Identity {
            node, role, digest, ..
        } = self.inner.identity;
        let key = digest;
        PeerIdentity { node, role, key }
    }

    /// What this node may do.
    pub fn role(&self) -> Role {
        self.inner.identity.role
    }

    /// The newest level that this netd takes part in.
    pub(crate) fn known(&self) -> Level {
        self.inner.config.known
    }

    /// Something of a later version has come: this host cannot go on as a member.
    pub(crate) fn halt(&self, halt: Halt) {
        self.inner.halted.send_replace(Some(halt));
    }

    pub(crate) fn is_ill(&self, failure: Failure) {
        self.inner.ailment.send_replace(Some(failure));
    }

    /// This manager's state is not that of others, or no longer so.
    pub(crate) fn disputes(&self, failure: Option<Failure>) {
        self.inner.ailment.send_if_modified(|ailment| {
            let may_change = ailment.as_ref().is_none_or(|it| it.kind == Kind::Conflict);
            let changes = may_change && *ailment != failure;
            if changes {
                *ailment = failure;
            }
            changes
        });
    }

    /// Why this manager takes no part in Raft, though netd runs, or may not be right. `None` where
    /// all is well, and on a worker.
    pub fn ailment(&self) -> watch::Receiver<Option<Failure>> {
        self.inner.ailment.subscribe()
    }

    /// The digest of this manager's copy of the state; `None` on a worker. Equal on all managers at
    /// an equal log index.
    pub fn digest(&self) -> Option<StateDigest> {
        self.consensus().map(|consensus| consensus.machine.digest())
    }

    /// Returns once this host cannot go on as a member.
    pub async fn halted(&self) -> Halt {
        let mut halted = self.inner.halted.subscribe();
        let halt = halted.wait_for(Option::is_some).await;
        let halt = halt.ok().and_then(|halt| halt.clone());
        match halt {
            Some(halt) => halt,
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }

    /// Executes a command once, at whichever leader. Without a leader it is retried for about 10 s;
    /// then the refusal is of kind `Unavailable`, and the same request may be proposed again.
    pub async fn propose(&self, proposal: Proposal) -> Response {
        // A member of an earlier version may lead.
        let proposal = &Proposal {
            command: proposal.command.at(self.level()),
            ..proposal
        };
        let from = self.identity();
        self.at_leader(|seat| async move {
            match seat {
                Seat::Here => {
                    self.here()?
                        .take(from, proposal.request, proposal.command.clone())
                        .await
                }
                Seat::There(node, address) => {
                    let mut leader = ControlClient::new(self.channel_to(node, address));
                    read(address, leader.propose(call(proposal)).await)
                }
            }
        })
        .await?
    }

    /// Answers a question on the cluster's newest state, whoever leads. Errors as for
    /// [`Member::propose`].
    pub async fn query(&self, query: Query) -> Result<Answer, Refusal> {
        let query = match query {
            Query::Node(name) if name == "self" => Query::Node(self.node().to_string()),
            query => query,
        };
        let query = &query;
        self.at_leader(|seat| async move {
            match seat {
                Seat::Here => self.here()?.query(query).await,
                Seat::There(node, address) => {
                    let channel = self.channel_to(node, address);
                    let answer = lists::ask(channel, encode(query), TRY_TIMEOUT).await;
                    answer.map_err(|status| Retry(format!("{address}: {}", status.message())))
                }
            }
        })
        .await?
    }

    /// Lets a host in that knows a token.
    pub(crate) async fn admit(&self, join: &JoinCall) -> Result<JoinAnswer, Refusal> {
        self.at_leader(|seat| async move {
            match seat {
                Seat::Here => self.here()?.admit(join).await,
                Seat::There(node, address) => {
                    let mut leader = MembershipClient::new(self.channel_to(node, address));
                    read(address, leader.join(call(join)).await)
                }
            }
        })
        .await?
    }

    /// This node's own view: the one of the disk at first, then each newer one.
    pub fn view(&self) -> watch::Receiver<Arc<NodeConfig>> {
        self.inner.view.watch()
    }

    /// Brings the latest state of this node to the log. Reports that wait are merged; each is
    /// delivered to whoever leads until it is in the log.
    pub fn report(&self, report: NodeReport) {
        self.inner.outbox.put(report);
    }

    /// A connection to another member, which is made again by itself when it breaks. Errors: nobody
    /// there, another cluster's member, or not the node that was expected.
    pub async fn channel(
        &self,
        to: SocketAddr,
        expect: Option<NodeId>,
    ) -> Result<Channel, LinkError> {
        self.inner
            .links
            .connected(Target {
                address: to,
                node: expect,
            })
            .await
    }

    /// Stops; what is on disk stays.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let mut tasks = std::mem::take(
            &mut *self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        tasks.shutdown().await;
        if let Some(consensus) = &self.inner.consensus {
            consensus.stop().await;
        }
        self.inner.links.close();
    }

    pub(crate) fn channel_to(&self, node: NodeId, address: SocketAddr) -> Channel {
        self.inner.links.channel(Target {
            address,
            node: Some(node),
        })
    }

    /// Whether a certificate is that of a present member, as far as that can be told.
    pub(crate) async fn knows(&self, identity: PeerIdentity) -> bool {
        self.is_member(identity).await == Some(true)
    }

    /// Whether a certificate is that of a present member. A manager checks its state; a worker
    /// checks its view, and asks the cluster about nodes that share no network with it. `None`:
    /// nobody answers.
    pub(crate) async fn is_member(&self, identity: PeerIdentity) -> Option<bool> {
        let PeerIdentity { node, role, key } = identity;
        if let Some(consensus) = self.consensus() {
            let is_its = |known: &Node| known.role == role && known.key.is_none_or(|it| it == key);
            let known = |state: &S| state.nodes().get(&node).is_some_and(is_its);
            return Some(consensus.machine.read(known));
        }
        let view = self.current_view();
        if view.peers.get(&node).is_some_and(|peer| peer.role == role) {
            return Some(true);
        }
        match self.query(Query::Node(node.to_string())).await {
            Ok(Answer::Nodes(nodes)) => Some(
                nodes
                    .iter()
                    .any(|found| found.id == node && found.role == role),
            ),
            Err(refusal) if refusal.kind == Kind::NotFound => Some(false),
            _ => None,
        }
    }

    pub(crate) fn own_address(&self) -> Option<SocketAddr> {
        let record = self.inner.consensus.as_ref()?.node(self.node())?;
        Some(record.address)
    }

    /// The level of the cluster, as far as it is known here.
    fn level(&self) -> Level {
        let of_view = self.current_view().level;
        let of_state = self
            .consensus()
            .map(|consensus| consensus.machine.read(StateMachine::level));
        of_state.unwrap_or_default().max(of_view)
    }

    pub(crate) fn consensus(&self) -> Option<&Arc<Consensus<S>>> {
        self.inner.consensus.as_ref()
    }

    pub(crate) fn here(&self) -> Result<&Arc<Consensus<S>>, Retry> {
        self.consensus()
            .ok_or_else(|| Retry("this host has no log, or none that can be used".to_owned()))
    }

    /// What this host was told when it joined: where managers listen, and which of them voted.
    pub(crate) fn told(&self) -> (&[SocketAddr], &[NodeId]) {
        let Identity {
            managers, voters, ..
        } = &self.inner.identity;
        (managers, voters)
    }

    pub(crate) fn vouched(&self) -> &Vouched {
        &self.inner.vouched
    }

    /// The members that have connections here.
    pub(crate) fn visitors(&self) -> &Arc<Visitors> {
        &self.inner.visitors
    }

    pub(crate) fn bounds(&self) -> &Arc<Bounds> {
        &self.inner.bounds
    }

    pub(crate) fn links(&self) -> &Links {
        &self.inner.links
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.inner.outbox
    }

    pub(crate) fn own_view(&self) -> &View {
        &self.inner.view
    }

    pub(crate) fn current_view(&self) -> Arc<NodeConfig> {
        self.inner.view.get()
    }
}

/// A manager's part in Raft.
async fn consensus<S: StateMachine>(
    config: &Config,
    identity: &Identity,
    links: &Links,
) -> Result<Option<Arc<Consensus<S>>>, ClusterError> {
    if identity.role == Role::Worker {
        return Ok(None);
    }
    let directory = config.directory.join("raft");
    let mark = Mark::of(&config.directory);
    let (known, limits, links) = (config.known, config.history, links.clone());
    let started = Consensus::start(&directory, mark, identity.node, links, known, limits);
    Ok(Some(Arc::new(started.await?)))
}

/// Asks whoever leads to let this manager vote, until it does. Then it remembers how far its log
/// is, again and again.
async fn enlist<S: StateMachine>(member: Member<S>, consensus: Arc<Consensus<S>>) {
    while !consensus.standing.voters().contains(&member.node().0) {
        if let Ok(Seat::There(node, address)) = member.seat().await {
            let mut leader = MembershipClient::new(member.channel_to(node, address));
            if let Err(status) = leader.enlist(encode(&member.node())).await {
                tracing::info!(leader = %address, reason = status.message(),
                    "this manager does not vote yet");
            }
        }
        sleep(RETRY_PAUSE).await;
    }
    loop {
        if let Err(error) = consensus.remember().await {
            tracing::warn!(%error, "how far the log is could not be written beside the identity");
        }
        sleep(REMEMBER).await;
    }
}

fn call(payload: &impl Serialize) -> Request<Json> {
    let mut request = Request::new(encode(payload));
    request.set_timeout(TRY_TIMEOUT);
    request
}

fn read<T: DeserializeOwned>(
    from: SocketAddr,
    answer: Result<tonic::Response<Json>, Status>,
) -> Result<T, Retry> {
    let answer = answer.map_err(|status| Retry(format!("{from}: {}", status.message())))?;
    decode(answer.get_ref()).map_err(|error| Retry(format!("{from}: {error}")))
}

fn unsettled() -> ClusterError {
    Refusal::new(
        Kind::Unavailable,
        format!(
            "this host was admitted, but did not become a working member within {} s",
            SETTLE_TIMEOUT.as_secs()
        ),
        "see that the managers reach this host's advertised address on TCP 2377, then join again",
    )
    .into()
}
