//! Watching the cluster: what is there, then what changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::proto::Json;
use model::{
    Begin, Change, Facts, Failure, Fate, Filter, Kind, ObjectRef, Progress, Question, ServiceInfo,
    TaskFacts, TaskId, TaskInfo, Watch, Watched,
};
use tonic::Streaming;

use crate::daemon::Daemon;

/// Interval of questions where the cluster cannot be watched.
const PAUSE: Duration = Duration::from_millis(250);

/// What a watch is told.
pub(crate) struct Told {
    daemon: Daemon,
    messages: Streaming<Json>,
}

impl Told {
    /// The next word. `None`: nothing follows. Errors: the daemon has ended, or the cluster cannot
    /// tell any more.
    pub(crate) async fn next(&mut self) -> Result<Option<Watched>, Failure> {
        let message = self.messages.message().await;
        let message = message.map_err(|status| self.daemon.broken(&status))?;
        let Some(message) = message else {
            return Ok(None);
        };
        match api::decode::<Result<Watched, Failure>>(&message)?? {
            Watched::Ends => Ok(None),
            watched => Ok(Some(watched)),
        }
    }
}

/// Watches the cluster. Errors: the daemon does not answer, or cannot be watched.
pub(crate) async fn watch(daemon: &Daemon, watch: &Watch) -> Result<Told, Failure> {
    let opened = daemon.open_watch(watch).await;
    let messages = opened.map_err(|status| daemon.broken(&status))?;
    Ok(Told {
        daemon: daemon.clone(),
        messages,
    })
}

/// A service as it is followed: how far it is, and its tasks.
pub(crate) struct Followed {
    daemon: Daemon,
    /// By id: another service may take the name.
    service: String,
    source: Source,
    /// How far the service is; `None` before that is known.
    pub progress: Option<Progress>,
    /// Its tasks, ended ones included.
    pub tasks: BTreeMap<TaskId, TaskFacts>,
    /// It is removed.
    pub gone: bool,
}

enum Source {
    Told(Box<Told>),
    /// Whoever cannot be watched is asked: a leader of the previous version, a daemon that has
    /// restarted.
    Asked,
}

/// Follows a service, by id. Errors: there is none, or the daemon does not answer.
pub(crate) async fn follow(daemon: &Daemon, service: &str) -> Result<Followed, Failure> {
    let watch = Watch {
        filter: Filter {
            services: BTreeSet::from([service.to_owned()]),
            ..Filter::default()
        },
        begin: Begin::Snapshot,
        until: None,
        status_of: Some(service.to_owned()),
    };
    let source = match daemon.open_watch(&watch).await {
        Ok(messages) => Source::Told(Box::new(Told {
            daemon: daemon.clone(),
            messages,
        })),
        Err(_) => Source::Asked,
    };
    let mut followed = Followed {
        daemon: daemon.clone(),
        service: service.to_owned(),
        source,
        progress: None,
        tasks: BTreeMap::new(),
        gone: false,
    };
    while followed.progress.is_none() && !followed.gone {
        followed.change().await?;
    }
    Ok(followed)
}

impl Followed {
    /// Waits until something has changed. Errors: there is no such service, or the daemon cannot
    /// tell any more.
    pub(crate) async fn change(&mut self) -> Result<(), Failure> {
        let Source::Told(told) = &mut self.source else {
            if self.progress.is_some() {
                tokio::time::sleep(PAUSE).await;
            }
            return self.ask().await;
        };
        match told.next().await {
            Ok(Some(watched)) => self.learn(watched),
            // The answer to a question says what is wrong, if it still is: questions are repeated
            // while the daemon restarts or the leader changes.
            Ok(None) | Err(_) => self.source = Source::Asked,
        }
        Ok(())
    }

    fn learn(&mut self, watched: Watched) {
        match watched {
            Watched::Present(changes) | Watched::Changes { changes, .. } => {
                for change in changes {
                    self.learn_one(change);
                }
            }
            Watched::Status(progress) => self.progress = Some(*progress),
            Watched::Begins { .. } | Watched::Lost { .. } | Watched::Ends => {}
        }
    }

    fn learn_one(&mut self, change: Change) {
        match (change.object, change.facts, change.fate) {
            (ObjectRef::Task(id), _, Fate::Removed) => drop(self.tasks.remove(&id)),
            (ObjectRef::Task(id), Facts::Task(task), _) => drop(self.tasks.insert(id, task)),
            (ObjectRef::Service(_), _, Fate::Removed) => self.gone = true,
            _ => {}
        }
    }

    async fn ask(&mut self) -> Result<(), Failure> {
        let service = self.daemon.ask(Question::service(&self.service)).await;
        let service = match service {
            Err(failure) if failure.kind == Kind::NotFound && self.progress.is_some() => {
                self.gone = true;
                return Ok(());
            }
            service => service?,
        };
        let tasks = self.daemon.ask(Question::tasks_of(&self.service)).await?;
        let told = tasks.iter().map(|task| (task.id, facts(&service, task)));
        self.tasks = told.collect();
        self.progress = Some(Progress {
            service,
            waiting: None,
        });
        Ok(())
    }
}

/// A task as it would be told of.
fn facts(service: &ServiceInfo, task: &TaskInfo) -> TaskFacts {
    TaskFacts {
        name: task.name.clone(),
        service: service.id,
        service_name: service.spec.name.clone(),
        slot: task.slot,
        node: task.node_id,
        hostname: task.node.clone(),
        state: task.state,
        desired: task.desired_state,
        withdrawn: task.withdrawn,
        message: task.message.clone(),
        why: task.why.clone(),
        exit_code: task.exit_code,
        since: task.since,
    }
}
