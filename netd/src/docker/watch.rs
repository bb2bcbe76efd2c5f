//! Watches the engine's API for what plugin methods do not say: names, labels, aliases and health
//! of containers, names of networks, and removals. Every event, and a timer, leads to the same full
//! comparison.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use model::{
    CONTAINER_LABELS, Command, Container, ContainerCommand, ContainerRuntime, ContainerTraits,
    Failure, Kind, Millis, NetworkCommand, NetworkId, NetworkInfo, Question, Refusal,
};
use tokio::time::{sleep, timeout};

use super::{
    GIVING_UP, Plugin, RETRY,
    engine::{self, Endpoint, Events, Inventory, Listed},
    journal::{Hold, NetworkRecord, Pending},
    network::aux_key,
};

/// Interval of full comparisons without events.
const PERIOD: Duration = Duration::from_secs(30);
/// Events within this time lead to one comparison.
const SWARM: Duration = Duration::from_millis(50);
/// An endpoint that no container claims is released once it is older than this, in milliseconds, or
/// its engine has died. A minute: Docker may retry a call for 30 s after one that took 30 s, and
/// shows the endpoint only then …
const AGE: u64 = 60_000;
/// … and once it has been missing for this long.
const MISSED: Duration = Duration::from_secs(10);
/// After an engine has died, interval at which the next one is looked for …
const SOON: Duration = Duration::from_millis(100);
/// … for this long, so that even an engine that dies at once is noticed.
const LATELY: Duration = Duration::from_secs(60);

/// State kept between comparisons while the engine answers.
#[derive(Default)]
struct Memory {
    aliases: BTreeMap<String, Vec<String>>,
    missing: BTreeMap<String, Instant>,
    /// Endpoints whose aliases the engine does not tell, and since when.
    uninspected: BTreeMap<String, Instant>,
    /// Networks that cannot have their name, by the engine's id.
    nameless: BTreeMap<String, Failure>,
    /// What the cluster was told of each endpoint, and why it did not take it.
    told: BTreeMap<String, (ContainerTraits, Option<Failure>)>,
}

impl Memory {
    /// Whether something has been missing for so long.
    fn has_missed(&mut self, what: &str, long: Duration) -> bool {
        self.missing
            .entry(what.to_owned())
            .or_insert_with(Instant::now)
            .elapsed()
            >= long
    }
}

/// The engine's inventory.
pub(crate) struct Look {
    /// It has been asked after this.
    began: Instant,
    /// Its networks, by its own identities.
    networks: BTreeSet<String>,
}

impl Plugin {
    /// Watches the engine for ever; while there is none it is looked for.
    pub(super) async fn watch(&self) {
        let mut followed = None;
        loop {
            if let Err(error) = self.follow(&mut followed).await {
                tracing::debug!(%error, "the engine does not answer");
            }
            let lately = followed.is_some_and(|at: Instant| at.elapsed() < LATELY);
            sleep(if lately { SOON } else { RETRY }).await;
        }
    }

    /// Listens to the engine until it ends; `followed` is when that was done last.
    async fn follow(&self, followed: &mut Option<Instant>) -> io::Result<()> {
        let opened = Events::open().await;
        // We were connected and the socket is now refused: that engine is dead, and so is any that
        // lived in between.
        if opened.as_ref().is_err_and(engine::is_absence) && followed.is_some() {
            self.engine_ended.store(super::now(), Ordering::Relaxed);
        }
        let events = opened?;
        // A comparison is dropped when the engine dies in the middle of it.
        let ended = tokio::select! {
            ended = self.listen(events) => ended,
            never = self.keep_looking() => match never {},
        };
        self.engine_ended.store(super::now(), Ordering::Relaxed);
        *followed = Some(Instant::now());
        ended
    }

    async fn listen(&self, mut events: Events) -> io::Result<()> {
        loop {
            events.next().await?;
            self.news.notify_one();
        }
    }

    async fn keep_looking(&self) -> Infallible {
        let mut memory = Memory::default();
        let mut is_failing = false;
        loop {
            if let Err(error) = self.look(&mut memory).await {
                tracing::debug!(%error, "cannot read the engine's containers and networks");
                // An engine that ends fails once, and then it is no longer listened to.
                if is_failing {
                    self.daemon.unkept.send_replace(vec![unread(&error)]);
                }
                is_failing = true;
                memory = Memory::default();
                sleep(RETRY).await;
                continue;
            }
            is_failing = false;
            let period = if memory.missing.is_empty() {
                PERIOD
            } else {
                MISSED
            };
            // In time or because of news.
            let _ = timeout(period, self.news.notified()).await;
            sleep(SWARM).await;
        }
    }

