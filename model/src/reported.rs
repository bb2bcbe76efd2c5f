//! What a node's leader knows of its tasks, so that reports carry what has changed only.

use std::collections::{BTreeMap, BTreeSet};

use crate::{NodeReport, TaskId, TaskReport};

/// The most tasks of one report, and about the most bytes of them. The rest follows in the next.
const TASKS: usize = 256;
const BYTES: usize = 32 << 10;
/// Bytes of a task's report beside its texts, at most.
const OVERHEAD: usize = 160;

/// The reports that were acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    tasks: BTreeMap<TaskId, TaskReport>,
}

impl Reported {
    /// Forgets tasks that the node has nothing to say of any more. `report` is of all its tasks.
    pub fn keep(&mut self, report: &NodeReport) {
        let there: BTreeSet<TaskId> = report.tasks.iter().map(|word| word.task).collect();
        self.tasks.retain(|task, _| there.contains(task));
    }

    /// What is new in a report, as much as fits into one, and what is left.
    pub fn news(&self, report: NodeReport) -> (NodeReport, Option<NodeReport>) {
        let head = NodeReport {
            tasks: Vec::new(),
            ..report.clone()
        };
        let (mut first, mut rest) = (head.clone(), head);
        let mut bytes = 0;
        for word in report.tasks {
            if self.tasks.get(&word.task) == Some(&word) {
                continue;
            }
            bytes += length(&word) + OVERHEAD;
            let is_full = first.tasks.len() == TASKS || bytes > BYTES;
            if is_full && !first.tasks.is_empty() {
                rest.tasks.push(word);
            } else {
                first.tasks.push(word);
            }
        }
        let rest = Some(rest).filter(|rest| !rest.tasks.is_empty());
        (first, rest)
    }

    /// The leader has this report in its log.
    pub fn acknowledge(&mut self, report: NodeReport) {
        let words = report.tasks.into_iter();
        self.tasks.extend(words.map(|word| (word.task, word)));
    }
}

/// Bytes of its texts.
fn length(word: &TaskReport) -> usize {
    let why = word.why.as_ref();
    let why = why.map_or(0, |why| why.object.len() + why.cause.len() + why.next.len());
    word.message.len() + why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeId, TaskState};

    fn report(tasks: impl IntoIterator<Item = (u64, TaskState)>) -> NodeReport {
        let words = tasks.into_iter();
        NodeReport {
            tasks: words
                .map(|(task, state)| TaskReport::new(TaskId(task), state))
                .collect(),
            ..NodeReport::new(NodeId(1), 7)
        }
    }

    #[test]
    fn news_are_what_was_not_acknowledged() {
        let (running, failed) = (TaskState::Running, TaskState::Failed);
        let mut known = Reported::default();
        let all = report([(1, running), (2, running)]);
        assert_eq!(known.news(all.clone()), (all.clone(), None));
        known.acknowledge(all.clone());
        assert_eq!(known.news(all), (report([]), None));
        let later = report([(1, running), (2, failed), (3, running)]);
        let news = report([(2, failed), (3, running)]);
        assert_eq!(known.news(later.clone()), (news, None));
        known.keep(&report([(2, running)]));
        assert_eq!(known.news(later.clone()), (later, None));
    }

    #[test]
    fn long_reports_are_cut() {
        let known = Reported::default();
        let all = report((0..1_000).map(|task| (task, TaskState::Running)));
        let mut left = Some(all.clone());
        let mut told = Vec::new();
        while let Some(report) = left.take() {
            let (first, rest) = known.news(report);
            assert!(!first.tasks.is_empty() && first.tasks.len() <= TASKS);
            told.extend(first.tasks);
            left = rest;
        }
        assert_eq!(told, all.tasks);
        let mut long = report([(1, TaskState::Failed), (2, TaskState::Failed)]);
        long.tasks[0].message = "x".repeat(2 * BYTES);
        let (first, rest) = known.news(long);
        assert_eq!((first.tasks.len(), rest.unwrap().tasks.len()), (1, 1));
    }
}
