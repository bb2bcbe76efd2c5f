//! The agent's loop: compares the tasks that this host is to run with what their executor says,
//! and starts, stops and forgets. It keeps nothing in memory that a new daemon could not read
//! again, deadlines of stops aside.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use model::{Failure, Kind, NodeConfig, SandboxId, TaskConfig, TaskId, TaskReport, TaskState};
use nix::sys::signal::Signal;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    connections,
    executor::{End, Executor, Progress},
    health::{Checks, Verdict},
};

/// Polling interval while a task runs.
const POLL: Duration = Duration::from_millis(100);
/// How often it looks while nothing does.
const IDLE: Duration = Duration::from_secs(2);

/// How long a task that takes datagrams drains at least. Balancers move flows of UDP away 5 s after
/// it takes no new ones, and have two more seconds to notice.
const DATAGRAMS: Duration = Duration::from_secs(7);
/// How long a task waits for its networks on this host before it is rejected.
const NETWORK_PATIENCE: Duration = Duration::from_secs(5);

/// What there is of the tasks' sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandboxes {
    /// The tasks whose sandboxes are complete.
    pub ready: BTreeSet<SandboxId>,
    /// The tasks that cannot be on one of their networks here, and why.
    pub refused: BTreeMap<SandboxId, Failure>,
}

/// Runs the agent until `desired` is closed. A configuration of generation 0 means that nothing is
/// known yet: tasks are left alone. `reports` always holds the state of every task of the
/// configuration that this host knows something of; it changes with each step of each task.
pub fn spawn(
    executor: Arc<dyn Executor>,
    desired: watch::Receiver<Arc<NodeConfig>>,
    sandboxes: watch::Receiver<Sandboxes>,
    reports: watch::Sender<Vec<TaskReport>>,
) -> JoinHandle<()> {
    tokio::spawn(run(Agent::new(executor, reports), desired, sandboxes))
}

async fn run(
    mut agent: Agent,
    mut desired: watch::Receiver<Arc<NodeConfig>>,
    mut sandboxes: watch::Receiver<Sandboxes>,
) {
    loop {
        let (config, found) = (
            desired.borrow_and_update().clone(),
            sandboxes.borrow_and_update().clone(),
        );
        // Files and processes: not for the threads that carry everybody's futures.
        let pass = tokio::task::spawn_blocking(move || {
            agent.pass(&config, &found, Instant::now());
            agent
        });
        match pass.await {
            Ok(back) => agent = back,
            Err(error) => {
                return tracing::error!(%error,
                    "the agent has stopped: tasks run on, but nothing starts or stops them");
            }
        }
        let pause = if agent.busy { POLL } else { IDLE };
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            Ok(()) = sandboxes.changed() => {}
            _ = timeout(pause, std::future::pending::<()>()) => {}
        }
    }
}

struct Agent {
    executor: Arc<dyn Executor>,
    known: BTreeMap<TaskId, TaskReport>,
    deadlines: BTreeMap<TaskId, Instant>,
    /// Since when tasks have drained.
    draining: BTreeMap<TaskId, Instant>,
    checks: Checks,
    /// Since when tasks have been kept from their networks.
    refused: BTreeMap<SandboxId, Instant>,
    reports: watch::Sender<Vec<TaskReport>>,
    /// Something runs, or has to go.
    busy: bool,
}

impl Agent {
    fn new(executor: Arc<dyn Executor>, reports: watch::Sender<Vec<TaskReport>>) -> Self {
        Self {
            checks: Checks::new(executor.clone()),
            executor,
            known: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            draining: BTreeMap::new(),
            refused: BTreeMap::new(),
            reports,
            busy: false,
        }
    }

