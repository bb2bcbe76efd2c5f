//! Waits until a service has converged, with a live progress line.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::Result;
use model::{
    Kind, Question, Refusal, RestartCondition, ServiceInfo, TaskFacts, TaskId, TaskInfo, TaskState,
    Waiting,
};
use tokio::time::{timeout, timeout_at};

use super::{Wait, logs};
use crate::{
    daemon::Daemon,
    output,
    watching::{Followed, follow},
};

/// Time limit of the command; the service itself goes on converging.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a service must stay converged: a command that fails at once has run for a moment, too.
const STAY: Duration = Duration::from_secs(1);
/// The most lines and characters that an error has of a failed task's output, and how long its host
/// may take to send them.
const LINES: u32 = 3;
const OUTPUT: usize = 400;
const PATIENCE: Duration = Duration::from_secs(2);
/// Lines that are not live come at most this often.
const LINE_PAUSE: Duration = Duration::from_secs(2);

/// Waits until the service has converged, unless the command is detached. Tasks in `past` had ended
/// before: their errors are not printed.
pub(crate) async fn wait(
    daemon: &Daemon,
    name: &str,
    past: &BTreeSet<TaskId>,
    wait: Wait,
) -> Result<u8> {
    if wait == Wait::Detached {
        return Ok(0);
    }
    let mut line = Line::new(wait);
    let result = tokio::select! {
        result = watch(daemon, name, past, &mut line) => result.map(|()| 0),
        _ = tokio::signal::ctrl_c() => {
            line.end(&format!("{name} continues to converge; `swarmctl service ps {name}` shows \
                               its progress"));
            return Ok(0);
        }
    };
    line.close();
    result
}

/// The ended tasks of a service: their errors are old.
pub(crate) async fn past(daemon: &Daemon, name: &str) -> Result<BTreeSet<TaskId>> {
    let ended = |task: &TaskInfo| task.state.is_terminal().then_some(task.id);
    Ok(daemon
        .ask(Question::tasks_of(name))
        .await?
        .iter()
        .filter_map(ended)
        .collect())
}

async fn watch(
    daemon: &Daemon,
    name: &str,
    past: &BTreeSet<TaskId>,
    line: &mut Line,
) -> Result<()> {
    let id = daemon.ask(Question::service(name)).await?.id.to_string();
    let mut followed = follow(daemon, &id).await?;
    let mut start = Instant::now();
    let (mut wanted_since, mut updated) = (None, None);
    loop {
        if followed.gone {
            return Err(refuse(name, "was removed meanwhile"));
        }
        let progress = Progress::of(&followed, past);
        // An update has no time limit while it makes progress.
        if progress.updated != updated {
            (start, updated) = (Instant::now(), progress.updated);
        }
        match progress.phase {
            Phase::Paused => {
                let said = last_output(daemon, &followed, past).await;
                return Err(refuse_paused(name, &(progress.text + &said)));
            }
            Phase::Hopeless => {
                let said = last_output(daemon, &followed, past).await;
                return Err(refuse(
                    name,
                    &format!("will not run: {}{said}", progress.text),
                ));
            }
            Phase::Wanted => drop(wanted_since.get_or_insert_with(Instant::now)),
            Phase::Underway => wanted_since = None,
        }
        if wanted_since.is_some_and(|since| since.elapsed() >= STAY) {
            line.end(&format!("{name}: {}, converged", progress.text));
            return Ok(());
        }
        if start.elapsed() > LIMIT {
            let text = progress.text + &last_output(daemon, &followed, past).await;
            let what = format!("has not converged within {} s: {text}", LIMIT.as_secs());
            return Err(refuse(name, &what));
        }
        line.show(&format!("{name}: {}", progress.text));
        let deadline = wanted_since.map_or(start + LIMIT, |since| since + STAY);
        if let Ok(changed) = timeout_at(deadline.into(), followed.change()).await {
            changed?;
        }
    }
}

