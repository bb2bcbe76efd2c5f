//! Group commit: commands that wait for the log at the same time share an entry, its flush to the
//! disk and its way to the other managers.

use std::{io, sync::Arc};

use model::{Batch, Command, Entry, EpochKey, Level, RequestId, Response, StateMachine};
use openraft::Raft;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Machine, Payload, Retry, Types, confirmed, now};

/// The most commands of one entry.
const COMMANDS: usize = 1_000;
/// The most bytes of one entry's commands; a larger command has an entry for itself. Each entry has
/// to reach the other managers within a heartbeat.
const BYTES: usize = 256 << 10;
/// Entries on their way to the log at the same time. While they are, the next one fills: with two,
/// entries were half as large, and a command cost the leader a seventh more.
const ENTRIES: usize = 1;
/// The same before [`Level::BATCHES`], where an entry has one command.
const SINGLE_ENTRIES: usize = 64;
/// Commands that may wait; who comes later waits for room.
const QUEUE: usize = 4 * COMMANDS;

/// The way into the log. Clones lead to the same log.
#[derive(Clone)]
pub(super) struct Commits {
    queue: mpsc::Sender<Waiting>,
}

struct Waiting {
    request: RequestId,
    command: Command,
    bytes: usize,
    answer: oneshot::Sender<Result<Response, Retry>>,
}

impl Commits {
    /// Starts to write; ends when its last clone is gone.
    pub(super) fn start<S: StateMachine>(raft: Raft<Types>, machine: Machine<S>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(write(raft, machine, waiting));
        Self { queue }
    }

    /// Puts a command into the log and waits for its answer.
    pub(super) async fn write(
        &self,
        request: RequestId,
        command: Command,
    ) -> Result<Response, Retry> {
        let (answer, answered) = oneshot::channel();
        let bytes = size(&command);
        let waiting = Waiting {
            request,
            command,
            bytes,
            answer,
        };
        let stopped = || Retry("this manager stops".to_owned());
        let written = async {
            self.queue.send(waiting).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())
        };
        confirmed(written).await?
    }
}

/// How many bytes of JSON a command is.
pub(crate) fn size(command: &Command) -> usize {
    let mut counted = Count(0);
    match serde_json::to_writer(&mut counted, command) {
        Ok(()) => counted.0,
        Err(_) => 0,
    }
}

/// Counts bytes, and keeps none.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn write<S: StateMachine>(
    raft: Raft<Types>,
    machine: Machine<S>,
    mut queue: mpsc::Receiver<Waiting>,
) {
    let turns = Arc::new(Semaphore::new(SINGLE_ENTRIES));
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let level = machine.read(StateMachine::level);
        let share = if level < Level::BATCHES {
            1
        } else {
            SINGLE_ENTRIES / ENTRIES
        };
        let Ok(turn) = turns.clone().acquire_many_owned(share as u32).await else {
            return;
        };
        let group;
        (group, next) = gather(first, &mut queue, Batch::limit(level, COMMANDS));
        let raft = raft.clone();
        tokio::spawn(async move {
            commit(&raft, level, group).await;
            drop(turn);
        });
    }
}

/// What waits, as far as one entry takes it, and the first command that does not fit.
fn gather(
    first: Waiting,
    queue: &mut mpsc::Receiver<Waiting>,
    most: usize,
) -> (Vec<Waiting>, Option<Waiting>) {
    let mut bytes = first.bytes;
    let mut group = vec![first];
    while group.len() < most {
        let Ok(waiting) = queue.try_recv() else { break };
        if waiting.answer.is_closed() {
            // Nobody waits for it any more, and whoever issued it asks again.
            continue;
        }
        bytes += waiting.bytes;
        if bytes > BYTES {
            return (group, Some(waiting));
        }
        group.push(waiting);
    }
    (group, None)
}

async fn commit(raft: &Raft<Types>, level: Level, group: Vec<Waiting>) {
    let now = now();
    let mut entries = Vec::with_capacity(group.len());
    let mut answers = Vec::with_capacity(group.len());
    let mut needed = level;
    for waiting in group {
        let command = waiting.command;
        needed = needed.max(command.level());
        let chance = command
            .needs_chance(level)
            .then(|| EpochKey::new(rand::random()));
        entries.push(Entry {
            request: waiting.request,
            now,
            chance,
            command,
        });
        answers.push(waiting.answer);
    }
    let batch = Batch {
        level: needed,
        entries,
    };
    let written = async {
        let payload = Payload::new(batch).map_err(|error| error.to_string())?;
        let written = raft.client_write(payload).await;
        written.map_err(|error| error.to_string())
    };
    match confirmed(written).await {
        Ok(written) => {
            for (answer, response) in answers.into_iter().zip(written.data) {
                let _gone = answer.send(Ok(response));
            }
        }
        Err(Retry(reason)) => {
            for answer in answers {
                let _gone = answer.send(Err(Retry(reason.clone())));
            }
        }
    }
}
