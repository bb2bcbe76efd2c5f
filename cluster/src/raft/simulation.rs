//! Managers in one process, on a clock of their own, with ways between them that are cut in one
//! direction or in both: Raft, log, elections and the judgement of leaders are those of netd.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use model::{Batch, Level, NodeId, NodeStatus};
use openraft::{
    AnyError, BasicNode, CommittedLeaderId, Raft, RaftNetwork, RaftNetworkFactory, Vote,
    error::{
        Infallible, InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Timeout,
        Unreachable,
    },
    network::{Backoff, RPCOption, RPCTypes},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest,
        InstallSnapshotResponse, VoteRequest, VoteResponse,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tempfile::TempDir;
use tokio::{
    runtime::Builder,
    time::{Instant, interval, sleep, timeout},
};

use super::{
    Log, LogId, Machine, Payload, Seat, Standing, Types, confirmed,
    consensus::{config, settle_voters},
    network::Acks,
    plausible,
};
use crate::{
    Leadership,
    election::{self, Others, Place},
    reach::{self, Reach, Verdict},
    tests::toy::Toy,
};

/// How long one way takes, in milliseconds of the managers' clock.
const WAY: std::ops::RangeInclusive<u64> = 1..=3;
/// What a leader that no majority reaches takes at most to find that out and to be replaced. The
/// next one may be no better.
const SETTLED: Duration = Duration::from_secs(10);
/// For how long it is watched then.
const WATCHED: Duration = Duration::from_secs(8);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(3);

/// From a manager to another one: no request that way is answered. A host's firewall does that.
type Way = (u64, u64);

/// A manager.
#[derive(Clone)]
struct Manager {
    raft: Raft<Types>,
    standing: Arc<Standing>,
}

/// What is between the managers.
#[derive(Default)]
struct World {
    cuts: Mutex<BTreeSet<Way>>,
    managers: Mutex<BTreeMap<u64, Manager>>,
    /// Who called whom down.
    down: Mutex<BTreeSet<(u64, u64)>>,
    /// Managers that answer what comes to their mind, most of the time.
    liars: Mutex<BTreeMap<u64, StdRng>>,
    /// They never say yes.
    mild: AtomicBool,
}

impl World {
    /// Whom a request reaches; never ends where the way is cut.
    async fn reach(&self, from: u64, to: u64) -> Manager {
        let way = rand::rng().random_range(WAY);
        sleep(Duration::from_millis(way)).await;
        if self.cuts.lock().unwrap().contains(&(from, to)) {
            std::future::pending::<()>().await;
        }
        self.managers.lock().unwrap()[&to].clone()
    }

    fn is_mild(&self) -> bool {
        self.mild.load(Ordering::Relaxed)
    }

    /// What a manager answers in place of the truth.
    fn lie<T>(&self, node: u64, answer: T, lie: impl FnOnce(&mut StdRng) -> T) -> T {
        let mut liars = self.liars.lock().unwrap();
        let Some(chance) = liars.get_mut(&node) else {
            return answer;
        };
        if chance.random_ratio(3, 4) {
            lie(chance)
        } else {
            answer
        }
    }

    fn all(&self) -> BTreeMap<u64, Manager> {
        self.managers.lock().unwrap().clone()
    }
}

/// The ways of one manager to the others.
#[derive(Clone)]
struct Ways {
    world: Arc<World>,
    me: u64,
    log: Log,
    acks: Acks,
}

struct Peer {
    ways: Ways,
    node: u64,
}

impl RaftNetworkFactory<Types> for Ways {
    type Network = Peer;

    async fn new_client(&mut self, node: u64, _: &BasicNode) -> Peer {
        let ways = self.clone();
        Peer { ways, node }
    }
}

type Failure<E> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Peer {
    /// A request and its answer, within the time that it may take.
    async fn call<T, E: std::error::Error>(
        &self,
        option: &RPCOption,
        action: RPCTypes,
        call: impl AsyncFnOnce(Manager) -> Result<T, RaftError<u64, E>>,
    ) -> Result<T, Failure<E>> {
        let (id, target) = (self.ways.me, self.node);
        let answered = async {
            let manager = self.ways.world.reach(id, target).await;
            call(manager).await
        };
        match timeout(option.hard_ttl(), answered).await {
            Ok(answer) => answer.map_err(|error| RemoteError::new(target, error).into()),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id,
                target,
                timeout: option.hard_ttl(),
            })),
        }
    }
}

