//! The views of many nodes at once: what several nodes see is projected and encoded once, and each
//! is told what has changed since it was told last.
//!
//! A view is made of sections that nodes share, and of what only this node sees. A record is in one
//! of them at most. Sections remember their last changes, not what each node has: memory is that of
//! one view, however many nodes there are.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write,
    sync::{Arc, OnceLock},
};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Concern, Level, NetworkId, NodeConfig, NodeId, ObjectRef, StateMachine, hex};

/// How many changes a section remembers. Who is further behind is sent the whole view.
const REMEMBERED: usize = 4_096;

/// What nodes may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionId {
    /// What every node sees.
    Everybody,
    /// What the nodes with part in this network see.
    Network(NetworkId),
}

/// One record of a view, encoded.
#[derive(Debug)]
pub struct Record {
    key: String,
    json: String,
    /// Of both.
    digest: u128,
}

impl Record {
    /// A record of this key, `section/id`.
    pub fn new(key: String, value: &Value) -> Arc<Self> {
        let json = value.to_string();
        let digest = digest_of(&key, &json);
        Arc::new(Self { key, json, digest })
    }

    /// The records of a configuration, by key.
    pub fn all_of(config: &NodeConfig) -> Vec<Arc<Self>> {
        let records = config.snapshot().set.into_iter();
        records.map(|(key, value)| Self::new(key, &value)).collect()
    }

    /// Section and id: `section/id`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it says the same.
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.digest == other.digest && self.key == other.key && self.json == other.json)
    }

    fn write(&self, out: &mut String) {
        write_key(&self.key, out);
        out.push(':');
        out.push_str(&self.json);
    }
}

fn write_key(key: &str, out: &mut String) {
    // Strings always have a JSON form.
    out.push_str(&serde_json::to_string(key).unwrap_or_default());
}

fn digest_of(key: &str, json: &str) -> u128 {
    let digest = Sha256::new()
        .chain_update(key)
        .chain_update([0])
        .chain_update(json)
        .finalize();
    let bytes = digest.iter().take(16);
    bytes.fold(0, |sum, &byte| sum << 8 | u128::from(byte))
}

impl NodeConfig {
    /// The digest of its records, whatever its generation. Who has a view with the same digest
    /// needs nothing. From [`Level::SHARED_VIEWS`] on it is a sum over records, so that it follows
    /// from those of a view's sections.
    pub fn digest(&self) -> String {
        let records = self.snapshot().set;
        if self.level < Level::SHARED_VIEWS {
            let text = serde_json::to_vec(&records).unwrap_or_default();
            return of_text(Sha256::digest(text).as_slice());
        }
        let digests = records
            .iter()
            .map(|(key, value)| digest_of(key, &value.to_string()));
        of_sum(digests.fold(0, u128::wrapping_add))
    }
}

fn of_sum(sum: u128) -> String {
    format!("{sum:032x}")
}

fn of_text(digest: &[u8]) -> String {
    hex::encode(digest)
}

/// A change of one record.
#[derive(Debug)]
enum Edit {
    /// It is new or differs.
    Set(Arc<Record>),
    /// The one of this key is gone.
    Removed(String),
}

/// Records that several nodes see.
#[derive(Debug, Default)]
struct Section {
    records: BTreeMap<String, Arc<Record>>,
    /// The sum of the records' digests.
    digest: u128,
    /// The generation of its last change.
    changed: u64,
    /// The last changes, by generation.
    log: VecDeque<(u64, Edit)>,
    /// Changes up to this generation are not in the log.
    forgotten: u64,
    /// All records, encoded; made when somebody needs it.
    whole: OnceLock<Arc<str>>,
    /// Nodes that are followed and see it.
    nodes: BTreeSet<NodeId>,
}

impl Section {
    fn new(generation: u64) -> Self {
        Self {
            changed: generation,
            forgotten: generation,
            ..Self::default()
        }
    }