    /// Whether the engine has a network, if that can be known in a moment.
    pub(super) async fn has_network(&self, id: &str) -> Option<bool> {
        let asked = Instant::now();
        let mut looks = self.look.subscribe();
        self.news.notify_one();
        let seen = looks.wait_for(|look| look.as_ref().is_some_and(|look| look.began >= asked));
        let seen = timeout(GIVING_UP, seen).await.ok()?.ok()?;
        seen.as_ref().map(|look| look.networks.contains(id))
    }

    async fn look(&self, memory: &mut Memory) -> io::Result<()> {
        // The cluster is asked before the engine: so anything that the engine lacks was not
        // attached in between.
        let attached = self.attached().await;
        let (holds, networks) = (self.journal.holds.all(), self.journal.networks.all());
        let began = Instant::now();
        let seen = engine::inventory().await?;
        let listed = seen
            .networks
            .iter()
            .map(|network| network.id.clone())
            .collect();
        self.look.send_replace(Some(Look {
            began,
            networks: listed,
        }));
        let mut unkept = Vec::new();
        for (id, record) in networks.iter().filter(|(_, record)| !record.removed) {
            let refused = self.compare_network(id, record, &seen, memory).await;
            unkept.extend(refused);
        }
        let mut places: BTreeMap<&str, (&Listed, &Endpoint)> = BTreeMap::new();
        for container in &seen.containers {
            places.extend(
                container
                    .network_settings
                    .endpoints()
                    .map(|endpoint| (endpoint.id.as_str(), (container, endpoint))),
            );
        }
        let is_there = |endpoint: &str| places.contains_key(endpoint);
        memory.aliases.retain(|endpoint, _| is_there(endpoint));
        memory.uninspected.retain(|endpoint, _| is_there(endpoint));
        let others = seen
            .networks
            .iter()
            .filter(|network| self.journal.networks.get(&network.id).is_none());
        let elsewhere = others
            .filter(|network| network.leads_out())
            .map(|network| network.id.as_str())
            .collect();
        for (key, hold) in &holds {
            let by_mac = || {
                places
                    .values()
                    .find(|(_, endpoint)| endpoint.mac_address == hold.mac.to_string())
            };
            match hold
                .endpoint
                .as_deref()
                .and_then(|endpoint| places.get(endpoint))
            {
                Some((container, endpoint)) => {
                    memory.missing.remove(key);
                    let aliases = match aliases(container, endpoint, memory).await {
                        Ok(aliases) => aliases,
                        // What is not known now is no reason to take names away.
                        Err(error) => {
                            // It may just have been removed.
                            let since = memory.uninspected.entry(endpoint.id.clone());
                            if since.or_insert_with(Instant::now).elapsed() >= MISSED {
                                unkept.push(uninspected(container, &error));
                            }
                            continue;
                        }
                    };
                    memory.uninspected.remove(&endpoint.id);
                    let (mut traits, mut left_out) = traits(container, aliases, &elsewhere);
                    left_out.extend(only_as_many_aliases(&mut traits));
                    let refused = self.compare(key, traits, attached.as_deref(), memory).await;
                    left_out.extend(refused);
                    unkept.extend(left_out);
                }
                None if by_mac().is_some() => {
                    memory.missing.remove(key);
                }
                None => self.reclaim(key, hold, memory).await,
            }
        }
        self.give_up_strays(attached.unwrap_or_default(), &places, memory)
            .await;
        memory.told.retain(|key, _| holds.contains_key(key));
        self.daemon.unkept.send_if_modified(|known| {
            let is_new = *known != unkept;
            *known = unkept;
            is_new
        });
        Ok(())
    }

    /// Whether a call begun at that time is too old to be repeated.
    fn is_old(&self, since: Millis) -> bool {
        super::now().saturating_sub(since) > AGE || self.has_lost_its_engine(since)
    }