fn own_disk<E: std::error::Error>(error: std::io::Error) -> Failure<E> {
    RPCError::Unreachable(Unreachable::from(AnyError::new(&error)))
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        call: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<Infallible>> {
        self.ways.log.prompt().await.map_err(own_disk)?;
        let last = call.entries.last().map(|entry| entry.log_id.index);
        let from = NodeId(self.ways.me);
        let asked = call.clone();
        let append = async move |manager: Manager| {
            let taken = manager.standing.append(from, call).await;
            // What was committed and then lost is not taken back.
            taken.unwrap_or(Ok(AppendEntriesResponse::Conflict))
        };
        let answer = self.call(&option, RPCTypes::AppendEntries, append).await?;
        let world = &self.ways.world;
        let mut answer = world.lie(self.node, answer, |chance| {
            match chance.random_range(0..4) {
                0 => AppendEntriesResponse::Success,
                1 => AppendEntriesResponse::Conflict,
                2 => AppendEntriesResponse::HigherVote(any_vote(chance)),
                _ => AppendEntriesResponse::PartialSuccess(any_id(chance)),
            }
        });
        let confirmed = self.ways.acks.of(self.node, &asked.vote);
        let confirmed = confirmed.as_ref();
        let checked =
            plausible::append_answer(self.ways.me, self.node, &asked, confirmed, &mut answer);
        checked.map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        if let Some(last) = last {
            self.ways.log.written(last).await.map_err(own_disk)?;
        }
        if let AppendEntriesResponse::Success = answer {
            let last = asked.entries.last().map(|entry| entry.log_id);
            let last = last.or(asked.prev_log_id);
            self.ways.acks.note(self.node, asked.vote, last);
        }
        Ok(answer)
    }

    async fn install_snapshot(
        &mut self,
        call: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let install = async move |manager: Manager| manager.raft.install_snapshot(call).await;
        self.call(&option, RPCTypes::InstallSnapshot, install).await
    }

    async fn vote(
        &mut self,
        call: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<Infallible>> {
        let from = NodeId(self.ways.me);
        let asked = call.clone();
        let vote = async move |manager: Manager| {
            let taken = manager.standing.vote(from, call).await;
            taken.expect("managers ask nothing odd here")
        };
        let answer = self.call(&option, RPCTypes::Vote, vote).await?;
        let mut answer = self
            .ways
            .world
            .lie(self.node, answer, |chance| VoteResponse {
                vote: any_vote(chance),
                vote_granted: !self.ways.world.is_mild() && chance.random(),
                last_log_id: any_id(chance),
            });
        let checked = plausible::vote_answer(self.ways.me, self.node, &asked, &mut answer);
        checked.map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        Ok(answer)
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(200)))
    }
}

impl Others for Ways {
    async fn ask(&self, (node, _): Place) -> Option<Leadership> {
        let manager = self.world.reach(self.me, node.0).await;
        Some(manager.standing.leadership(Some(address(node.0))))
    }
}

/// Near what is there, or far from it.
fn any_number(chance: &mut StdRng) -> u64 {
    match chance.random_range(0..8) {
        0 => u64::MAX,
        1 => u64::MAX - 1,
        2 => 1 << chance.random_range(0..64_u32),
        3 => 0,
        _ => chance.random_range(0..40),
    }
}