    fn pass(&mut self, config: &NodeConfig, sandboxes: &Sandboxes, now: Instant) {
        if config.generation == 0 {
            return;
        }
        self.busy = false;
        self.known.retain(|id, _| config.tasks.contains_key(id));
        self.deadlines.retain(|id, _| config.tasks.contains_key(id));
        self.draining.retain(|id, _| config.tasks.contains_key(id));
        let goes_on =
            |task: &TaskConfig| task.desired <= TaskState::Running && !task.state.is_terminal();
        self.checks
            .retain(|id| config.tasks.get(&id).is_some_and(goes_on));
        self.refused
            .retain(|id, _| sandboxes.refused.contains_key(id));
        for &id in sandboxes.refused.keys() {
            self.refused.entry(id).or_insert(now);
        }
        for (&id, task) in &config.tasks {
            let progress = self.executor.progress(id);
            self.busy |= matches!(progress, Progress::Launching | Progress::Running);
            if task.desired > TaskState::Running || task.state.is_terminal() {
                self.stop(id, task, progress, now);
            } else {
                self.advance(id, task, progress, (config, sandboxes), now);
            }
        }
        self.forget(config);
        self.publish();
    }

    /// Takes a task that should run one step further.
    fn advance(
        &mut self,
        id: TaskId,
        task: &TaskConfig,
        progress: Progress,
        (config, sandboxes): (&NodeConfig, &Sandboxes),
        now: Instant,
    ) {
        if let Some(reason) = task
            .spec
            .health
            .as_ref()
            .and_then(|_| self.executor.condemned(id))
        {
            return self.end(id, task, &progress, &unhealthy(&reason), now);
        }
        match progress {
            Progress::Absent if self.was_running(id, task) => {
                let cause = "its host restarted and nothing is left of it";
                self.fail(id, TaskState::Failed, failed(cause), None);
            }
            Progress::Absent if !self.is_over(id) => self.begin(id, task, (config, sandboxes), now),
            Progress::Absent => {}
            // Written by a daemon that died before it could launch: it is ours to do.
            Progress::Prepared => self.launch(id),
            Progress::Launching => self.set(id, TaskState::Starting, "", None),
            Progress::Running => self.attend(id, task, now),
            Progress::Ended(End::Rejected { why }) => self.fail(id, TaskState::Rejected, why, None),
            Progress::Ended(End::Exited { code: 0, .. }) => {
                self.set(id, TaskState::Complete, "", Some(0))
            }
            Progress::Ended(End::Exited { code, message }) => {
                let cause = if message.is_empty() {
                    format!("exit code {code}")
                } else {
                    message
                };
                self.fail(id, TaskState::Failed, failed(cause), Some(code));
            }
            Progress::Vanished { rebooted } => {
                let cause = if rebooted {
                    "its host restarted"
                } else {
                    "its host went down, or its processes were killed"
                };
                self.fail(id, TaskState::Failed, failed(cause), None);
            }
        }
    }

    /// Attends to a running task: health checks, and counting connections while it drains.
    fn attend(&mut self, id: TaskId, task: &TaskConfig, now: Instant) {
        if let Some(check) = &task.spec.health {
            let was_running = self.has_run(id, task);
            let first = if was_running {
                Verdict::Healthy
            } else {
                Verdict::Unknown
            };
            match self.checks.verdict(id, check, first) {
                Verdict::Unknown => return self.set(id, TaskState::Starting, "", None),
                Verdict::Healthy => {}
                Verdict::Unhealthy(reason) => {
                    // Without a word on the disk the next life of the daemon asks again.
                    let _ = self.executor.condemn(id, &reason);
                    return self.end(id, task, &Progress::Running, &unhealthy(&reason), now);
                }
            }
        }
        self.set(id, TaskState::Running, "", None);
        if task.draining {
            self.count(id, now);
        }
    }

    fn has_run(&self, id: TaskId, task: &TaskConfig) -> bool {
        task.state == TaskState::Running
            || self
                .known
                .get(&id)
                .is_some_and(|report| report.state == TaskState::Running)
    }

