//! The policy alone: an executor that does what the test says, and a clock that the test moves.

#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io,
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use model::{Kind, NodeId, Refusal, Runtime, ServiceId, TaskSpec};

use super::*;
use crate::{
    executor::{Input, LogLine, Output, Probed, Start, Stats, Until},
    process::Process,
};

const TASK: TaskId = TaskId(7);

/// One task's progress, and the verbs that were called.
#[derive(Default)]
struct Fake {
    progress: Mutex<Option<Progress>>,
    called: Mutex<Vec<String>>,
}

impl Fake {
    fn becomes(&self, progress: Progress) {
        *self.progress.lock().unwrap() = Some(progress);
    }

    fn called(&self) -> MutexGuard<'_, Vec<String>> {
        self.called.lock().unwrap()
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.called())
    }
}

impl Executor for Fake {
    fn present(&self) -> Vec<TaskId> {
        match *self.progress.lock().unwrap() {
            Some(_) => vec![TASK],
            None => Vec::new(),
        }
    }

    fn progress(&self, _: TaskId) -> Progress {
        let progress = self.progress.lock().unwrap().clone();
        progress.unwrap_or(Progress::Absent)
    }

    fn check(&self, _: &Runtime) -> Result<(), Failure> {
        Ok(())
    }

    fn prepare(&self, _: TaskId, _: &TaskConfig, _: &NodeConfig) -> Result<(), Failure> {
        self.called().push("prepare".to_owned());
        self.becomes(Progress::Prepared);
        Ok(())
    }

    fn start(&self, _: TaskId) -> Result<(), Failure> {
        self.called().push("start".to_owned());
        self.becomes(Progress::Running);
        Ok(())
    }

    fn started(&self, _: TaskId) -> Option<SystemTime> {
        None
    }

    fn signal(&self, _: TaskId, signal: Signal) {
        self.called().push(signal.to_string());
    }

    fn kill(&self, _: TaskId) {
        self.called().push("kill".to_owned());
    }

    fn remove(&self, _: TaskId) -> io::Result<()> {
        self.called().push("remove".to_owned());
        *self.progress.lock().unwrap() = None;
        Ok(())
    }

    fn condemn(&self, _: TaskId, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn condemned(&self, _: TaskId) -> Option<String> {
        None
    }

    fn process(&self, _: TaskId) -> Option<Process> {
        None
    }

    fn stats(&self, _: TaskId) -> Option<Stats> {
        None
    }

    fn probe(&self, _: TaskId, _: &[String]) -> BoxFuture<'static, Probed> {
        Box::pin(async { Err(io::Error::other("no checks here")) })
    }

    fn exec(
        &self,
        _: TaskId,
        _: Start,
        _: BoxStream<'static, Input>,
    ) -> BoxStream<'static, Output> {
        stream::empty().boxed()
    }

    fn logs(&self, _: &[TaskId], _: Until, _: u32) -> BoxStream<'static, LogLine> {
        stream::empty().boxed()
    }

    fn find(&self, name: &str) -> Result<TaskId, Refusal> {
        Err(Refusal::not_found("task", name, "swarmctl service ps"))
    }

    fn sandbox(&self, _: TaskId) -> Option<File> {
        None
    }
}

/// A host with one task, whose sandbox is complete.
struct Host {
    fake: Arc<Fake>,
    agent: Agent,
    config: NodeConfig,
    sandboxes: Sandboxes,
    now: Instant,
}

impl Host {
    fn new() -> Self {
        let fake = Arc::new(Fake::default());
        let mut config = NodeConfig::empty(NodeId(1));
        config.generation = 1;
        config.tasks.insert(TASK, task());
        Self {
            agent: Agent::new(fake.clone(), watch::channel(Vec::new()).0),
            fake,
            config,
            sandboxes: Sandboxes {
                ready: [TASK.into()].into(),
                ..Sandboxes::default()
            },
            now: Instant::now(),
        }
    }

    /// The state after one more pass.
    fn pass(&mut self) -> TaskState {
        self.agent.pass(&self.config, &self.sandboxes, self.now);
        self.agent.known[&TASK].state
    }

    fn later(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }
}

fn task() -> TaskConfig {
    let runtime = Runtime::Exec {
        argv: vec!["true".to_owned()],
        env: BTreeMap::new(),
        rootfs: None,
    };
    TaskConfig {
        service: ServiceId(1),
        service_name: "web".to_owned(),
        stack: None,
        slot: 1,
        spec: TaskSpec::new(runtime),
        desired: TaskState::Running,
        state: TaskState::Ready,
        draining: false,
        endpoints: Vec::new(),
    }
}

#[test]
fn a_task_is_prepared_and_started_once() {
    let mut host = Host::new();
    assert_eq!(host.pass(), TaskState::Starting);
    assert_eq!(host.pass(), TaskState::Running);
    assert_eq!(host.fake.calls(), ["prepare", "start"]);
}

#[test]
fn a_stop_is_a_sigterm_and_at_the_end_of_its_grace_a_kill() {
    let mut host = Host::new();
    host.pass();
    host.pass();
    let task = host.config.tasks.get_mut(&TASK).unwrap();
    (task.desired, task.spec.stop_grace) = (TaskState::Shutdown, 400);
    host.fake.calls();
    host.pass();
    host.later(399);
    host.pass();
    assert_eq!(host.fake.calls(), ["SIGTERM"]);
    host.later(1);
    host.pass();
    assert_eq!(host.fake.calls(), ["kill"]);
    host.fake.becomes(Progress::Vanished { rebooted: false });
    assert_eq!(host.pass(), TaskState::Shutdown);
}

#[test]
fn a_task_without_its_network_waits_and_is_rejected_at_last() {
    let mut host = Host::new();
    let why = Failure::new(Kind::Unavailable, "no such link", "name another parent");
    host.sandboxes = Sandboxes {
        refused: [(TASK.into(), why)].into(),
        ..Sandboxes::default()
    };
    assert_eq!(host.pass(), TaskState::Preparing);
    host.later(4_999);
    assert_eq!(host.pass(), TaskState::Preparing);
    host.later(1);
    assert_eq!(host.pass(), TaskState::Rejected);
    assert_eq!(host.fake.calls(), [""; 0]);
}

#[test]
fn leftovers_of_a_forgotten_task_are_killed_then_removed() {
    let mut host = Host::new();
    host.pass();
    host.fake.calls();
    host.config.tasks.clear();
    host.agent.pass(&host.config, &host.sandboxes, host.now);
    host.fake.becomes(Progress::Vanished { rebooted: false });
    host.agent.pass(&host.config, &host.sandboxes, host.now);
    assert_eq!(host.fake.calls(), ["kill", "remove"]);
}