/// What the task that has failed last has written last, to stand behind why it failed; empty where
/// none has failed, or its host does not say.
async fn last_output(daemon: &Daemon, followed: &Followed, past: &BTreeSet<TaskId>) -> String {
    let tasks = followed.tasks.iter().filter(|(id, _)| !past.contains(id));
    let failed = tasks.filter(|(_, task)| task.state == TaskState::Failed);
    let Some((id, task)) = failed.max_by_key(|(_, task)| task.since) else {
        return String::new();
    };
    let lines = timeout(PATIENCE, logs::last_lines(daemon, *id, LINES)).await;
    let lines = lines.unwrap_or_default();
    if lines.is_empty() {
        return String::new();
    }
    let text = output::flat(&lines.join(" | "));
    let text: String = text.chars().take(OUTPUT).collect();
    format!("; the last output of {}: {text}", task.name)
}

fn refuse(name: &str, what: &str) -> anyhow::Error {
    let next = format!(
        "`swarmctl service ps {name}` shows each task, `swarmctl service logs {name}` their output"
    );
    let object = format!("service {name}");
    Refusal::new(Kind::Precondition, format!("{object} {what}"), next)
        .about(object)
        .into()
}

fn refuse_paused(name: &str, text: &str) -> anyhow::Error {
    let next = format!(
        "`swarmctl service rollback {name}` restores the previous spec; `swarmctl service update \
         {name}` with corrected options continues"
    );
    Refusal::new(
        Kind::Precondition,
        format!("the update of service {name} has stopped: {text}"),
        next,
    )
    .about(format!("service {name}"))
    .into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Underway,
    /// New tasks fail: the update goes no further by itself.
    Paused,
    Wanted,
    /// A task failed and is not to be started again.
    Hopeless,
}

#[derive(Debug, PartialEq, Eq)]
struct Progress {
    phase: Phase,
    text: String,
    /// How many tasks an update has replaced.
    updated: Option<u32>,
}

impl Progress {
    /// Tasks in `past` had ended before.
    fn of(followed: &Followed, past: &BTreeSet<TaskId>) -> Self {
        let tasks = followed.tasks.iter().filter(|(id, _)| !past.contains(id));
        let tasks: Vec<&TaskFacts> = tasks.map(|(_, task)| task).collect();
        match &followed.progress {
            Some(progress) => Self::of_parts(&progress.service, &tasks, progress.waiting.as_ref()),
            None => Self {
                phase: Phase::Underway,
                text: String::new(),
                updated: None,
            },
        }
    }

    fn of_parts(service: &ServiceInfo, tasks: &[&TaskFacts], waiting: Option<&Waiting>) -> Self {
        let current = current(tasks);
        let mut others: BTreeMap<TaskState, u32> = BTreeMap::new();
        for task in current
            .values()
            .filter(|task| task.state != TaskState::Running)
        {
            *others.entry(task.state).or_default() += 1;
        }
        let (status, replicas) = (&service.status, service.spec.replicas);
        let (running, settled) = (status.running, status.settled);
        let mut text = format!("{running}/{replicas} running");
        if let Some(update) = &status.update {
            text = format!("{}/{replicas} updated, {running} running", update.updated);
        }
        for (state, count) in &others {
            text += &format!(", {count} {state}");
        }
        let restart = service.spec.task.restart.condition;
        let complete = others.get(&TaskState::Complete).copied().unwrap_or(0);
        let done = if restart == RestartCondition::Any {
            0
        } else {
            complete
        };
        let failed = others
            .keys()
            .any(|state| matches!(state, TaskState::Failed | TaskState::Rejected));
        let phase = match () {
            () if status.update.as_ref().is_some_and(|update| update.paused) => Phase::Paused,
            () if status.update.is_some() => Phase::Underway,
            () if running.saturating_add(done) == replicas
                && settled.saturating_add(done) >= replicas =>
            {
                Phase::Wanted
            }
            () if failed && restart == RestartCondition::None => Phase::Hopeless,
            () => Phase::Underway,
        };
        if running == replicas && settled < replicas {
            text += &format!(", {settled} known to every node");
        }
        if let Some(update) = status
            .update
            .as_ref()
            .filter(|update| !update.message.is_empty())
        {
            text += &format!(" ({})", output::flat(&update.message));
        } else if phase != Phase::Wanted
            && let Some(trouble) = trouble(tasks, waiting)
        {
            text += &format!(" ({})", output::flat(&trouble));
        }
        let updated = status.update.as_ref().map(|update| update.updated);
        Self {
            phase,
            text,
            updated,
        }
    }
}

