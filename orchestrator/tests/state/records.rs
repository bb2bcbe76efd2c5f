//! Logs and snapshots of every level are read, and replay to the state that the version of their
//! time came to.
//!
//! `tests/records/LEVEL/NN.log` holds one entry of the log a line, `digests` the SHA-256 of the
//! snapshot after each, `views` that of all views on the way, `snapshot.json` one snapshot, and
//! `changes` what was told of each kind of object, as the history keeps it.
//! Those of a level never change once it has been released. Those of the newest level are made,
//! from the logs of the first, by `WRITE_RECORDS=1 cargo nextest run -p orchestrator records`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use model::*;
use orchestrator::State;
use sha2::{Digest, Sha256};

/// How many commands of a log share an entry in the records that are made here.
const BATCH: usize = 5;

fn records(level: Level) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/records")
        .join(level.to_string())
}

fn levels() -> impl Iterator<Item = Level> {
    (0..=Level::NEWEST.0).map(Level)
}

/// The logs of a level by file name.
fn logs(level: Level) -> BTreeMap<String, Vec<Batch>> {
    let files = fs::read_dir(records(level)).unwrap().map(Result::unwrap);
    let mut logs = BTreeMap::new();
    for path in files.map(|file| file.path()) {
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let read = |line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"))
            };
            let batches = text.lines().map(read).collect();
            logs.insert(name, batches);
        }
    }
    logs
}

fn replay(log: &[Batch]) -> State {
    let mut state = State::default();
    for (index, batch) in (1..).zip(log) {
        for entry in &batch.entries {
            let _refused_or_not = state.apply(index, entry.clone());
        }
    }
    state
}

