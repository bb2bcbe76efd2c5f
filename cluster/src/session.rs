//! A node's end of its session with the leader: updates its view, sends heartbeats and reports.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::{
    MESSAGE_LIMIT, decode, encode,
    proto::{Json, dispatcher_client::DispatcherClient},
};
use futures::{Stream, StreamExt};
use model::{Level, NodeReport, Reported, StateMachine, TaskReport, ViewError, level};
use tokio::{
    sync::{Notify, mpsc},
    time::{interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{Downward, Halt, Member, Upward, dispatcher, link::Target, raft::Seat};

/// How often a node says that it is alive.
const ALIVE_INTERVAL: Duration = Duration::from_millis(500);
/// Pause before the leader is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long the leader may take to open a session.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

type Downstream = std::pin::Pin<Box<dyn Stream<Item = Downward> + Send>>;

/// Reports on their way to the log.
#[derive(Default)]
pub(crate) struct Outbox {
    inner: Mutex<Reports>,
    filled: Notify,
}

#[derive(Default)]
struct Reports {
    waiting: Option<NodeReport>,
    sent: Option<(u64, NodeReport)>,
    sequence: u64,
    /// By this session's leader.
    known: Reported,
}

impl Outbox {
    /// Adds a report to what waits.
    pub(crate) fn put(&self, report: NodeReport) {
        self.change(|reports| {
            reports.known.keep(&report);
            reports.waiting = Some(merged(reports.waiting.take(), report));
        });
        self.filled.notify_one();
    }

    /// The next to send in a cluster of this level, if none is on its way.
    fn next(&self, level: Level) -> Option<Upward> {
        self.change(|reports| {
            if reports.sent.is_some() {
                return None;
            }
            let mut report = reports.waiting.take()?;
            if level >= Level::SHARED_VIEWS {
                (report, reports.waiting) = reports.known.news(report);
            }
            reports.sequence += 1;
            reports.sent = Some((reports.sequence, report.clone()));
            Some(Upward::Report {
                sequence: reports.sequence,
                report,
            })
        })
    }

    fn acknowledge(&self, sequence: u64) {
        self.change(|reports| {
            if let Some((_, report)) = reports.sent.take_if(|(sent, _)| *sent == sequence) {
                reports.known.acknowledge(report);
            }
        });
        self.filled.notify_one();
    }

    /// What was on its way may be lost: it is sent again. The next leader is told everything.
    fn restart(&self) {
        self.change(|reports| {
            reports.known = Reported::default();
            if let Some((_, lost)) = reports.sent.take() {
                reports.waiting = Some(match reports.waiting.take() {
                    Some(newer) => merged(Some(lost), newer),
                    None => lost,
                });
            }
        });
    }

    fn change<T>(&self, work: impl FnOnce(&mut Reports) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The newer report, and what the older one says of tasks that the newer one does not mention.
fn merged(older: Option<NodeReport>, mut newer: NodeReport) -> NodeReport {
    let mentioned = |task: &TaskReport| newer.tasks.iter().any(|other| other.task == task.task);
    let mut tasks = older.map_or_else(Vec::new, |older| older.tasks);
    tasks.retain(|task| !mentioned(task));
    tasks.append(&mut newer.tasks);
    NodeReport { tasks, ..newer }
}

/// Keeps a session with whoever leads, for as long as the member lives.
pub(crate) async fn run<S: StateMachine>(member: Member<S>) {
    let mut resume = true;
    loop {
        if let Ok(seat) = member.seat().await {
            match hold(&member, seat, resume).await {
                Ok(()) => resume = true,
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "this node's view could not be changed; it asks for the whole of it"
                    );
                    resume = false;
                }
            }
            member.outbox().restart();
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// One session. Errors: a change that does not fit the view that is here.
async fn hold<S: StateMachine>(
    member: &Member<S>,
    seat: Seat,
    resume: bool,
) -> Result<(), ViewError> {
    let (up, upward) = mpsc::channel(dispatcher::QUEUE);
    let view = member.current_view();
    let digest = if resume { view.digest() } else { String::new() };
    let hello = Upward::Hello {
        node: member.node(),
        generation: view.generation,
        digest,
        level: member.known(),
    };
    let _room_for_the_first = up.try_send(hello);
    let opened = timeout(
        OPEN_TIMEOUT,
        open(member, seat, ReceiverStream::new(upward)),
    )
    .await;
    let Ok(Some(mut downward)) = opened else {
        return Ok(());
    };
    let leader = if let Seat::There(node, _) = seat {
        node
    } else {
        member.node()
    };
    tracing::info!(%leader, "session opened");
    let mut alive = interval(ALIVE_INTERVAL);
    loop {
        let message = tokio::select! {
            message = downward.next() => match message {
                Some(message) => { receive(member, message).await?; continue }
                None => return Ok(()),
            },
            () = member.outbox().filled.notified() => None,
            _ = alive.tick() => Some(Upward::Alive),
        };
        let next = member.outbox().next(member.current_view().level);
        for message in message.into_iter().chain(next) {
            if up.send(message).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn open<S: StateMachine>(
    member: &Member<S>,
    seat: Seat,
    upward: ReceiverStream<Upward>,
) -> Option<Downstream> {
    let (node, address) = match seat {
        Seat::Here => {
            let consensus = member.consensus()?.clone();
            let downward = dispatcher::open(consensus, member.identity(), Box::pin(upward));
            return Some(decoded(downward));
        }
        Seat::There(node, address) => (node, address),
    };
    let channel = member.links().channel(Target {
        address,
        node: Some(node),
    });
    let mut client = DispatcherClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
    match client.session(upward.map(|message| encode(&message))).await {
        Ok(answer) => {
            let messages = answer.into_inner();
            let whole = messages.take_while(|message| std::future::ready(message.is_ok()));
            Some(decoded(whole.filter_map(async |message| message.ok())))
        }
        Err(status) => {
            tracing::debug!(leader = %address, reason = status.message(),
                "no session with the leader");
            None
        }
    }
}

/// Ends with a message that cannot be understood.
fn decoded(messages: impl Stream<Item = Json> + Send + 'static) -> Downstream {
    let messages = messages.map(|message| decode(&message).ok());
    let understood = messages.take_while(|message| std::future::ready(message.is_some()));
    Box::pin(understood.filter_map(std::future::ready))
}

async fn receive<S: StateMachine>(member: &Member<S>, message: Downward) -> Result<(), ViewError> {
    match message {
        Downward::Acknowledged { sequence } => {
            member.outbox().acknowledge(sequence);
            Ok(())
        }
        Downward::Change { delta } => {
            if let Err(error) = level::check("this node's view", delta.level, member.known()) {
                member.halt(Halt::TooNew(error));
                return Ok(());
            }
            member.own_view().change(delta).await
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{NodeId, TaskId, TaskState};

    use super::*;

    fn report(applied: u64, tasks: &[(u64, TaskState)]) -> NodeReport {
        let task = |&(task, state)| TaskReport::new(TaskId(task), state);
        NodeReport {
            tasks: tasks.iter().map(task).collect(),
            ..NodeReport::new(NodeId(1), applied)
        }
    }

    #[test]
    fn an_unacknowledged_report_is_sent_again_with_the_news() {
        let outbox = Outbox::default();
        outbox.put(report(
            1,
            &[(1, TaskState::Running), (2, TaskState::Running)],
        ));
        assert!(outbox.next(Level::FIRST).is_some());
        outbox.put(report(2, &[(2, TaskState::Failed)]));
        assert!(outbox.next(Level::FIRST).is_none(), "one at a time");
        outbox.restart();
        let Some(Upward::Report {
            sequence,
            report: sent,
        }) = outbox.next(Level::FIRST)
        else {
            panic!("nothing to send")
        };
        assert_eq!(
            sent,
            report(2, &[(1, TaskState::Running), (2, TaskState::Failed)])
        );
        outbox.acknowledge(sequence);
        assert!(outbox.next(Level::FIRST).is_none());
    }

    #[test]
    fn reports_carry_what_the_leader_does_not_know() {
        let outbox = Outbox::default();
        let next = || match outbox.next(Level::NEWEST) {
            Some(Upward::Report { sequence, report }) => (sequence, report),
            other => panic!("no report: {other:?}"),
        };
        let (running, failed) = (TaskState::Running, TaskState::Failed);
        outbox.put(report(1, &[(1, running), (2, running)]));
        let (sequence, _) = next();
        outbox.acknowledge(sequence);
        outbox.put(report(2, &[(1, running), (2, failed)]));
        let (sequence, sent) = next();
        assert_eq!(sent, report(2, &[(2, failed)]));
        outbox.acknowledge(sequence);
        outbox.put(report(3, &[(1, running), (2, failed)]));
        outbox.restart();
        assert_eq!(next().1, report(3, &[(1, running), (2, failed)]));
    }
}