/// The run of each slot that counts: the one that is to run, else the last.
fn current<'a>(tasks: &[&'a TaskFacts]) -> BTreeMap<u32, &'a TaskFacts> {
    let rank = |task: &TaskFacts| {
        (
            task.desired <= TaskState::Running,
            !task.state.is_terminal(),
            task.since,
        )
    };
    let mut current: BTreeMap<u32, &TaskFacts> = BTreeMap::new();
    for task in tasks {
        let kept = current.entry(task.slot).or_insert(task);
        if rank(task) > rank(kept) {
            *kept = task;
        }
    }
    current
}

/// What the last task with a message about why it does not run says.
fn trouble(tasks: &[&TaskFacts], waiting: Option<&Waiting>) -> Option<String> {
    let troubled = |task: &&&TaskFacts| {
        !task.message.is_empty()
            && matches!(
                task.state,
                TaskState::Pending | TaskState::Failed | TaskState::Rejected
            )
    };
    let last = tasks.iter().filter(troubled).max_by_key(|task| task.since);
    let waiting = waiting.filter(|waiting| !waiting.message.is_empty());
    let waiting = waiting.filter(|waiting| last.is_none_or(|task| task.since <= waiting.since));
    match (last, waiting) {
        (_, Some(waiting)) => Some(format!(
            "{} {}: {}",
            waiting.task,
            TaskState::Pending,
            waiting.message
        )),
        (Some(task), None) => Some(format!("{} {}: {}", task.name, task.state, task.message)),
        (None, None) => None,
    }
}

/// One line that is written over on a terminal, an occasional line elsewhere. On stderr: stdout
/// carries the id.
struct Line {
    live: bool,
    silent: bool,
    text: String,
    last: Option<Instant>,
}

impl Line {
    fn new(wait: Wait) -> Self {
        Self {
            live: std::io::stderr().is_terminal(),
            silent: wait != Wait::Shown,
            text: String::new(),
            last: None,
        }
    }

    fn show(&mut self, text: &str) {
        let due = self.live || self.last.is_none_or(|last| last.elapsed() >= LINE_PAUSE);
        if self.silent || text == self.text || !due {
            return;
        }
        self.write(text);
    }

    /// The last word.
    fn end(&mut self, text: &str) {
        if !self.silent {
            self.write(text);
        }
        self.close();
    }

    /// Leaves the line, so that what follows starts on its own.
    fn close(&mut self) {
        if self.live && !self.text.is_empty() {
            eprintln!();
        }
        self.text.clear();
    }