    fn put(&mut self, generation: u64, record: Arc<Record>) {
        let old = self.records.insert(record.key.clone(), record.clone());
        let old = old.map_or(0, |old| old.digest);
        self.digest = self.digest.wrapping_sub(old).wrapping_add(record.digest);
        self.note(generation, Edit::Set(record));
    }

    fn remove(&mut self, generation: u64, key: &str) {
        if let Some(old) = self.records.remove(key) {
            self.digest = self.digest.wrapping_sub(old.digest);
            self.note(generation, Edit::Removed(old.key.clone()));
        }
    }

    fn note(&mut self, generation: u64, change: Edit) {
        self.changed = generation;
        self.whole = OnceLock::new();
        self.log.push_back((generation, change));
        if self.log.len() > REMEMBERED
            && let Some((oldest, _)) = self.log.pop_front()
        {
            self.forgotten = oldest;
        }
    }

    /// What has changed after this generation, newest first; `None` if it is not remembered.
    fn since(&self, seen: u64) -> Option<impl Iterator<Item = &Edit>> {
        let newest_first = self.log.iter().rev();
        let later = newest_first.take_while(move |(generation, _)| *generation > seen);
        (seen >= self.forgotten).then(|| later.map(|(_, change)| change))
    }

    fn whole(&self) -> Arc<str> {
        let write = || {
            let mut text = String::new();
            write_all(self.records.values(), &mut text);
            text.into()
        };
        self.whole.get_or_init(write).clone()
    }
}

/// Writes records as the inside of a JSON object.
fn write_all<'a>(records: impl IntoIterator<Item = &'a Arc<Record>>, out: &mut String) {
    for (place, record) in records.into_iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        record.write(out);
    }
}

/// What one node sees beside its sections.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The sections that it sees.
    pub sections: BTreeSet<SectionId>,
    /// Its own records, by key.
    pub records: Vec<Arc<Record>>,
    /// The records of the nodes that it knows. Nodes share them.
    pub peers: Vec<(NodeId, Arc<Record>)>,
}

impl Own {
    fn all(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records
            .iter()
            .chain(self.peers.iter().map(|(_, record)| record))
    }
}

/// What one node was told last.
#[derive(Clone, Debug)]
pub struct Told {
    generation: u64,
    level: Level,
    sections: BTreeMap<SectionId, u64>,
    own: Arc<Own>,
}

/// A change of one node's view, ready to be written.
#[derive(Debug)]
pub struct Update {
    node: NodeId,
    from: Option<u64>,
    to: u64,
    level: Level,
    set: Vec<Piece>,
    remove: Vec<String>,
}

#[derive(Debug)]
enum Piece {
    One(Arc<Record>),
    /// A section's.
    Many(Arc<str>),
}

impl Update {
    /// Whether it is a whole view.
    pub fn is_whole(&self) -> bool {
        self.from.is_none()
    }

    /// About how many bytes of JSON it has.
    pub fn bytes(&self) -> usize {
        let pieces = self.set.iter().map(|piece| match piece {
            Piece::One(record) => record.key.len() + record.json.len() + 4,
            Piece::Many(records) => records.len() + 1,
        });
        let removed = self.remove.iter().map(|key| key.len() + 3);
        pieces.chain(removed).sum::<usize>() + 128
    }

    /// JSON of the [`crate::ViewDelta`].
    pub fn to_json(&self) -> String {
        let mut text = String::with_capacity(self.bytes());
        self.write_json(&mut text);
        text
    }