    /// Containers that the cluster has for this host's engine; `None` while no manager can be
    /// reached.
    pub(super) async fn attached(&self) -> Option<Vec<Container>> {
        let node = self.member().ok()?.node();
        let all = self
            .ask(Question::containers(node.to_string()))
            .await
            .ok()?;
        Some(
            all.into_iter()
                .filter(|container| container.key.runtime == ContainerRuntime::Docker)
                .collect(),
        )
    }

    /// Gives a network its final name, and removes a network that the engine no longer has. Returns
    /// what it cannot have of what it is to have.
    async fn compare_network(
        &self,
        id: &str,
        record: &NetworkRecord,
        seen: &Inventory,
        memory: &mut Memory,
    ) -> Vec<Failure> {
        let Some(listed) = seen.networks.iter().find(|listed| listed.id == id) else {
            if memory.has_missed(id, MISSED) && self.is_old(record.since) {
                tracing::info!(network = id, "the engine no longer has this network");
                let removed = NetworkRecord {
                    removed: true,
                    ..record.clone()
                };
                if self.journal.networks.put(id, &removed).is_ok() {
                    self.wake.notify_one();
                }
            }
            return Vec::new();
        };
        memory.missing.remove(id);
        let mut lacks = Vec::new();
        // Another engine may have held them, and have them no more.
        match self.hold_aside(record).await {
            Err(refusal) if refusal.kind == Kind::Unavailable => {
                tracing::debug!(network = id, %refusal, "cannot reserve all auxiliary addresses");
            }
            Err(refusal) => {
                let cause = format!("not all --aux-address are reserved: {}", refusal.cause);
                let why = Failure { cause, ..refusal };
                lacks.push(why.about(format!("network {}", listed.name)));
            }
            Ok(()) => {}
        }
        if let Some(network) = record.network.filter(|_| record.unnamed) {
            let unnamed = self.name_network(id, record, network, &listed.name, memory);
            lacks.extend(unnamed.await);
        }
        lacks
    }

    /// Renames the network once the name is free: a network that the engine has removed may still
    /// have it. Returns why it cannot have it now.
    async fn name_network(
        &self,
        id: &str,
        record: &NetworkRecord,
        network: NetworkId,
        name: &str,
        memory: &mut Memory,
    ) -> Option<Failure> {
        let Ok(networks) = self.ask(Question::networks()).await else {
            return memory.nameless.get(id).cloned();
        };
        let generated = networks.iter().find(|known| known.id == network);
        let generated = generated.map_or("its generated name", |known| &known.spec.name);
        let is_taken =
            |other: &NetworkInfo| other.spec.name.eq_ignore_ascii_case(name) && other.id != network;
        if networks.iter().any(is_taken) {
            let cause = format!(
                "the engine's network {name:?} is called {generated:?} in the cluster, which has \
                 another network of that name"
            );
            let next = "remove the other one, or make this one again with another name, or with \
                        -o netd.network=NAME to be the same network";
            let why = Failure::new(Kind::Conflict, cause, next).about(format!("network {name}"));
            return Some(cannot_be_named(id, why, memory));
        }
        // What the cluster has refused it refuses again.
        let refused = memory.nameless.get(id);
        if let Some(known) = refused.filter(|known| known.kind != Kind::Conflict) {
            return Some(known.clone());
        }
        let command = Command::Network(NetworkCommand::Name {
            network: network.to_string(),
            name: name.to_owned(),
        });
        match self.propose(command).await {
            Err(refusal) if refusal.kind == Kind::Unavailable => return None,
            Err(refusal) => {
                let cause = format!(
                    "the engine's network {name:?} is called {generated:?} in the cluster: {}",
                    refusal.cause
                );
                let why = Failure { cause, ..refusal }.about(format!("network {name}"));
                return Some(cannot_be_named(id, why, memory));
            }
            Ok(_) => {}
        }
        memory.nameless.remove(id);
        let named = NetworkRecord {
            unnamed: false,
            ..record.clone()
        };
        self.journal
            .networks
            .put(id, &named)
            .unwrap_or_else(|error| {
                tracing::warn!(%error,
                "cannot write the name of a network to its record")
            });
        None
    }