    fn write(&mut self, text: &str) {
        if self.live {
            // Without DECAWM the terminal cuts a line that is too long: one that wraps could not be
            // written over.
            eprint!("\r\x1b[K\x1b[?7l{text}\x1b[?7h");
        } else {
            eprintln!("{text}");
        }
        // Progress that cannot be shown is no reason to fail.
        let _ = std::io::stderr().flush();
        self.text = text.to_owned();
        self.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use model::{
        Level, RestartPolicy, Runtime, ServiceId, ServiceSpec, ServiceStatus, TaskSpec, UpdateInfo,
    };

    use super::*;

    fn task_spec(condition: RestartCondition) -> TaskSpec {
        let runtime = Runtime::Exec {
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            rootfs: None,
        };
        TaskSpec {
            restart: RestartPolicy {
                condition,
                ..RestartPolicy::default()
            },
            ..TaskSpec::new(runtime)
        }
    }

    fn service(
        replicas: u32,
        running: u32,
        settled: u32,
        condition: RestartCondition,
    ) -> ServiceInfo {
        ServiceInfo {
            id: ServiceId(1),
            spec: ServiceSpec {
                replicas,
                ..ServiceSpec::new("web", task_spec(condition))
            },
            status: ServiceStatus {
                running,
                settled,
                ..ServiceStatus::default()
            },
            version: 1,
            level: Level::NEWEST,
        }
    }

    fn task(slot: u32, state: TaskState, since: u64, message: &str) -> TaskFacts {
        TaskFacts {
            name: format!("web.{slot}"),
            service: ServiceId(1),
            service_name: "web".into(),
            slot,
            node: None,
            hostname: "h1".into(),
            state,
            desired: if state.is_terminal() {
                TaskState::Shutdown
            } else {
                TaskState::Running
            },
            withdrawn: false,
            message: message.into(),
            why: None,
            exit_code: None,
            since,
        }
    }

    fn of(service: &ServiceInfo, tasks: &[TaskFacts]) -> Progress {
        Progress::of_parts(service, &tasks.iter().collect::<Vec<_>>(), None)
    }

    #[test]
    fn a_waiting_task_is_told_if_it_is_the_newest_trouble() {
        let waiting = Waiting {
            task: "web.2".into(),
            message: "waits: no node is ready".into(),
            since: 5,
        };
        for (failed_at, trouble) in [
            (4, "web.2 pending: waits: no node is ready"),
            (6, "web.1 failed: no"),
        ] {
            let failed = task(1, TaskState::Failed, failed_at, "no");
            let service = service(2, 0, 0, RestartCondition::Any);
            let progress = Progress::of_parts(&service, &[&failed], Some(&waiting));
            assert_eq!(progress.text, format!("0/2 running, 1 failed ({trouble})"));
        }
    }

    #[test]
    fn tasks_that_do_not_run_yet_are_counted_by_state() {
        let tasks = [
            task(1, TaskState::Running, 1, ""),
            task(2, TaskState::Preparing, 1, ""),
            task(3, TaskState::Pending, 1, ""),
        ];
        let progress = of(&service(3, 1, 1, RestartCondition::Any), &tasks);
        assert_eq!(
            progress,
            Progress {
                phase: Phase::Underway,
                text: "1/3 running, 1 pending, 1 preparing".into(),
                updated: None,
            }
        );
    }

    #[test]
    fn a_failing_tasks_reason_is_shown_and_the_slots_new_run_counts() {
        let tasks = [
            task(1, TaskState::Failed, 1, "exit code 1"),
            task(1, TaskState::Ready, 2, ""),
        ];
        let progress = of(&service(1, 0, 0, RestartCondition::Any), &tasks);
        assert_eq!(
            progress.text,
            "0/1 running, 1 ready (web.1 failed: exit code 1)"
        );
        assert_eq!(progress.phase, Phase::Underway);
    }

    #[test]
    fn running_is_not_enough_until_every_node_knows() {
        let tasks = [task(1, TaskState::Running, 1, "")];
        assert_eq!(
            of(&service(1, 1, 0, RestartCondition::Any), &tasks).phase,
            Phase::Underway
        );
        assert_eq!(
            of(&service(1, 1, 1, RestartCondition::Any), &tasks).phase,
            Phase::Wanted
        );
    }

    #[test]
    fn an_update_is_waited_for_and_one_that_is_paused_is_not() {
        let info = |paused, updated| UpdateInfo {
            paused,
            updated,
            message: "web.2 is draining: 1 connection".into(),
        };
        let update = |update| {
            let mut service = service(3, 3, 3, RestartCondition::Any);
            service.status.update = update;
            service
        };
        let progress = of(&update(Some(info(false, 1))), &[]);
        assert_eq!(progress.phase, Phase::Underway);
        assert_eq!(
            progress.text,
            "1/3 updated, 3 running (web.2 is draining: 1 connection)"
        );
        assert_eq!(of(&update(Some(info(true, 1))), &[]).phase, Phase::Paused);
        assert_eq!(of(&update(None), &[]).phase, Phase::Wanted);
    }

    #[test]
    fn scaling_down_waits_until_the_surplus_is_gone() {
        assert_eq!(
            of(&service(1, 3, 3, RestartCondition::Any), &[]).phase,
            Phase::Underway
        );
        assert_eq!(
            of(&service(0, 0, 0, RestartCondition::Any), &[]).phase,
            Phase::Wanted
        );
    }

    #[test]
    fn tasks_without_restart_count_when_complete_not_when_failed() {
        let (complete, failed) = (
            task(1, TaskState::Complete, 1, ""),
            task(1, TaskState::Failed, 1, "exit code 1"),
        );
        let phase = |condition, task: &TaskFacts| {
            of(&service(1, 0, 0, condition), std::slice::from_ref(task)).phase
        };
        assert_eq!(phase(RestartCondition::None, &complete), Phase::Wanted);
        assert_eq!(phase(RestartCondition::OnFailure, &complete), Phase::Wanted);
        assert_eq!(phase(RestartCondition::Any, &complete), Phase::Underway);
        assert_eq!(phase(RestartCondition::None, &failed), Phase::Hopeless);
        assert_eq!(phase(RestartCondition::OnFailure, &failed), Phase::Underway);
    }
}