    /// Ends a task whose check has failed for good. The managers hear of it first: nothing new is
    /// led to it.
    fn end(
        &mut self,
        id: TaskId,
        task: &TaskConfig,
        progress: &Progress,
        why: &Failure,
        now: Instant,
    ) {
        match progress {
            Progress::Running => {
                self.set(id, TaskState::Starting, "", None);
                if let Some(known) = self.known.get_mut(&id).filter(|known| !known.unhealthy) {
                    tracing::warn!(task = task.name(), %id, reason = %why, "is ended");
                    (known.unhealthy, known.why) = (true, Some(why.clone()));
                    self.publish();
                }
                self.signal(id, task, now);
            }
            Progress::Launching => self.executor.kill(id),
            Progress::Ended(End::Exited { code, .. }) => {
                self.fail(id, TaskState::Failed, why.clone(), Some(*code))
            }
            _ => self.fail(id, TaskState::Failed, why.clone(), None),
        }
    }

    /// Reports the number of connections left: first, then whenever half of them have gone, to keep
    /// the log small. Datagrams count as one connection for a while: they have no end.
    fn count(&mut self, id: TaskId, now: Instant) {
        let since = *self.draining.entry(id).or_insert(now);
        let moves = now.duration_since(since) < DATAGRAMS;
        let process = self.executor.process(id);
        let count = process.and_then(|process| {
            let datagrams = moves && connections::takes_datagrams(process.pid());
            Some(connections::count(process.pid())? + u32::from(datagrams))
        });
        let Some((known, count)) = self.known.get_mut(&id).zip(count) else {
            return;
        };
        if known
            .connections
            .is_none_or(|last| count < last && count <= last / 2)
        {
            known.connections = Some(count);
            self.publish();
        }
    }

    fn was_running(&self, id: TaskId, task: &TaskConfig) -> bool {
        let known = self.known.get(&id).map(|report| report.state);
        task.state == TaskState::Running
            || matches!(known, Some(TaskState::Starting | TaskState::Running))
    }

    fn is_over(&self, id: TaskId) -> bool {
        self.known
            .get(&id)
            .is_some_and(|report| report.state.is_terminal())
    }

    fn begin(
        &mut self,
        id: TaskId,
        task: &TaskConfig,
        (config, sandboxes): (&NodeConfig, &Sandboxes),
        now: Instant,
    ) {
        self.set(id, TaskState::Accepted, "", None);
        self.set(id, TaskState::Preparing, "waits for its network", None);
        if let Err(why) = self.executor.check(&task.spec.runtime) {
            return self.fail(id, TaskState::Rejected, why, None);
        }
        if !sandboxes.ready.contains(&id.into()) {
            return self.wait(id, sandboxes.refused.get(&id.into()), now);
        }
        match self.executor.prepare(id, task, config) {
            Ok(()) => {
                self.set(id, TaskState::Ready, "", None);
                self.launch(id);
            }
            Err(why) => self.fail(id, TaskState::Rejected, why, None),
        }
    }

    /// A task waits for a while for its network; then it is rejected, so that another host may run
    /// it.
    fn wait(&mut self, id: TaskId, refused: Option<&Failure>, now: Instant) {
        let Some(why) = refused else { return };
        self.busy = true;
        if self
            .refused
            .get(&id.into())
            .is_some_and(|since| now.duration_since(*since) >= NETWORK_PATIENCE)
        {
            return self.fail(id, TaskState::Rejected, why.clone(), None);
        }
        if let Some(known) = self.known.get_mut(&id) {
            known.why = Some(why.clone());
        }
    }

    fn launch(&mut self, id: TaskId) {
        self.busy = true;
        match self.executor.start(id) {
            Ok(()) => self.set(id, TaskState::Starting, "", None),
            Err(why) => self.fail(id, TaskState::Rejected, why, None),
        }
    }