fn digest(state: &State) -> String {
    let digest = Sha256::digest(state.snapshot());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A log of the first level as it is in a cluster that goes up to `level` after its first entry.
fn raised(log: &[Batch], level: Level) -> Vec<Batch> {
    let mut entries = log.iter().flat_map(|batch| batch.entries.clone());
    let first = entries.next().unwrap();
    let now = first.now;
    let raise = |level: Level| Batch {
        level,
        entries: vec![Entry {
            request: RequestId(u64::MAX - u64::from(level.0)),
            now,
            chance: None,
            command: ClusterCommand::RaiseLevel { level }.into(),
        }],
    };
    let start = Batch {
        level: Level::FIRST,
        entries: vec![first],
    };
    let raises = (1..=level.0).map(|level| raise(Level(level)));
    let mut log: Vec<Batch> = [start].into_iter().chain(raises).collect();
    let mut rest: Vec<Entry> = entries.map(|entry| of_level(entry, level)).collect();
    if level >= Level::REACH {
        let made = rest.iter().find_map(opened);
        rest.extend(made);
    }
    if level >= Level::KEYS {
        rest.extend(keyed(&log[0].entries[0]));
    }
    log.extend(rest.chunks(BATCH).map(|entries| Batch {
        level,
        entries: entries.to_vec(),
    }));
    log
}

/// An entry of the first level with what commands of `level` carry beside.
fn of_level(mut entry: Entry, level: Level) -> Entry {
    if level >= Level::COMPOUNDS {
        compound(&mut entry.command);
    }
    if level >= Level::KEYS {
        key(&mut entry);
    }
    let Command::Node(NodeCommand::Report(report)) = &mut entry.command else {
        return entry;
    };
    if level < Level::TYPED_FAILURES {
        return entry;
    }
    if report.applied % 2 == 1 {
        let refused = Failure::new(
            Kind::Unavailable,
            "cannot add it: EPERM",
            "run netd as root",
        );
        report.causes = vec![refused.about("link nv-1").with_errno(Some(1))];
    }
    for word in &mut report.tasks {
        if word.state > TaskState::Running {
            word.why = Some(Failure::new(Kind::Unavailable, "exit code 1", ""));
        }
    }
    if level >= Level::DISTINCTIONS {
        report.hostname = Some(format!("host-{}", report.node));
        if report.applied % 3 == 1 {
            report.behind = BTreeMap::from([(NetworkId(report.applied), report.applied / 2)]);
        }
    }
    entry
}

/// Opens the network that an entry makes.
fn opened(made: &Entry) -> Option<Entry> {
    let Command::Network(NetworkCommand::Create { spec }) = &made.command else {
        return None;
    };
    Some(Entry {
        request: RequestId(made.request.0 ^ (u64::MAX / 2)),
        command: Command::Network(NetworkCommand::Reach {
            network: spec.name.clone(),
            hosts: Some(true),
            expose: vec!["198.51.100.0/24".parse().unwrap()],
            conceal: vec!["203.0.113.0/24".parse().unwrap()],
        }),
        ..made.clone()
    })
}

/// What the commands of an entry have from the level of keys on.
fn key(entry: &mut Entry) {
    match &mut entry.command {
        Command::Node(NodeCommand::Admit { node }) => node.key = Some(key_of(node.id)),
        Command::Node(NodeCommand::Remove { .. }) => {
            entry.chance = Some(EpochKey::new([entry.request.0 as u8; 32]));
        }
        _ => {}
    }
}

fn key_of(node: NodeId) -> KeyDigest {
    KeyDigest(Sha256::digest(node.0.to_be_bytes()).into())
}

/// The first node shows its key; a second manager comes and is removed.
fn keyed(bootstrap: &Entry) -> Vec<Entry> {
    let Command::Cluster(ClusterCommand::Bootstrap { node, .. }) = &bootstrap.command else {
        return Vec::new();
    };
    let second = Node {
        id: NodeId(200),
        hostname: "h200".to_owned(),
        address: "192.168.7.200:2377".parse().unwrap(),
        vtep: "192.168.7.200".parse().unwrap(),
        ..node.clone()
    };
    let shown = NodeCommand::SetKey {
        node: node.id,
        key: key_of(node.id),
    };
    let removed = NodeCommand::Remove { node: second.id };
    let commands = [shown, NodeCommand::Admit { node: second }, removed];
    let numbered = (u64::MAX / 4..).zip(commands);
    let entry = |(request, command)| Entry {
        request: RequestId(request),
        command: Command::Node(command),
        ..bootstrap.clone()
    };
    let entries = numbered.map(entry);
    entries.map(|entry| of_level(entry, Level::KEYS)).collect()
}

/// Names of more than one label.
fn compound(command: &mut Command) {
    match command {
        Command::Service(ServiceCommand::Create { spec }) => {
            let aliases = [
                format!("{}.example.com", spec.name),
                "Any.example.com.".to_owned(),
            ];
            for attachment in &mut spec.networks {
                attachment.aliases.extend(aliases.clone());
            }
        }
        Command::Container(ContainerCommand::Attach { spec }) => {
            if let Some(traits) = &mut spec.traits {
                traits
                    .aliases
                    .insert(format!("{}.example.com", traits.name));
                traits.aliases.insert("any.example.com".to_owned());
                traits.aliases.insert("tasks.example.com".to_owned());
            }
        }
        _ => {}
    }
}

fn write(level: Level) {
    let place = records(level);
    fs::create_dir_all(&place).unwrap();
    let mut digests = String::new();
    let mut largest = Vec::new();
    for (name, log) in logs(Level::FIRST) {
        let log = raised(&log, level);
        let lines = log
            .iter()
            .map(|batch| serde_json::to_string(batch).unwrap() + "\n");
        fs::write(place.join(&name), lines.collect::<String>()).unwrap();
        let state = replay(&log);
        digests += &format!("{}  {name}\n", digest(&state));
        largest = largest.max(state.snapshot());
    }
    fs::write(place.join("digests"), digests).unwrap();
    fs::write(place.join("snapshot.json"), largest).unwrap();
    fs::write(place.join("views"), views(level)).unwrap();
    let changes = changes(level).into_values().map(|line| line + "\n");
    fs::write(place.join("changes"), changes.collect::<String>()).unwrap();
}

/// A change for each kind of object, what becomes of it, and the state that it is in.
fn changes(level: Level) -> BTreeMap<(ObjectKind, Fate, String), String> {
    let mut changes = BTreeMap::new();
    for log in logs(level).into_values() {
        let mut state = State::default();
        for (index, batch) in (1..).zip(log) {
            for entry in batch.entries {
                for change in state.apply(index, entry).changes {
                    let facts = serde_json::to_value(&change.facts).unwrap();
                    let kind = (
                        change.object.kind(),
                        change.fate,
                        facts["state"].to_string(),
                    );
                    let line = || serde_json::to_string(&change).unwrap();
                    changes.entry(kind).or_insert_with(line);
                }
            }
        }
    }
    changes
}

fn views(level: Level) -> String {
    let digested =
        |(name, log): (String, Vec<Batch>)| format!("{}  {name}\n", digest_of_views(&log));
    logs(level).into_iter().map(digested).collect()
}

#[test]
fn logs_of_every_level_replay_to_the_same_digest() {
    if std::env::var_os("WRITE_RECORDS").is_some() {
        write(Level::NEWEST);
    }
    for level in levels() {
        let digests = fs::read_to_string(records(level).join("digests")).unwrap();
        let logs = logs(level);
        assert_eq!(digests.lines().count(), logs.len());
        for line in digests.lines() {
            let (expected, name) = line.split_once("  ").unwrap();
            let state = replay(&logs[name]);
            assert_eq!(state.level(), level);
            assert_eq!(digest(&state), expected, "level {level}, {name}");
        }
    }
}

#[test]
fn logs_of_every_level_are_written_as_they_were() {
    for level in levels() {
        for (name, batches) in logs(level) {
            let text = fs::read_to_string(records(level).join(&name)).unwrap();
            for (line, batch) in text.lines().zip(batches) {
                assert_eq!(
                    serde_json::to_string(&batch).unwrap(),
                    line,
                    "{level}/{name}"
                );
            }
        }
    }
}

#[test]
fn snapshots_of_every_level_are_read_and_written_as_they_were() {
    for level in levels() {
        let bytes = fs::read(records(level).join("snapshot.json")).unwrap();
        let state = State::restore(&bytes, Level::NEWEST).unwrap();
        assert_eq!(state.level(), level);
        assert_eq!(state.snapshot(), bytes, "level {level}");
    }
}

#[test]
fn records_of_each_level_hold_every_command_of_their_time() {
    let kinds = |level| {
        let entries = logs(level).into_values().flatten();
        let commands = entries.flat_map(|batch| batch.entries);
        let kind = |entry: Entry| {
            let command = serde_json::to_value(&entry.command).unwrap();
            command["kind"].as_str().unwrap().to_owned()
        };
        commands
            .map(kind)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(kinds(Level::FIRST).len(), 31);
    let newest = kinds(Level::NEWEST);
    for kind in Command::kinds() {
        assert!(newest.contains(kind), "no record has the command {kind:?}");
    }
}

#[test]
fn a_snapshot_of_a_later_level_is_refused() {
    let bytes = level::seal(Level(9), b"what a later version writes".to_vec());
    let refused = State::restore(&bytes, Level(8)).unwrap_err();
    let text = "the snapshot is of level 9, and this netd knows levels up to 8";
    assert_eq!(refused.to_string(), text);
}

#[test]
fn levels_are_raised_one_at_a_time() {
    let mut cluster = crate::fixture::Cluster::of(1);
    for level in [Level::FIRST, Level::NEWEST, Level::NEWEST.next().next()] {
        let refusal = cluster.refuse(ClusterCommand::RaiseLevel { level }.into());
        assert_eq!(refusal.kind, Kind::Precondition);
    }
}

/// SHA-256 of every node's view after each entry of a log.
fn digest_of_views(log: &[Batch]) -> String {
    let (mut state, mut digest) = (State::default(), Sha256::new());
    for (index, batch) in (1..).zip(log) {
        for entry in &batch.entries {
            let _refused_or_not = state.apply(index, entry.clone());
        }
        for node in state.nodes().keys() {
            let view = state.view(*node).snapshot();
            digest.update(serde_json::to_vec(&view).unwrap());
        }
    }
    let digest = digest.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What hosts have on their disks.
#[test]
fn views_of_every_level_are_as_they_were() {
    for level in levels() {
        let expected = fs::read_to_string(records(level).join("views")).unwrap();
        assert_eq!(views(level), expected, "level {level}");
    }
}

#[test]
fn changes_of_every_level_are_read_and_written_as_they_were() {
    for level in levels().skip_while(|level| *level < Level::SHARED_VIEWS) {
        let text = fs::read_to_string(records(level).join("changes")).unwrap();
        for line in text.lines() {
            let change: Change = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&change).unwrap(), line);
        }
        let kinds = |(_, name): &(ObjectKind, &str)| text.contains(&format!("\"kind\":\"{name}\""));
        assert!(ObjectKind::ALL.iter().all(kinds), "level {level}");
    }
}

#[test]
fn reports_of_a_later_level_mean_nothing_before() {
    for level in [Level::SHARED_VIEWS, Level::TYPED_FAILURES] {
        let mut differ = 0;
        for log in logs(Level::FIRST).values() {
            let plain = raised(log, level);
            let mut later = plain.clone();
            for entry in later.iter_mut().flat_map(|batch| &mut batch.entries) {
                *entry = of_level(entry.clone(), level.next());
            }
            differ += usize::from(later != plain);
            assert_eq!(digest(&replay(&later)), digest(&replay(&plain)));
        }
        assert!(differ > 10, "only {differ} logs have reports");
    }
}

#[test]
fn failures_of_tasks_and_nodes_are_kept_with_their_next_step() {
    let logs = logs(Level::TYPED_FAILURES).into_values();
    let states: Vec<State> = logs.map(|log| replay(&log)).collect();
    let nodes = states.iter().flat_map(|state| state.nodes().values());
    let refused: Vec<Failure> = nodes.flat_map(Node::refused).collect();
    assert!(refused.iter().any(|why| why.next == "run netd as root"));
    let answer = |state: &State| state.answer(None, &Query::Tasks(None)).unwrap();
    let why = |state| match answer(state) {
        Answer::Tasks(tasks) => tasks
            .into_iter()
            .find_map(|task| Some((task.message, task.why?))),
        other => panic!("no tasks: {other:?}"),
    };
    let failed = |(message, why): &(String, Failure)| {
        message == "exit code 1" && why.cause == *message && why.object.starts_with("task ")
    };
    assert!(states.iter().filter_map(why).any(|told| failed(&told)));
}
