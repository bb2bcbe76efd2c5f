//! The gRPC service `Agent` for tasks of this host.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::Pin,
};

use api::proto::{ExecInput, ExecOutput, LogLine, LogsRequest, agent_server::Agent, exec_input};
use futures::{Stream, StreamExt};
use model::{Kind, Refusal, TaskId};
use tonic::{Request, Response, Status, Streaming};

use super::{
    directory::TaskDirectory,
    exec::{exec, refused},
    logs::logs,
};

/// What `Exec` answers.
pub type ExecStream = Pin<Box<dyn Stream<Item = Result<ExecOutput, Status>> + Send>>;
/// What `Logs` answers.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogLine, Status>> + Send>>;

/// Answers for the tasks whose directories are here.
#[derive(Clone, Debug)]
pub struct AgentService {
    directory: PathBuf,
    program: PathBuf,
}

impl AgentService {
    /// For the tasks in `directory`; `program` is `netd` itself, as `/proc/self/exe`.
    pub fn new(directory: PathBuf, program: PathBuf) -> Self {
        Self { directory, program }
    }
}

/// The task of this name (`web.1`: its newest run) or id among those whose directories are here.
pub fn find(directory: &Path, name: &str) -> Result<TaskId, Refusal> {
    let unknown = || Refusal::not_found("task on this host called", name, "swarmctl service ps");
    if let Ok(task) = name.parse::<TaskId>() {
        return if TaskDirectory::of(directory, task).path().exists() { Ok(task) } else { Err(unknown()) };
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let tasks = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<TaskId>().ok());
    let named = tasks.filter(|task| TaskDirectory::of(directory, *task).spec().is_ok_and(|spec| spec.name == name));
    let made = |task: &TaskId| fs::metadata(TaskDirectory::of(directory, *task).path().join("spec.json"))?.modified();
    named.max_by_key(|task| made(task).ok()).ok_or_else(unknown)
}

#[tonic::async_trait]
impl Agent for AgentService {
    type ExecStream = ExecStream;
    type LogsStream = LogStream;

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Result<Response<ExecStream>, Status> {
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|input| input.part);
        let Some(exec_input::Part::Start(start)) = first else {
            return Err(Status::invalid_argument("the first part of Exec says what to start"));
        };
        let stream: ExecStream = match find(&self.directory, &start.task) {
            Ok(task) => Box::pin(exec(&self.directory, &self.program, task, start, input).await.map(Ok)),
            Err(refusal) => Box::pin(futures::stream::iter([Ok(refused(&refusal))])),
        };
        Ok(Response::new(stream))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<LogStream>, Status> {
        let LogsRequest { tasks, follow, tail } = request.into_inner();
        let tasks = tasks.iter().map(|task| find(&self.directory, task)).collect::<Result<Vec<_>, _>>();
        let tasks = tasks.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(Box::pin(logs(&self.directory, &tasks, follow, tail).map(Ok))))
    }
}

fn status(refusal: &Refusal) -> Status {
    match refusal.kind {
        Kind::NotFound => Status::not_found(refusal.to_string()),
        _ => Status::failed_precondition(refusal.to_string()),
    }
}