fn any_id(chance: &mut StdRng) -> Option<LogId> {
    let node = chance.random_range(0..4);
    let leader = CommittedLeaderId::new(any_number(chance), node);
    chance
        .random_bool(0.9)
        .then(|| LogId::new(leader, any_number(chance)))
}

fn any_vote(chance: &mut StdRng) -> Vote<u64> {
    let (term, node) = (any_number(chance), chance.random_range(0..4));
    match chance.random() {
        true => Vote::new_committed(term, node),
        false => Vote::new(term, node),
    }
}

fn address(node: u64) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(node).unwrap()))
}

/// Starts a manager and what runs beside its Raft.
async fn start(world: &Arc<World>, me: u64, home: &TempDir) {
    let home = home.path().join(me.to_string());
    std::fs::create_dir(&home).unwrap();
    let machine = Machine::<Toy>::open(&home.join("snapshot"), Level::NEWEST).unwrap();
    let log = Log::open(&home, Level::NEWEST, Level::NEWEST).unwrap();
    settle_voters(NodeId(me), &log, &machine).await.unwrap();
    let acks = Acks::default();
    let ways = Ways {
        world: world.clone(),
        me,
        log: log.clone(),
        acks: acks.clone(),
    };
    let raft = Raft::new(me, config().unwrap(), ways.clone(), log.clone(), machine);
    let raft = raft.await.unwrap();
    let standing = Arc::new(Standing::new(raft.clone(), NodeId(me), log, acks));
    let manager = Manager { raft, standing };
    world.managers.lock().unwrap().insert(me, manager.clone());
    tokio::spawn(election::watch(manager.standing.clone(), ways.clone()));
    tokio::spawn(hold_session(manager.standing.clone(), ways));
    tokio::spawn(lead(manager, world.clone(), me));
}

/// A manager says to the leader that it is alive.
async fn hold_session(standing: Arc<Standing>, ways: Ways) {
    let mut tick = interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        match standing.seat() {
            Some(Seat::There(leader, _)) => {
                let reached = ways.world.reach(ways.me, leader.0);
                if let Ok(leader) = timeout(Duration::from_secs(3), reached).await
                    && leader.standing.leads()
                {
                    leader.standing.hear(NodeId(ways.me));
                }
            }
            Some(Seat::Here) => standing.hear(NodeId(ways.me)),
            None => {}
        }
    }
}