    /// Writes that JSON.
    pub fn write_json(&self, text: &mut String) {
        #[derive(Serialize)]
        struct Head {
            from: Option<u64>,
            to: u64,
            #[serde(skip_serializing_if = "Level::is_first")]
            level: Level,
            node: NodeId,
        }
        let Self {
            node,
            from,
            to,
            level,
            ..
        } = *self;
        let head = Head {
            from,
            to,
            level,
            node,
        };
        // Plain data always has a JSON form.
        text.push_str(&serde_json::to_string(&head).unwrap_or_default());
        text.pop();
        text.push_str(",\"set\":{");
        let mut is_first = true;
        for piece in &self.set {
            if matches!(piece, Piece::Many(many) if many.is_empty()) {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                text.push(',');
            }
            match piece {
                Piece::One(record) => record.write(text),
                Piece::Many(records) => text.push_str(records),
            }
        }
        text.push_str("},\"remove\":");
        let remove = serde_json::to_string(&self.remove).unwrap_or_default();
        // Writing to a string cannot fail.
        let _written = write!(text, "{remove}}}");
    }

    /// The generation that it leads to.
    pub fn generation(&self) -> u64 {
        self.to
    }
}

/// The views of all nodes that are followed, as of one generation.
#[derive(Debug, Default)]
pub struct Views {
    generation: u64,
    level: Level,
    sections: BTreeMap<SectionId, Section>,
    /// Nodes that are followed. `None`: what it sees is yet to be projected.
    nodes: BTreeMap<NodeId, Option<Arc<Own>>>,
    /// Nodes whose own part is to be projected.
    due: BTreeSet<NodeId>,
    /// Nodes that may have something to be told.
    woken: BTreeSet<NodeId>,
}

impl Views {
    /// Follows a node from now on.
    pub fn follow(&mut self, node: NodeId) {
        self.nodes.entry(node).or_default();
        self.due.insert(node);
    }

    /// Does not follow it any more.
    pub fn leave(&mut self, node: NodeId) {
        if let Some(Some(own)) = self.nodes.remove(&node) {
            self.unsubscribe(node, &own.sections);
        }
        self.due.remove(&node);
        self.woken.remove(&node);
    }

    /// The nodes that are followed.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }

    /// Their shape.
    pub fn level(&self) -> Level {
        self.level
    }

    /// All that is put from now on is of this generation. Another level begins with nothing.
    pub fn begin(&mut self, generation: u64, level: Level) {
        if level != self.level {
            self.sections.clear();
            self.nodes.values_mut().for_each(|own| *own = None);
            self.due.extend(self.nodes.keys());
        }
        (self.generation, self.level) = (generation, level);
    }

    /// Puts a record into a section.
    pub fn put(&mut self, section: SectionId, record: Arc<Record>) {
        let generation = self.generation;
        let new = || Section::new(generation);
        let found = self.sections.entry(section).or_insert_with(new);
        found.put(generation, record);
        self.woken.extend(&found.nodes);
    }

    /// Removes a record from a section.
    pub fn remove(&mut self, section: SectionId, key: &str) {
        if let Some(found) = self.sections.get_mut(&section) {
            found.remove(self.generation, key);
            self.woken.extend(&found.nodes);
        }
    }

    /// The node's own part is to be projected anew.
    pub fn renew(&mut self, node: NodeId) {
        if self.nodes.contains_key(&node) {
            self.due.insert(node);
        }
    }

    /// The same for all that see a section.
    pub fn renew_all(&mut self, section: SectionId) {
        match self.sections.get(&section) {
            _ if section == SectionId::Everybody => self.due.extend(self.nodes.keys()),
            Some(found) => self.due.extend(&found.nodes),
            None => {}
        }
    }

    /// The next node whose own part is to be projected.
    pub fn next_due(&mut self) -> Option<NodeId> {
        self.due.pop_first()
    }

    /// What a node sees beside its sections.
    pub fn set_own(&mut self, node: NodeId, own: Own) {
        let Some(known) = self.nodes.get_mut(&node) else {
            return;
        };
        let generation = self.generation;
        for section in &own.sections {
            let new = || Section::new(generation);
            let found = self.sections.entry(*section).or_insert_with(new);
            found.nodes.insert(node);
        }
        let old = known.as_ref().map(|old| old.sections.clone());
        let left = &old.unwrap_or_default() - &own.sections;
        *known = Some(Arc::new(own));
        self.woken.insert(node);
        self.unsubscribe(node, &left);
    }

