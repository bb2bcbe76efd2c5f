//! `exec` and `logs` for any task of the cluster: answered here if the task is here, else relayed
//! to its host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use agent::{Input, Output, Source, Start, Until};
use api::{
    Examine, Examined, decode, encode,
    proto::{
        ExecInput, ExecOutput, ExecStart, Json, LogLine, LogsRequest,
        agent_client::AgentClient,
        agent_server::{Agent, AgentServer},
        exec_input, exec_output,
    },
};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use model::{Kind, NodeId, Question, Refusal, TaskId, TaskState, other_version};
use tonic::{Code, Request, Response, Status, Streaming, service::Routes, transport::Channel};

use crate::{cluster::ask, daemon::Daemon, examine};

/// Header of a relayed request: the receiving host answers it and never relays it again.
const RELAYED: &str = "netd-relayed";

/// What `Exec` answers.
type ExecStream = BoxStream<'static, Result<ExecOutput, Status>>;
/// What `Logs` answers.
type LogStream = BoxStream<'static, Result<LogLine, Status>>;

/// Answers for every task of the cluster.
#[derive(Clone)]
pub(crate) struct Relay {
    daemon: Arc<Daemon>,
}

/// What a member's TCP listener serves besides the cluster's own.
pub(crate) fn routes(daemon: &Arc<Daemon>) -> Routes {
    Routes::new(Relay::new(daemon.clone()).service())
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// A program on this host.
    Client,
    /// The netd of another host, which has found that the task is here.
    Member,
}

impl Caller {
    fn of<T>(request: &Request<T>) -> Self {
        if request.metadata().contains_key(RELAYED) {
            Self::Member
        } else {
            Self::Client
        }
    }
}

/// Where a task is.
enum Place {
    Here,
    There(NodeId),
}

impl Relay {
    /// Of this daemon.
    pub(crate) fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }

    /// As a gRPC service.
    pub(crate) fn service(self) -> AgentServer<Self> {
        AgentServer::new(self)
    }

    /// The task of this name or id. A running one of this host is found without asking any manager.
    async fn locate(&self, name: &str) -> Result<(TaskId, Place), Refusal> {
        let config = self.daemon.desired.borrow().clone();
        let here = config.tasks.iter().find(|(id, task)| {
            task.desired == TaskState::Running && (task.name() == name || id.to_string() == name)
        });
        if let Some((&id, _)) = here {
            return Ok((id, Place::Here));
        }
        let member = self.daemon.member()?;
        let task = ask(&member, Question::task(name)).await?;
        let homeless = || {
            let next = format!("`swarmctl service ps {}` says why", task.service);
            Refusal::new(
                Kind::Precondition,
                format!("task {} is {} and has no node yet", task.name, task.state),
                next,
            )
        };
        let node = task.node_id.ok_or_else(homeless)?;
        Ok((
            task.id,
            if node == member.node() {
                Place::Here
            } else {
                Place::There(node)
            },
        ))
    }

    async fn client(&self, node: NodeId) -> Result<AgentClient<Channel>, Refusal> {
        let member = self.daemon.member()?;
        let known = self
            .daemon
            .desired
            .borrow()
            .peers
            .get(&node)
            .map(|peer| peer.address);
        let address: SocketAddr = match known {
            Some(address) => address,
            None => {
                ask(&member, Question::node(node.to_string()))
                    .await?
                    .address
            }
        };
        let channel = member.channel(address, Some(node)).await.map_err(|error| {
            Refusal::new(
                Kind::Unavailable,
                format!("node {node} does not answer: {error}"),
                "`swarmctl node ls` shows its status",
            )
            .about(format!("node {node}"))
        })?;
        Ok(AgentClient::new(channel))
    }

    async fn start(
        &self,
        mut start: ExecStart,
        caller: Caller,
        input: impl Stream<Item = Result<ExecInput, Status>> + Send + 'static,
    ) -> Result<ExecStream, Refusal> {
        let executor = &self.daemon.executor;
        let (task, place) = match caller {
            Caller::Member => (executor.find(&start.task)?, Place::Here),
            Caller::Client => self.locate(&start.task).await?,
        };
        let node = match place {
            Place::Here => {
                let start = Start {
                    name: start.task,
                    argv: start.argv,
                    env: start.env,
                };
                let input = input
                    .filter_map(|piece| std::future::ready(said(piece)))
                    .boxed();
                let output = executor.exec(task, start, input);
                return Ok(output.map(|output| Ok(part(output))).boxed());
            }
            Place::There(node) => node,
        };
        start.task = task.to_string();
        let first = ExecInput {
            part: Some(exec_input::Part::Start(start)),
        };
        // A client that fails ends its input: the far end then kills what it runs.
        let rest = input
            .take_while(|part| std::future::ready(part.is_ok()))
            .filter_map(|part| async { part.ok() });
        let request = relay(stream::once(async { first }).chain(rest));
        match self.client(node).await?.exec(request).await {
            Ok(response) => Ok(Box::pin(response.into_inner())),
            Err(status) => Err(lost(&status)),
        }
    }

    /// The lines of these tasks, from all their hosts.
    async fn collect(&self, request: LogsRequest, caller: Caller) -> Result<LogStream, Refusal> {
        let mut by_place: BTreeMap<Option<NodeId>, BTreeSet<TaskId>> = BTreeMap::new();
        for name in &request.tasks {
            let (task, place) = match caller {
                Caller::Member => (name.parse().map_err(|_| odd())?, Place::Here),
                Caller::Client => self.locate(name).await?,
            };
            let node = if let Place::There(node) = place {
                Some(node)
            } else {
                None
            };
            by_place.entry(node).or_default().insert(task);
        }
        let mut streams: Vec<LogStream> = Vec::new();
        for (node, tasks) in by_place {
            streams.push(match node {
                None => {
                    let until = if request.follow {
                        Until::Removed
                    } else {
                        Until::Now
                    };
                    let tasks: Vec<TaskId> = tasks.into_iter().collect();
                    let lines = self.daemon.executor.logs(&tasks, until, request.tail);
                    lines.map(|line| Ok(log_line(line))).boxed()
                }
                Some(node) => {
                    let tasks = tasks.iter().map(ToString::to_string).collect();
                    let request = relay(LogsRequest { tasks, ..request });
                    match self.client(node).await {
                        Ok(mut client) => match client.logs(request).await {
                            Ok(response) => Box::pin(response.into_inner()),
                            Err(status) => return Err(lost(&status)),
                        },
                        // One host that is down must not hide the others' lines.
                        Err(refusal) => {
                            let next = &refusal.next;
                            tracing::warn!(%node, %refusal, next, "logs of a host are missing");
                            continue;
                        }
                    }
                }
            });
        }
        Ok(Box::pin(stream::select_all(streams)))
    }
}

