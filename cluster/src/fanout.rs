//! The views of all nodes that have a session with this leader, kept as the state changes. One task
//! follows the state and wakes the sessions that a change concerns; no other session does anything.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::{NodeId, Projector, StateMachine, Told, Update, Views};
use tokio::{
    sync::Notify,
    task::{spawn_blocking, yield_now},
    time::{Instant, sleep_until},
};

use crate::raft::Machine;

/// Changes within this time after one that was told of are told together; a single change is told
/// at once.
const COALESCE: Duration = Duration::from_millis(3);
/// How many nodes' own parts are projected before commands are applied again.
const SLICE: usize = 32;
/// How many changed objects are followed on the spot. More are a thread's work: they take longer
/// than other tasks may wait.
const FEW: usize = 32;
/// How many sessions are woken before other tasks, heartbeats among them, have their turn.
const WAKE: usize = 64;

/// Clones share it.
pub(crate) struct Fanout<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    machine: Machine<S>,
    inner: Mutex<Inner<S>>,
    /// A session has opened or ended.
    changed: Notify,
}

struct Inner<S> {
    projector: Box<dyn Projector<S>>,
    views: Views,
    /// The log index of the views.
    index: Option<u64>,
    sessions: BTreeMap<NodeId, (u64, Arc<Notify>)>,
    opened: u64,
    is_followed: bool,
}

/// A node's place among the views; it is given up when this is dropped.
pub(crate) struct Subscription<S> {
    fanout: Arc<Shared<S>>,
    node: NodeId,
    number: u64,
    /// There may be something to be told.
    pub woken: Arc<Notify>,
}

impl<S: StateMachine> Fanout<S> {
    pub(crate) fn new(machine: Machine<S>) -> Self {
        let inner = Inner {
            projector: Box::new(S::Projector::default()),
            views: Views::default(),
            index: None,
            sessions: BTreeMap::new(),
            opened: 0,
            is_followed: false,
        };
        let shared = Shared {
            machine,
            inner: Mutex::new(inner),
            changed: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Follows the views of a node. An older session of it is told nothing more.
    pub(crate) fn subscribe(&self, node: NodeId) -> Subscription<S> {
        let woken = Arc::new(Notify::new());
        let mut inner = self.shared.lock();
        inner.opened += 1;
        let number = inner.opened;
        inner.sessions.insert(node, (number, woken.clone()));
        inner.views.follow(node);
        if !std::mem::replace(&mut inner.is_followed, true) {
            tokio::spawn(follow(self.shared.clone()));
        }
        drop(inner);
        self.shared.changed.notify_one();
        Subscription {
            fanout: self.shared.clone(),
            node,
            number,
            woken,
        }
    }
}

impl<S> Subscription<S> {
    /// What leads the node to its present view. `None`: nothing, for now.
    pub(crate) fn update(&self, told: Option<&Told>) -> Option<(Update, Told)> {
        self.fanout.lock().views.update(self.node, told)
    }

    /// The first change: of a node that has a view of this generation and digest. `None`: the view
    /// is yet to be projected, or the node has a newer one than this leader, which has not caught
    /// up.
    pub(crate) fn resume(&self, generation: u64, digest: &str) -> Option<(Update, Told)> {
        let inner = self.fanout.lock();
        let views = &inner.views;
        if views.generation() < generation {
            return None;
        }
        let told = views.told(self.node)?;
        if views.digest(self.node).as_deref() == Some(digest) {
            return Some((views.nothing_new(self.node, generation), told));
        }
        views.update(self.node, None)
    }
}

impl<S> Drop for Subscription<S> {
    fn drop(&mut self) {
        let mut inner = self.fanout.lock();
        let newest = inner.sessions.get(&self.node);
        if newest.is_some_and(|(number, _)| *number == self.number) {
            inner.sessions.remove(&self.node);
            inner.views.leave(self.node);
        }
        drop(inner);
        self.fanout.changed.notify_one();
    }
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: StateMachine> Shared<S> {
    /// Brings the views some way up to the state. Returns who may have something to be told, and
    /// whether there is more to do. `None`: more than `most` objects have changed, or nobody knows
    /// how many, and nothing is done.
    fn advance(&self, most: Option<usize>) -> Option<(Vec<Arc<Notify>>, bool)> {
        let mut inner = self.lock();
        let Inner {
            projector,
            views,
            index,
            ..
        } = &mut *inner;
        let (now, more) = self.machine.read_since(*index, |state, touched| {
            let is_more = |most| touched.is_none_or(|touched| touched.objects.len() > most);
            if most.is_some_and(is_more) {
                return None;
            }
            let is_news = touched.is_none_or(|touched| !touched.is_empty());
            if is_news {
                projector.follow(state, touched, views);
            }
            for _ in 0..SLICE {
                let Some(node) = views.next_due() else {
                    return Some(false);
                };
                let own = projector.own(state, node);
                views.set_own(node, own);
            }
            Some(true)
        });
        let more = more?;
        *index = Some(now);
        let woken = inner.views.take_woken();
        let sessions = woken.iter().filter_map(|node| inner.sessions.get(node));
        let sessions = sessions.map(|(_, session)| session.clone()).collect();
        Some((sessions, more))
    }

    /// Nobody is left: what there is of views is let go of.
    fn ends(&self) -> bool {
        let mut inner = self.lock();
        if !inner.sessions.is_empty() {
            return false;
        }
        inner.projector = Box::new(S::Projector::default());
        (inner.views, inner.index) = (Views::default(), None);
        inner.is_followed = false;
        true
    }
}

/// Follows the state for as long as there are sessions.
async fn follow<S: StateMachine>(shared: Arc<Shared<S>>) {
    let mut applied = shared.machine.applied();
    let mut due = Instant::now();
    loop {
        applied.borrow_and_update();
        let (woken, more) = match shared.advance(Some(FEW)) {
            Some(advanced) => advanced,
            None => {
                let all = shared.clone();
                match spawn_blocking(move || all.advance(None)).await {
                    Ok(Some(advanced)) => advanced,
                    _ => return,
                }
            }
        };
        for sessions in woken.chunks(WAKE) {
            sessions.iter().for_each(|session| session.notify_one());
            yield_now().await;
        }
        if more {
            continue;
        }
        if !woken.is_empty() {
            due = Instant::now() + COALESCE;
        }
        if shared.ends() {
            return;
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = shared.changed.notified() => {}
        }
        sleep_until(due).await;
    }
}