/// The leader's loop, as far as it judges.
async fn lead(manager: Manager, world: Arc<World>, me: u64) {
    let standing = &manager.standing;
    loop {
        sleep(Duration::from_millis(200)).await;
        if !standing.leads() || confirmed(manager.raft.ensure_linearizable()).await.is_err() {
            continue;
        }
        let mut reach = Reach::new();
        while standing.leads() {
            let verdict = reach.look(standing);
            if verdict == Verdict::Resign {
                standing.resign().await;
                continue;
            }
            for (node, _) in standing.other_voters() {
                if reach::status(standing, verdict, node, NodeStatus::Ready).is_some() {
                    world.down.lock().unwrap().insert((me, node.0));
                }
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Whether a command that is given to a manager is carried out in time.
async fn obeys(world: &World, at: u64) -> bool {
    let entries = Vec::new();
    let level = Level::NEWEST;
    let payload = Payload::new(Batch { level, entries }).unwrap();
    let carried_out = async {
        loop {
            let leader = match world.all()[&at].standing.seat() {
                Some(Seat::Here) => Some(world.all()[&at].clone()),
                Some(Seat::There(leader, _)) => {
                    let reached = timeout(Duration::from_secs(1), world.reach(at, leader.0));
                    reached.await.ok()
                }
                None => None,
            };
            if let Some(leader) = leader
                && leader.standing.leads()
                && confirmed(leader.raft.client_write(payload.clone()))
                    .await
                    .is_ok()
            {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(COMMAND, carried_out).await.is_ok()
}

/// What came of a cut.
struct Seen {
    /// Managers that did not carry out a command.
    deaf: BTreeSet<u64>,
    /// Who was called down.
    down: BTreeSet<u64>,
    /// Elections once all had settled.
    elections: u64,
    /// Managers that did not carry out a command after the end of the cut.
    ill: BTreeSet<u64>,
}

impl fmt::Display for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "no command at {:?}, down {:?}, {} elections, ill afterwards {:?}",
            self.deaf, self.down, self.elections, self.ill
        )
    }
}

/// The newest term that any manager knows.
fn term(world: &World) -> u64 {
    let mut newest = 0;
    for manager in world.all().into_values() {
        newest = newest.max(manager.raft.metrics().borrow().current_term);
    }
    newest
}

/// A cluster that the first manager leads, in this directory.
async fn begin(managers: u64, home: &TempDir) -> Arc<World> {
    let world = Arc::new(World::default());
    for me in 1..=managers {
        start(&world, me, home).await;
    }
    let members: BTreeMap<u64, BasicNode> = (1..=managers)
        .map(|node| (node, BasicNode::new(address(node))))
        .collect();
    let first = world.all()[&1].raft.clone();
    first.initialize(members).await.unwrap();
    for me in 1..=managers {
        assert!(obeys(&world, me).await, "the cluster begins");
    }
    // The grace of a new leader is over, and all have sessions.
    sleep(SETTLED).await;
    world
}

/// Cuts ways and mends them.
async fn cut(managers: u64, cuts: BTreeSet<Way>) -> Seen {
    let home = tempfile::tempdir().unwrap();
    let world = begin(managers, &home).await;
    *world.cuts.lock().unwrap() = cuts;
    sleep(SETTLED * (managers as u32 / 2)).await;
    world.down.lock().unwrap().clear();
    let before = term(&world);
    let mut deaf = BTreeSet::new();
    let start = Instant::now();
    while start.elapsed() < WATCHED {
        for me in 1..=managers {
            if !deaf.contains(&me) && !obeys(&world, me).await {
                deaf.insert(me);
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
    let elections = term(&world) - before;
    let down = world
        .down
        .lock()
        .unwrap()
        .iter()
        .map(|(_, node)| *node)
        .collect();

    world.cuts.lock().unwrap().clear();
    sleep(SETTLED).await;
    let mut ill = BTreeSet::new();
    for me in 1..=managers {
        if !obeys(&world, me).await {
            ill.insert(me);
        }
    }
    for manager in world.all().into_values() {
        manager.raft.shutdown().await.unwrap();
    }
    Seen {
        deaf,
        down,
        elections,
        ill,
    }
}

/// Whether there is a majority whose managers all reach each other.
fn has_majority(managers: u64, cuts: &BTreeSet<Way>) -> bool {
    (0_u32..1 << managers).any(|set| {
        let has = |node: &u64| set >> (node - 1) & 1 == 1;
        let is_cut = cuts.iter().any(|(from, to)| has(from) && has(to));
        u64::from(set.count_ones()) * 2 > managers && !is_cut
    })
}

/// Cuts ways; returns what went wrong, if anything. A manager is well that carries out commands and
/// is not called down.
fn tried(managers: u64, cuts: &BTreeSet<Way>) -> Option<String> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let seen = runtime.block_on(cut(managers, cuts.clone()));
    let ill = seen.deaf.union(&seen.down).count() as u64;
    let is_well = (managers - ill) * 2 > managers && seen.elections == 0;
    let holds = is_well || !has_majority(managers, cuts);
    (!holds || !seen.ill.is_empty()).then(|| format!("{cuts:?}: {seen}"))
}

fn ways(managers: u64) -> Vec<Way> {
    let pairs = (1..=managers).flat_map(|from| (1..=managers).map(move |to| (from, to)));
    pairs.filter(|(from, to)| from != to).collect()
}

fn none(failures: Vec<String>) {
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn two_of_three_managers_are_well_under_every_cut() {
    let ways = ways(3);
    let mut failures = Vec::new();
    for bits in 0_u32..1 << ways.len() {
        let cuts = ways.iter().enumerate();
        let cuts = cuts.filter(|(number, _)| bits >> number & 1 == 1);
        failures.extend(tried(3, &cuts.map(|(_, way)| *way).collect()));
    }
    none(failures);
}

/// Of three managers the third answers nonsense for a while, under a leader or as it is elected.
async fn lied_to(seed: u64) {
    let home = tempfile::tempdir().unwrap();
    let world = begin(3, &home).await;
    world.mild.store(seed % 4 < 2, Ordering::Relaxed);
    world
        .liars
        .lock()
        .unwrap()
        .insert(3, StdRng::seed_from_u64(seed));
    for _ in 0..20 {
        obeys(&world, 1).await;
        let elect = world.all()[&(1 + seed % 2)].raft.clone();
        elect.trigger().elect().await.unwrap();
        sleep(Duration::from_millis(300)).await;
    }
    world.liars.lock().unwrap().clear();
    sleep(SETTLED).await;
    for manager in world.all().into_values() {
        let runs = manager.raft.is_initialized().await;
        assert_eq!(runs, Ok(true), "Raft has ended, seed {seed}");
    }
    for me in (1..=3).filter(|_| world.is_mild()) {
        let obeys = async { while !obeys(&world, me).await {} };
        let is_well = timeout(60 * SETTLED, obeys).await.is_ok();
        assert!(is_well, "manager {me} is well again, seed {seed}");
    }
    for manager in world.all().into_values() {
        manager.raft.shutdown().await.unwrap();
    }
}

/// While nobody leads, the third of three managers leads the first one's term far away.
async fn led_apart() {
    let home = tempfile::tempdir().unwrap();
    let world = begin(3, &home).await;
    *world.cuts.lock().unwrap() = ways(3).into_iter().collect();
    sleep(SETTLED).await;
    let led = world.all()[&1].clone();
    let term = || led.raft.metrics().borrow().current_term;
    let start = term();
    for _ in 0..5 {
        let before = term();
        let vote = Vote::new(before + (1 << 32), 3);
        let last_log_id = Some(LogId::new(CommittedLeaderId::new(before, 3), 1 << 40));
        let call = VoteRequest { vote, last_log_id };
        let answer = led.standing.vote(NodeId(3), call).await.unwrap().unwrap();
        assert!(answer.vote.leader_id.term > before);
    }
    assert!(term() - start >= 5 << 32);
    world.cuts.lock().unwrap().clear();
    for me in 1..=3 {
        let obeys = async { while !obeys(&world, me).await {} };
        let is_well = timeout(12 * SETTLED, obeys).await.is_ok();
        assert!(is_well, "manager {me} is well again");
    }
    for manager in world.all().into_values() {
        manager.raft.shutdown().await.unwrap();
    }
}

#[test]
fn managers_with_terms_far_apart_come_together() {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(led_apart());
}

#[test]
fn managers_outlive_answers_that_are_lies() {
    for seed in 0..number() / 4 {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(lied_to(seed));
    }
}

/// The number of cuts of five managers that are tried.
fn number() -> u64 {
    let number = std::env::var("SIMULATED_CUTS").ok();
    number.map_or(40, |number| number.parse().unwrap())
}

#[test]
fn three_of_five_managers_are_well_under_cuts_of_two() {
    let mut failures = Vec::new();
    for seed in 0..number() {
        let mut chance = StdRng::seed_from_u64(seed);
        let faulty = (1..=5).sample(&mut chance, 2);
        let mut cuts: BTreeSet<Way> = ways(5).into_iter().collect();
        cuts.retain(|(from, to)| faulty.contains(from) || faulty.contains(to));
        cuts.retain(|_| chance.random_bool(0.5));
        failures.extend(tried(5, &cuts));
    }
    none(failures);
}