impl Relay {
    /// What can be seen of a node, seen there.
    async fn examine(&self, request: Examine, caller: Caller) -> Result<Examined, Refusal> {
        if caller == Caller::Member || request.node == self.daemon.member()?.node() {
            return examine::look(&self.daemon, request.subject).await;
        }
        match self
            .client(request.node)
            .await?
            .examine(relay(encode(&request)))
            .await
        {
            Ok(response) => decode(response.get_ref()).unwrap_or_else(|_| Err(odd())),
            Err(status) => Err(lost(&status)),
        }
    }
}

/// What a client says, for an executor; `None` if that is nothing.
fn said(piece: Result<ExecInput, Status>) -> Option<Input> {
    match piece.map(|piece| piece.part) {
        Ok(Some(exec_input::Part::Stdin(bytes))) => Some(Input::Bytes(bytes)),
        Ok(Some(exec_input::Part::StdinClosed(true))) => Some(Input::Closed),
        Ok(_) => None,
        Err(_) => Some(Input::Lost),
    }
}

fn part(output: Output) -> ExecOutput {
    let part = match output {
        Output::Stdout(bytes) => exec_output::Part::Stdout(bytes),
        Output::Stderr(bytes) => exec_output::Part::Stderr(bytes),
        Output::Exited(code) => exec_output::Part::ExitCode(code),
        Output::Refused(refusal) => exec_output::Part::Refusal(encode(&refusal).json),
    };
    ExecOutput { part: Some(part) }
}

fn log_line(line: agent::LogLine) -> LogLine {
    LogLine {
        task: line.task.to_string(),
        time: line.time,
        stderr: line.source == Source::Stderr,
        line: line.line,
    }
}

fn relay<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(RELAYED, tonic::metadata::MetadataValue::from_static("1"));
    request
}

fn odd() -> Refusal {
    other_version("the node")
}

fn lost(status: &Status) -> Refusal {
    if let Ok(refusal) = serde_json::from_slice(status.details()) {
        return refusal;
    }
    Refusal::new(
        Kind::Unavailable,
        format!("the node that was asked refused: {}", status.message()),
        "try again; `swarmctl node ls` shows its status",
    )
}

#[tonic::async_trait]
impl Agent for Relay {
    async fn examine(&self, request: Request<Json>) -> Result<Response<Json>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(encode(
            &self.examine(decode(request.get_ref())?, caller).await,
        )))
    }

    type ExecStream = ExecStream;
    type LogsStream = LogStream;

    async fn exec(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<ExecStream>, Status> {
        let caller = Caller::of(&request);
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|input| input.part);
        let Some(exec_input::Part::Start(start)) = first else {
            return Err(Status::invalid_argument(
                "the first part of an Exec stream must be the command",
            ));
        };
        let stream = self
            .start(start, caller, input)
            .await
            .unwrap_or_else(|refusal| {
                let part = Some(exec_output::Part::Refusal(encode(&refusal).json));
                Box::pin(stream::iter([Ok(ExecOutput { part })]))
            });
        Ok(Response::new(stream))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<LogStream>, Status> {
        let caller = Caller::of(&request);
        let collected = self.collect(request.into_inner(), caller).await;
        collected
            .map(Response::new)
            .map_err(|refusal| refused(&refusal))
    }
}

/// A refusal as the end of a stream: its fields are the details, its text is for older callers.
fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.kind {
        Kind::NotFound => Code::NotFound,
        Kind::Unavailable => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    Status::with_details(code, refusal.in_full(), encode(refusal).json.into())
}