    fn unsubscribe(&mut self, node: NodeId, sections: &BTreeSet<SectionId>) {
        for id in sections {
            if let Some(section) = self.sections.get_mut(id) {
                section.nodes.remove(&node);
                if section.nodes.is_empty() && section.records.is_empty() {
                    self.sections.remove(id);
                }
            }
        }
    }

    /// Nodes that may have something to be told since this was asked last. Those whose own part is
    /// yet to be projected are told afterwards.
    pub fn take_woken(&mut self) -> BTreeSet<NodeId> {
        let later: BTreeSet<NodeId> = self.woken.intersection(&self.due).copied().collect();
        let now = &self.woken - &later;
        self.woken = later;
        now
    }

    /// The generation of the views.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn own(&self, node: NodeId) -> Option<&Arc<Own>> {
        let own = self.nodes.get(&node)?.as_ref();
        own.filter(|_| !self.due.contains(&node))
    }

    /// The digest of a node's view, as [`NodeConfig::digest`]. `None`: it is yet to be projected.
    pub fn digest(&self, node: NodeId) -> Option<String> {
        let own = self.own(node)?;
        if self.level < Level::SHARED_VIEWS {
            let mut text = "{".to_owned();
            write_all(&own.records, &mut text);
            text.push('}');
            return Some(of_text(Sha256::digest(text).as_slice()));
        }
        let of_sections = own.sections.iter().filter_map(|id| self.sections.get(id));
        let digests = of_sections.map(|section| section.digest);
        let digests = digests.chain(own.all().map(|record| record.digest));
        Some(of_sum(digests.fold(0, u128::wrapping_add)))
    }

    /// What a node counts as told that has the present view already.
    pub fn told(&self, node: NodeId) -> Option<Told> {
        let own = self.own(node)?.clone();
        let sections = own.sections.iter().map(|id| {
            let changed = self.sections.get(id).map_or(0, |section| section.changed);
            (*id, changed)
        });
        Some(Told {
            generation: self.generation,
            level: self.level,
            sections: sections.collect(),
            own,
        })
    }

    /// The change to nothing of a node that has the present view, of another generation.
    pub fn nothing_new(&self, node: NodeId, from: u64) -> Update {
        self.update_of(node, Some(from))
    }

    /// What leads a node to the present view, and what it has been told then. `None`: there is
    /// nothing new, or it is yet to be projected.
    pub fn update(&self, node: NodeId, told: Option<&Told>) -> Option<(Update, Told)> {
        let next = self.told(node)?;
        let Some(told) = told.filter(|told| told.level == self.level) else {
            return Some((self.snapshot(node, &next), next));
        };
        let Some(changes) = self.changes(told, &next) else {
            return Some((self.snapshot(node, &next), next));
        };
        if changes.is_empty() {
            return None;
        }
        let mut update = self.update_of(node, Some(told.generation));
        for (key, record) in changes {
            match record {
                Some(record) => update.set.push(Piece::One(record.clone())),
                None => update.remove.push(key.to_owned()),
            }
        }
        Some((update, next))
    }

    fn update_of(&self, node: NodeId, from: Option<u64>) -> Update {
        Update {
            node,
            from,
            to: self.generation,
            level: self.level,
            set: Vec::new(),
            remove: Vec::new(),
        }
    }

    fn snapshot(&self, node: NodeId, next: &Told) -> Update {
        let mut update = self.update_of(node, None);
        let sections = next.sections.keys().filter_map(|id| self.sections.get(id));
        update
            .set
            .extend(sections.map(|section| Piece::Many(section.whole())));
        update.set.extend(next.own.all().cloned().map(Piece::One));
        update
    }

    /// New records, and keys of those that are gone; `None` if they are not all remembered.
    fn changes<'a>(
        &'a self,
        told: &'a Told,
        next: &'a Told,
    ) -> Option<BTreeMap<&'a str, Option<&'a Arc<Record>>>> {
        let mut changes: BTreeMap<&str, Option<&Arc<Record>>> = BTreeMap::new();
        // A record may have gone from one place to another: there it is, then.
        for (id, seen) in &told.sections {
            let section = self.sections.get(id)?;
            let leaves = !next.sections.contains_key(id);
            if leaves {
                changes.extend(section.records.keys().map(|key| (&key[..], None)));
            }
            let since = section.since(*seen)?;
            let gone = since.filter_map(|change| match change {
                Edit::Set(record) => leaves.then_some(&record.key),
                Edit::Removed(key) => Some(key),
            });
            changes.extend(gone.map(|key| (&key[..], None)));
        }
        for_gone(&told.own, &next.own, |record| {
            changes.insert(&record.key, None);
        });
        for id in next.sections.keys() {
            let Some(section) = self.sections.get(id) else {
                continue;
            };
            match told.sections.get(id) {
                None => changes.extend(section.records.values().map(|it| (&it.key[..], Some(it)))),
                Some(seen) => {
                    for edit in section.since(*seen)? {
                        let Edit::Set(change) = edit else { continue };
                        // What has changed again or is gone is not there as it was.
                        if let Some(record) = section.records.get(&change.key) {
                            changes.insert(&record.key, Some(record));
                        }
                    }
                }
            }
        }
        // The present own part leads from the one before: what is not in that is new.
        for_gone(&next.own, &told.own, |record| {
            changes.insert(&record.key, Some(record));
        });
        Some(changes)
    }
}

