//! Health checks: run a command inside a task and judge its exit code. The reconciler acts on the
//! result.

use std::{
    collections::BTreeMap,
    io,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{HealthCheck, TaskId};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::executor::Executor;

/// Interval of checks until the first success, unless the task's own is shorter: it should take
/// traffic as soon as possible.
const EARLY: Duration = Duration::from_millis(500);

/// Health of a task by its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has not been well yet.
    Unknown,
    /// It is well, or was lately.
    Healthy,
    /// It is to be ended, for this reason.
    Unhealthy(String),
}

/// The checks under way.
pub(crate) struct Checks {
    executor: Arc<dyn Executor>,
    tasks: BTreeMap<TaskId, Check>,
}

struct Check {
    verdict: watch::Receiver<Verdict>,
    asking: JoinHandle<()>,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Checks {
    /// None yet.
    pub(crate) fn new(executor: Arc<dyn Executor>) -> Self {
        Self {
            executor,
            tasks: BTreeMap::new(),
        }
    }

    /// Health of this running task; starts its checks if needed. `first` is the health known to an
    /// earlier run of the daemon. Needs a tokio runtime.
    pub(crate) fn verdict(&mut self, task: TaskId, check: &HealthCheck, first: Verdict) -> Verdict {
        let executor = &self.executor;
        let known = self.tasks.entry(task).or_insert_with(|| {
            let standing = Standing {
                check: check.clone(),
                well: first == Verdict::Healthy,
                failures: 0,
            };
            let (sender, verdict) = watch::channel(first);
            Check {
                verdict,
                asking: tokio::spawn(ask(executor.clone(), task, standing, sender)),
            }
        });
        known.verdict.borrow().clone()
    }

    /// Asks these tasks only.
    pub(crate) fn retain(&mut self, keep: impl Fn(TaskId) -> bool) {
        self.tasks.retain(|task, _| keep(*task));
    }
}

async fn ask(
    executor: Arc<dyn Executor>,
    task: TaskId,
    mut standing: Standing,
    verdict: watch::Sender<Verdict>,
) {
    let mut born = None;
    loop {
        let answer = probe(&*executor, task, &standing.check).await;
        born = born.or_else(|| started(&*executor, task));
        let age = born.map(|born| born.elapsed()).unwrap_or_default();
        if let Some(next) = standing.judge(answer, age) {
            verdict.send_replace(next);
        }
        sleep(standing.pause()).await;
    }
}

/// When a task started, by the clock that nobody sets. An earlier run of the daemon may have
/// started it.
fn started(executor: &dyn Executor, task: TaskId) -> Option<Instant> {
    let age = SystemTime::now().duration_since(executor.started(task)?);
    Instant::now().checked_sub(age.unwrap_or_default())
}

/// How a task has answered so far.
#[derive(Debug)]
struct Standing {
    check: HealthCheck,
    /// It has been well once.
    well: bool,
    /// In a row, since then.
    failures: u32,
}

impl Standing {
    /// Updates the health by the result of one check of a task of this age.
    fn judge(&mut self, answer: Result<(), Unwell>, age: Duration) -> Option<Verdict> {
        let Err(reason) = answer else {
            (self.well, self.failures) = (true, 0);
            return Some(Verdict::Healthy);
        };
        self.failures += u32::from(self.well);
        let patience = self
            .check
            .interval
            .saturating_mul(u64::from(self.check.retries));
        let late = Duration::from_millis(self.check.start_period.saturating_add(patience));
        let is_over = if self.well {
            self.failures >= self.check.retries
        } else {
            age > late
        };
        is_over.then(|| Verdict::Unhealthy(reason.to_string()))
    }

    fn pause(&self) -> Duration {
        let interval = Duration::from_millis(self.check.interval);
        if self.well {
            interval
        } else {
            interval.min(EARLY)
        }
    }
}

/// Why an answer is not a good one.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    /// The command of the check was not run.
    #[error("the check cannot be run: {0}")]
    NotRun(#[from] io::Error),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It ended without success, and wrote nothing.
    #[error("{0}")]
    Ended(ExitStatus),
    /// It ended without success, and wrote this last.
    #[error("{0}")]
    Said(String),
}

/// Asks once.
async fn probe(executor: &dyn Executor, task: TaskId, check: &HealthCheck) -> Result<(), Unwell> {
    let limit = Duration::from_millis(check.timeout);
    // When time is up the command is dropped, and killed by that.
    let ended = timeout(limit, executor.probe(task, &check.argv)).await;
    let (status, output) = ended.map_err(|_| Unwell::Late(limit))??;
    if status.success() {
        return Ok(());
    }
    match String::from_utf8_lossy(&output).trim() {
        "" => Err(Unwell::Ended(status)),
        text => Err(Unwell::Said(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(well: bool) -> Standing {
        let argv = vec!["true".to_owned()];
        let check = HealthCheck {
            argv,
            interval: 10_000,
            timeout: 1_000,
            retries: 3,
            start_period: 5_000,
        };
        Standing {
            check,
            well,
            failures: 0,
        }
    }

    fn bad() -> Result<(), Unwell> {
        Err(Unwell::Said("refused".to_owned()))
    }

    #[test]
    fn failures_in_a_row_end_a_task_unless_a_good_answer_comes() {
        let mut task = standing(true);
        let age = Duration::from_secs(60);
        assert_eq!(
            [bad(), bad(), Ok(()), bad(), bad()].map(|answer| task.judge(answer, age)),
            [None, None, Some(Verdict::Healthy), None, None]
        );
        assert_eq!(
            task.judge(bad(), age),
            Some(Verdict::Unhealthy("refused".to_owned()))
        );
    }

    #[test]
    fn a_task_never_well_gets_start_period_and_retries() {
        let mut task = standing(false);
        for age in [0, 4, 34] {
            assert_eq!(task.judge(bad(), Duration::from_secs(age)), None);
        }
        assert_eq!(task.pause(), EARLY);
        assert_eq!(
            task.judge(bad(), Duration::from_secs(36)),
            Some(Verdict::Unhealthy("refused".to_owned()))
        );
        assert_eq!(
            task.judge(Ok(()), Duration::from_secs(4)),
            Some(Verdict::Healthy)
        );
        assert_eq!(task.pause(), Duration::from_secs(10));
    }
}