    /// Takes a task that should not run one step nearer to its end.
    fn stop(&mut self, id: TaskId, task: &TaskConfig, progress: Progress, now: Instant) {
        match progress {
            // The managers know its final state.
            Progress::Absent if task.state.is_terminal() => {}
            Progress::Absent => self.set(id, TaskState::Shutdown, "it was never started", None),
            Progress::Prepared => match self.executor.remove(id) {
                Ok(()) => self.set(id, TaskState::Shutdown, "it was never started", None),
                Err(_) => self.busy = true,
            },
            // Its main process does not run yet, so there is nothing to signal.
            Progress::Launching => self.executor.kill(id),
            Progress::Running => self.signal(id, task, now),
            _ if task.state.is_terminal() => {}
            Progress::Ended(End::Rejected { why }) => self.fail(id, TaskState::Rejected, why, None),
            Progress::Ended(End::Exited { code, message }) => {
                self.set(id, TaskState::Shutdown, &message, Some(code))
            }
            Progress::Vanished { .. } => {
                let killed = 128 + Signal::SIGKILL as i32;
                self.set(id, TaskState::Shutdown, "killed by SIGKILL", Some(killed));
            }
        }
    }

    /// SIGTERM once, SIGKILL when the grace is over.
    fn signal(&mut self, id: TaskId, task: &TaskConfig, now: Instant) {
        let grace = Duration::from_millis(task.spec.stop_grace);
        match self.deadlines.get(&id) {
            Some(deadline) if now >= *deadline => self.executor.kill(id),
            Some(_) => {}
            None => {
                tracing::info!(task = task.name(), %id, grace = task.spec.stop_grace, "stops");
                self.executor.signal(id, Signal::SIGTERM);
                self.deadlines.insert(id, now + grace);
            }
        }
    }

    /// Removes what is left of tasks that this host has no part in any more.
    fn forget(&mut self, config: &NodeConfig) {
        for id in self.executor.present() {
            if config.tasks.contains_key(&id) {
                continue;
            }
            let progress = self.executor.progress(id);
            if matches!(progress, Progress::Launching | Progress::Running) {
                self.executor.kill(id);
                self.busy = true;
            } else if let Err(error) = self.executor.remove(id) {
                tracing::debug!(%id, %error, "not all of the task is gone yet");
                self.busy = true;
            }
        }
    }

    /// Records a state with a note, which may be empty.
    fn set(&mut self, id: TaskId, state: TaskState, note: &str, exit_code: Option<i32>) {
        self.record(TaskReport {
            message: note.to_owned(),
            exit_code,
            ..TaskReport::new(id, state)
        });
    }

    /// Records a state that a task is in because of a failure.
    fn fail(&mut self, id: TaskId, state: TaskState, why: Failure, exit_code: Option<i32>) {
        self.record(TaskReport {
            why: Some(why),
            exit_code,
            ..TaskReport::new(id, state)
        });
    }

    /// Records a state and says so at once. A task never moves back, and a state that is final
    /// stays.
    fn record(&mut self, report: TaskReport) {
        let (id, state) = (report.task, report.state);
        if self
            .known
            .get(&id)
            .is_some_and(|known| known.state >= state || known.state.is_terminal())
        {
            return;
        }
        tracing::info!(%id, %state, message = report.text(), exit_code = report.exit_code, "task");
        let known = self.known.get(&id);
        let unhealthy = known.is_some_and(|known| known.unhealthy);
        let connections = known.and_then(|known| known.connections);
        self.known.insert(
            id,
            TaskReport {
                unhealthy,
                connections,
                ..report
            },
        );
        self.publish();
    }

    fn publish(&self) {
        let list: Vec<_> = self.known.values().cloned().collect();
        self.reports.send_if_modified(|reports| {
            let changed = *reports != list;
            *reports = list;
            changed
        });
    }
}

/// A failure of a task itself, about which nobody has to do anything on this host.
fn failed(cause: impl Into<String>) -> Failure {
    Failure::new(Kind::Unavailable, cause, "")
}

/// Its health check has failed for good, with this answer.
fn unhealthy(answer: &str) -> Failure {
    failed(format!("unhealthy: {answer}"))
}