/// What is in `old` and not, or not so, in `new`.
fn for_gone<'a>(old: &'a Own, new: &'a Own, mut found: impl FnMut(&'a Arc<Record>)) {
    if std::ptr::eq(old, new) {
        return;
    }
    let mut later = new.records.iter().peekable();
    for record in &old.records {
        while later.next_if(|other| other.key < record.key).is_some() {}
        let same = later.next_if(|other| other.key == record.key);
        if !same.is_some_and(|same| same.is(record)) {
            found(record);
        }
    }
    let mut later = new.peers.iter().peekable();
    for (node, record) in &old.peers {
        while later.next_if(|(other, _)| other < node).is_some() {}
        let same = later.next_if(|(other, _)| other == node);
        if !same.is_some_and(|(_, same)| same.is(record)) {
            found(record);
        }
    }
}

/// What entries of the log changed, together.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Kind and id of each object that differs.
    pub objects: BTreeSet<ObjectRef>,
    /// Whose view shows it.
    pub concern: Concern,
}

impl Touched {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.concern.is_nobodys()
    }
}

/// Keeps views as the state changes.
pub trait Projector<S>: Send {
    /// Brings all sections up to the state, and has the own parts renewed that differ. `None`:
    /// anything may have changed.
    fn follow(&mut self, state: &S, touched: Option<&Touched>, views: &mut Views);

    /// A node's own part of the same state.
    fn own(&mut self, state: &S, node: NodeId) -> Own;
}

/// Views that share nothing: each is projected whole, for each node that a change concerns.
#[derive(Debug, Default)]
pub struct WholeViews;

impl<S: StateMachine> Projector<S> for WholeViews {
    fn follow(&mut self, state: &S, touched: Option<&Touched>, views: &mut Views) {
        views.begin(state.revision(), state.level());
        let is_concerned =
            |node: &NodeId| touched.is_none_or(|touched| state.concerns(*node, &touched.concern));
        let concerned: Vec<NodeId> = views.nodes().filter(is_concerned).collect();
        concerned.into_iter().for_each(|node| views.renew(node));
    }

    fn own(&mut self, state: &S, node: NodeId) -> Own {
        Own {
            records: Record::all_of(&state.view(node)),
            ..Own::default()
        }
    }
}