    /// Updates the cluster's traits of a container. Returns why the cluster does not take them.
    async fn compare(
        &self,
        key: &str,
        mut traits: ContainerTraits,
        attached: Option<&[Container]>,
        memory: &mut Memory,
    ) -> Option<Failure> {
        let attached = attached?;
        let known = attached.iter().find(|container| container.key.id == key);
        let _turn = self.turn(key).await;
        let held = self.journal.holds.get(key);
        let hold = held.filter(|hold| hold.sandbox.is_some() && hold.pending.is_none())?;
        traits.publish.clone_from(&hold.traits.publish);
        if known.is_some_and(|known| known.traits == traits && known.sandbox.is_some()) {
            return None;
        }
        let told = memory.told.get(key).filter(|(told, _)| *told == traits);
        if let Some((_, why)) = told.filter(|_| known.is_some()) {
            return why.clone();
        }
        let why = match self.describe(key, &hold, &traits).await {
            Err(refusal) if refusal.kind == Kind::Unavailable => return None,
            Err(refusal) => {
                tracing::warn!(container = traits.name, %refusal, next = refusal.next,
                    "the cluster does not take all that is known of a container");
                Some(self.describe_less(key, &hold, &traits, refusal).await)
            }
            Ok(()) => None,
        };
        memory.told.insert(key.to_owned(), (traits, why.clone()));
        why
    }

    /// Tells the cluster what is known of a container. What it refuses is not kept.
    async fn describe(
        &self,
        key: &str,
        hold: &Hold,
        traits: &ContainerTraits,
    ) -> Result<(), Refusal> {
        let told = Hold {
            traits: traits.clone(),
            ..hold.clone()
        };
        self.keep(self.journal.holds.put(key, &told))?;
        match self.attach(key, &told).await {
            Err(refusal) if refusal.kind != Kind::Unavailable => {
                self.keep(self.journal.holds.put(key, hold))?;
                Err(refusal)
            }
            told => told.map(drop),
        }
    }

    /// The same without what the user asked for beside the container's name: that goes on, whatever
    /// is wrong with the rest.
    async fn describe_less(
        &self,
        key: &str,
        hold: &Hold,
        traits: &ContainerTraits,
        refusal: Refusal,
    ) -> Failure {
        let less = ContainerTraits {
            aliases: BTreeSet::new(),
            service: None,
            ports: Vec::new(),
            ..traits.clone()
        };
        let what = match self.describe(key, hold, &less).await {
            Ok(()) => "its aliases, service and named ports are not known to the cluster",
            Err(_) => "its name is not known to the cluster",
        };
        let cause = format!("{what}: {}", refusal.cause);
        Failure { cause, ..refusal }.about(format!("container {}", traits.name))
    }

    /// Releases an endpoint that no container of the engine has.
    async fn reclaim(&self, key: &str, hold: &Hold, memory: &mut Memory) {
        if !memory.has_missed(key, MISSED) || !self.is_old(hold.since) {
            return;
        }
        let turn = self.turn(key).await;
        if self.journal.holds.get(key).as_ref() != Some(hold) {
            return;
        }
        tracing::info!(key, addresses = ?hold.addresses,
            "no container has this endpoint: releasing its addresses");
        let given_up = Hold {
            pending: Some(Pending::Detach),
            ..hold.clone()
        };
        if self.journal.holds.put(key, &given_up).is_ok() {
            drop(turn);
            memory.missing.remove(key);
            self.wake.notify_one();
        }
    }

    /// Releases endpoints that the cluster has and this host has no record of.
    async fn give_up_strays(
        &self,
        attached: Vec<Container>,
        places: &BTreeMap<&str, (&Listed, &Endpoint)>,
        memory: &mut Memory,
    ) {
        let networks = self.journal.networks.all();
        let aux: Vec<String> = networks
            .values()
            .flat_map(|record| record.aux.iter().map(|&address| aux_key(record, address)))
            .collect();
        for container in attached {
            let key = container.key.id.clone();
            let is_ours = self.journal.holds.get(&key).is_some() || aux.contains(&key);
            let has_it = |(_, endpoint): &(&Listed, &Endpoint)| {
                endpoint.mac_address == container.mac.to_string()
            };
            if is_ours
                || places.values().any(has_it)
                || !memory.has_missed(&key, Duration::from_millis(AGE))
            {
                continue;
            }
            tracing::info!(key, addresses = ?container.addresses,
                "the cluster has an endpoint that this host has no record of: releasing it");
            let _turn = self.turn(&key).await;
            let given_up = match self.journal.holds.get(&key) {
                Some(_) => Ok(()),
                None => self
                    .propose(Command::Container(ContainerCommand::Detach {
                        keys: vec![container.key],
                    }))
                    .await
                    .map(drop),
            };
            match given_up {
                Ok(()) => memory.missing.retain(|missing, _| *missing != key),
                Err(refusal) => tracing::debug!(%refusal, "the release will be retried later"),
            }
        }
    }
}

/// The engine runs, and what it has cannot be read.
fn unread(error: &io::Error) -> Failure {
    let cause = format!(
        "its containers and networks cannot be read, so that nothing new of them is known: {error}"
    );
    let next = "see whether `docker ps` answers; `journalctl -u docker` may say more";
    Failure::new(Kind::Unavailable, cause, next).about("the engine")
}

/// A container's names beside its own cannot be read.
fn uninspected(container: &Listed, error: &io::Error) -> Failure {
    let name = name_of(container);
    let cause = format!("the engine does not tell its aliases: {error}");
    let next = format!("see whether `docker inspect {name}` answers");
    Failure::new(Kind::Unavailable, cause, next).about(format!("container {name}"))
}

/// Remembers that a network cannot have its name, and logs it once.
fn cannot_be_named(id: &str, why: Failure, memory: &mut Memory) -> Failure {
    if memory.nameless.insert(id.to_owned(), why.clone()).as_ref() != Some(&why) {
        tracing::warn!(%why, next = why.next, "a network keeps its generated name");
    }
    why
}

/// Aliases of an endpoint. Only `inspect` of its container shows them; they do not change.
async fn aliases(
    container: &Listed,
    endpoint: &Endpoint,
    memory: &mut Memory,
) -> io::Result<Vec<String>> {
    if let Some(known) = memory.aliases.get(&endpoint.id) {
        return Ok(known.clone());
    }
    let inspected = engine::inspect(&container.id).await?;
    for endpoint in inspected.network_settings.endpoints() {
        memory.aliases.insert(
            endpoint.id.clone(),
            endpoint.aliases.clone().unwrap_or_default(),
        );
    }
    let known = memory.aliases.get(&endpoint.id).cloned();
    known.ok_or_else(|| io::Error::other("it is on another network now"))
}

/// Without the slash before it; those with another one are of links.
fn name_of(container: &Listed) -> &str {
    let mut names = container.names.iter().flatten();
    let name = names.find_map(|name| name.strip_prefix('/').filter(|name| !name.contains('/')));
    name.unwrap_or_default()
}

/// Leaves out the aliases that are more than a container may have: its name and the others go on.
fn only_as_many_aliases(traits: &mut ContainerTraits) -> Option<Failure> {
    let asked = traits.aliases.len();
    let kept = ContainerTraits::MAX_ALIASES;
    let first = traits.aliases.iter().nth(kept)?.clone();
    let _left_out = traits.aliases.split_off(&first);
    let cause = format!(
        "it has {asked} aliases on one network, and the cluster takes {kept}: {first:?} and those \
         after it do not resolve"
    );
    let next = "start it with fewer --network-alias";
    let why = Failure::new(Kind::Exhausted, cause, next);
    Some(why.about(format!("container {}", traits.name)))
}

/// Traits of a container, and its labels of ours that make no sense. `elsewhere` are networks
/// outside the cluster that have a way out.
fn traits(
    container: &Listed,
    aliases: Vec<String>,
    elsewhere: &BTreeSet<&str>,
) -> (ContainerTraits, Vec<Failure>) {
    let is_well = !["(unhealthy)", "(health: starting)"]
        .iter()
        .any(|bad| container.status.contains(bad));
    let mut traits = ContainerTraits {
        container: container.id.clone(),
        name: name_of(container).to_owned(),
        // The engine adds the short id as alias, which the cluster does by itself.
        aliases: aliases
            .into_iter()
            .filter(|alias| !container.id.starts_with(alias.as_str()))
            .collect(),
        unready: container.state != "running" || !is_well,
        leaves_elsewhere: container
            .network_settings
            .endpoints()
            .any(|endpoint| elsewhere.contains(endpoint.network.as_str())),
        ..ContainerTraits::default()
    };
    let label = |key: &str| container.labels.as_ref().and_then(|labels| labels.get(key));
    let mut wrong = Vec::new();
    for (key, value) in CONTAINER_LABELS
        .into_iter()
        .filter_map(|key| Some((key, label(key)?)))
    {
        // The container runs already: an invalid label can only be told of.
        if let Err(error) = traits.take_label(key, value) {
            let why = Failure::from(error).about(format!("container {}", traits.name));
            wrong.push(why);
        }
    }
    (traits, wrong)
}

#[cfg(test)]
mod tests {
    use model::{NamedPort, Protocol};

    use super::*;

    fn listed(status: &str) -> Listed {
        let text = format!(
            r#"{{"Id":"0123456789abcdef","Names":["/other/link","/db"],
            "Labels":{{"netd.service":"web","netd.port":"80"}},
            "State":"running","Status":"{status}",
            "NetworkSettings":{{"Networks":{{"my-net":{{"EndpointID":"e1",
            "MacAddress":"02:42:ac:11:00:02"}},"none":{{"EndpointID":"","NetworkID":"n0"}},
            "null":null,
            "bridge":{{"EndpointID":"e2","NetworkID":"n2"}}}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_container_is_ready_when_it_runs_and_is_not_unhealthy() {
        let traits = |container: &Listed| traits(container, Vec::new(), &BTreeSet::new()).0;
        let unready = |status: &str| traits(&listed(status)).unready;
        assert!(!unready("Up 3 minutes") && !unready("Up 3 minutes (healthy)"));
        assert!(unready("Up 3 seconds (health: starting)") && unready("Up 3 minutes (unhealthy)"));
        assert!(
            traits(&Listed {
                state: "paused".to_owned(),
                ..listed("Up (Paused)")
            })
            .unready
        );
    }

    #[test]
    fn labels_that_make_no_sense_are_told_with_the_container() {
        let mut container = listed("Up");
        if let Some(labels) = &mut container.labels {
            labels.insert("netd.port".to_owned(), "http=0".to_owned());
        }
        let (_, wrong) = traits(&container, Vec::new(), &BTreeSet::new());
        assert_eq!((wrong.len(), wrong[0].object.as_str()), (1, "container db"));
        assert!(wrong[0].cause.contains("netd.port"), "{wrong:?}");
    }

    #[test]
    fn aliases_that_are_too_many_are_left_out_and_named() {
        let (mut known, _) = traits(
            &listed("Up"),
            (1..=70).map(|number| format!("alias-{number}")).collect(),
            &BTreeSet::new(),
        );
        let why = only_as_many_aliases(&mut known).unwrap();
        assert_eq!(
            (why.object.as_str(), known.aliases.len()),
            ("container db", 64)
        );
        assert!(why.cause.contains("70 aliases"), "{why}");
        assert_eq!(only_as_many_aliases(&mut known), None);
    }

    #[test]
    fn a_container_has_its_name_its_aliases_and_its_service() {
        let (known, wrong) = traits(
            &listed("Up"),
            vec!["0123456789ab".to_owned(), "database".to_owned()],
            &BTreeSet::new(),
        );
        assert_eq!(wrong, []);
        assert_eq!(
            (known.name.as_str(), known.service.as_deref()),
            ("db", Some("web"))
        );
        assert_eq!(known.aliases, ["database".to_owned()].into());
        assert_eq!(
            known.ports,
            [NamedPort {
                name: "web".to_owned(),
                protocol: Protocol::Tcp,
                port: 80
            }]
        );
        assert_eq!(listed("Up").network_settings.endpoints().count(), 2);
    }

    #[test]
    fn a_container_leaves_by_a_foreign_network_that_leads_out() {
        let leaves = |elsewhere: &[&str]| {
            traits(
                &listed("Up"),
                Vec::new(),
                &elsewhere.iter().copied().collect(),
            )
            .0
            .leaves_elsewhere
        };
        assert!(leaves(&["n1", "n2"]) && !leaves(&["n0", "n1"]) && !leaves(&[]));
        let leads = |driver: &str, internal: bool| {
            let text =
                format!(r#"{{"Id":"n","Name":"n","Driver":"{driver}","Internal":{internal}}}"#);
            serde_json::from_str::<engine::Network>(&text)
                .unwrap()
                .leads_out()
        };
        assert!(leads("bridge", false) && !leads("bridge", true) && !leads("null", false));
    }
}
