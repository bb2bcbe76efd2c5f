//! Requests to the local netd, repeated while it restarts.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use api::{
    Examine, Examined, InitRequest, JoinRequest, LeaveRequest, LocalError, Proposal, Standing,
    Subject,
    proto::{
        Json, agent_client::AgentClient, control_client::ControlClient, local_client::LocalClient,
    },
};
use model::{
    Answer, Command, Kind, NetworkInfo, NodeId, NodeInfo, Outcome, Query, Refusal, RequestId, Role,
    ServiceInfo, TaskInfo, TokenInfo, ViewInfo,
};
use serde::de::DeserializeOwned;
use tonic::{Code, Response, Status, transport::Channel};

/// How long one request may take, the daemon's own search for a leader included.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long a daemon that went away may take to come back.
const RETURN_LIMIT: Duration = Duration::from_secs(10);
/// How long swarmctl waits for a netd whose socket exists but refuses connections.
const LISTEN_LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// The local daemon.
#[derive(Clone)]
pub struct Daemon {
    socket: PathBuf,
    channel: Channel,
}

impl Daemon {
    /// Connects to the daemon. If the socket exists but refuses connections, waits a little: netd
    /// may be restarting.
    pub async fn connect(socket: &Path) -> Result<Self, LocalError> {
        let start = Instant::now();
        loop {
            match api::connect(socket).await {
                Ok(channel) => {
                    return Ok(Self {
                        socket: socket.to_owned(),
                        channel,
                    });
                }
                Err(error) if start.elapsed() > LISTEN_LIMIT || !socket.exists() => {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Proposes a command. Repeated with the same request id while the daemon restarts, so it is
    /// executed once.
    pub async fn propose(&self, command: Command) -> Result<Outcome> {
        let payload = api::encode(&Proposal {
            request: RequestId(rand::random()),
            command,
        });
        let call =
            |channel, payload| async move { ControlClient::new(channel).propose(payload).await };
        self.insist::<model::Response, _>(payload, call)
            .await?
            .map_err(Into::into)
    }

    /// Every node, or one: `Query::Nodes`, `Query::Node`.
    pub async fn nodes(&self, query: Query) -> Result<Vec<NodeInfo>> {
        match self.ask(query).await? {
            Answer::Nodes(nodes) => Ok(nodes),
            other => Err(unexpected(&other)),
        }
    }

    /// Every network, or one: `Query::Networks`, `Query::Network`.
    pub async fn networks(&self, query: Query) -> Result<Vec<NetworkInfo>> {
        match self.ask(query).await? {
            Answer::Networks(networks) => Ok(networks),
            other => Err(unexpected(&other)),
        }
    }

    /// Every service, or one: `Query::Services`, `Query::Service`.
    pub async fn services(&self, query: Query) -> Result<Vec<ServiceInfo>> {
        match self.ask(query).await? {
            Answer::Services(services) => Ok(services),
            other => Err(unexpected(&other)),
        }
    }

    /// Tasks: `Query::Tasks`, `Query::Task`.
    pub async fn tasks(&self, query: Query) -> Result<Vec<TaskInfo>> {
        match self.ask(query).await? {
            Answer::Tasks(tasks) => Ok(tasks),
            other => Err(unexpected(&other)),
        }
    }

    /// A role's join token.
    pub async fn token(&self, role: Role) -> Result<TokenInfo> {
        match self.ask(Query::Token(role)).await? {
            Answer::Token(token) => Ok(token),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a cluster of this host.
    pub async fn init(&self, request: &InitRequest) -> Result<Standing> {
        let answer = self.once(self.local().init(api::encode(request)).await)?;
        api::decode::<Result<Standing, Refusal>>(&answer)?.map_err(Into::into)
    }

    /// Joins this host to a cluster.
    pub async fn join(&self, request: &JoinRequest) -> Result<Standing> {
        let answer = self.once(self.local().join(api::encode(request)).await)?;
        api::decode::<Result<Standing, Refusal>>(&answer)?.map_err(Into::into)
    }

    /// Takes this host out of its cluster.
    pub async fn leave(&self, request: &LeaveRequest) -> Result<()> {
        let answer = self.once(self.local().leave(api::encode(request)).await)?;
        api::decode::<Result<(), Refusal>>(&answer)?.map_err(Into::into)
    }

    /// This host's membership and the state of its kernel.
    pub async fn status(&self) -> Result<Standing> {
        self.insist(api::encode(&()), |channel, payload| async move {
            LocalClient::new(channel).status(payload).await
        })
        .await
    }

    /// Internal state of this host's netd.
    pub async fn debug(&self, what: api::Debug) -> Result<String> {
        let answer = self.once(self.local().debug(api::encode(&what)).await)?;
        api::decode::<Result<String, Refusal>>(&answer)?.map_err(Into::into)
    }

    /// What a node must look like: `Query::View`.
    pub async fn view(&self, node: NodeId) -> Result<ViewInfo> {
        match self.ask(Query::View(node.to_string())).await? {
            Answer::View(view) => Ok(view),
            other => Err(unexpected(&other)),
        }
    }

    /// Inconsistencies of the ledger, one sentence each.
    pub async fn ledger(&self) -> Result<Vec<String>> {
        match self.ask(Query::Ledger).await? {
            Answer::Ledger(findings) => Ok(findings),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks one node about its kernel, peers or traffic.
    pub async fn examine(&self, node: NodeId, subject: Subject) -> Result<Examined> {
        let call =
            |channel, payload| async move { AgentClient::new(channel).examine(payload).await };
        let request = api::encode(&Examine { node, subject });
        self.insist::<Result<Examined, Refusal>, _>(request, call)
            .await?
            .map_err(Into::into)
    }

    /// Streams to and from tasks.
    pub fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
    }

    /// Explains a broken stream or call to the user.
    pub fn broken(&self, status: &Status) -> anyhow::Error {
        let path = self.socket.display();
        match status.code() {
            Code::InvalidArgument | Code::Unimplemented => Refusal::new(
                Kind::Invalid,
                format!(
                    "netd at {path} does not understand the request: {}",
                    status.message()
                ),
                "give swarmctl and netd the same version",
            ),
            _ => Refusal::new(
                Kind::Unavailable,
                format!(
                    "netd at {path} closed the connection during the request: {}",
                    status.message()
                ),
                "read netd's log (`journalctl -u netd`), restart netd, and check whether the \
                 change was made before you repeat the command",
            ),
        }
        .into()
    }

    fn local(&self) -> LocalClient<Channel> {
        LocalClient::new(self.channel.clone())
    }

    fn once(&self, result: Result<Response<Json>, Status>) -> Result<Json> {
        result
            .map(Response::into_inner)
            .map_err(|status| self.broken(&status))
    }

    async fn ask(&self, query: Query) -> Result<Answer> {
        let call =
            |channel, payload| async move { ControlClient::new(channel).query(payload).await };
        self.insist::<Result<Answer, Refusal>, _>(api::encode(&query), call)
            .await?
            .map_err(Into::into)
    }

    /// Sends an idempotent request, repeatedly while the daemon is away.
    async fn insist<T, F>(&self, payload: Json, call: impl Fn(Channel, Json) -> F) -> Result<T>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<Response<Json>, Status>>,
    {
        let mut away = None;
        loop {
            let attempt =
                tokio::time::timeout(REQUEST_LIMIT, call(self.channel.clone(), payload.clone()));
            let status = match attempt.await {
                Ok(Ok(answer)) => return Ok(api::decode(answer.get_ref())?),
                Ok(Err(status)) => status,
                Err(_) => return Err(self.silent()),
            };
            let since = *away.get_or_insert_with(Instant::now);
            if !is_passing(status.code()) || since.elapsed() > RETURN_LIMIT {
                return Err(self.broken(&status));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn silent(&self) -> anyhow::Error {
        Refusal::new(
            Kind::Unavailable,
            format!(
                "netd at {} has not answered within {} s",
                self.socket.display(),
                REQUEST_LIMIT.as_secs()
            ),
            "read netd's log (`journalctl -u netd`), and check whether the change was made before \
             you repeat the command",
        )
        .into()
    }
}

/// What tonic reports of a connection that broke, or of a daemon that is not there.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted
    )
}

fn unexpected(answer: &Answer) -> anyhow::Error {
    anyhow::anyhow!(
        "netd sent an answer of another kind: {answer:?}\n  next: give swarmctl and netd the same \
         version"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use api::proto::control_server::{Control, ControlServer};
    use model::ServiceId;
    use tokio::{net::UnixListener, sync::oneshot, task::JoinHandle};
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, transport::Server};

    use model::ServiceCommand;

    use super::*;

    /// Takes a proposal down and answers the second one: the first caller is left alone.
    #[derive(Clone, Default)]
    struct Forgetful {
        seen: Arc<Mutex<Vec<RequestId>>>,
        died: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    }

    #[tonic::async_trait]
    impl Control for Forgetful {
        async fn propose(&self, request: Request<Json>) -> Result<Response<Json>, Status> {
            let proposal: Proposal = api::decode(request.get_ref())?;
            self.seen.lock().unwrap().push(proposal.request);
            let died = self.died.lock().unwrap().take();
            if let Some(died) = died {
                died.send(()).unwrap();
                std::future::pending::<()>().await;
            }
            Ok(Response::new(api::encode::<model::Response>(&Ok(
                Outcome::Service(ServiceId(1)),
            ))))
        }

        async fn query(&self, _: Request<Json>) -> Result<Response<Json>, Status> {
            Err(Status::unimplemented("no questions"))
        }
    }

    fn serve(socket: &Path, control: Forgetful) -> JoinHandle<()> {
        let _ = std::fs::remove_file(socket);
        let connections = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let server = Server::builder()
            .add_service(ControlServer::new(control))
            .serve_with_incoming(connections);
        tokio::spawn(async move { server.await.unwrap() })
    }

    #[tokio::test]
    async fn a_dead_daemon_is_asked_again_with_the_same_request_id() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("netd.sock");
        let (died, death) = oneshot::channel();
        let control = Forgetful {
            died: Arc::new(Mutex::new(Some(died))),
            ..Forgetful::default()
        };
        // Connections end with the runtime that serves them, as with a process.
        let first = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        first.spawn({
            let (socket, control) = (socket.clone(), control.clone());
            async move { serve(&socket, control).await }
        });
        let client = tokio::spawn(async move {
            while !socket.exists() {
                tokio::task::yield_now().await;
            }
            let daemon = Daemon::connect(&socket).await.unwrap();
            daemon
                .propose(Command::Service(ServiceCommand::Remove {
                    service: "web".into(),
                }))
                .await
        });
        death.await.unwrap();
        first.shutdown_background();
        let _second = serve(&directory.path().join("netd.sock"), control.clone());
        assert_eq!(
            client.await.unwrap().unwrap(),
            Outcome::Service(ServiceId(1))
        );
        let seen = control.seen.lock().unwrap().clone();
        assert!(
            seen.len() >= 2 && seen.iter().all(|request| *request == seen[0]),
            "{seen:?}"
        );
    }

    #[tokio::test]
    async fn no_daemon_is_an_error_with_a_next_step() {
        let error = Daemon::connect(Path::new("/nonexistent/netd.sock"))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("netd does not answer at /nonexistent/netd.sock")
                && error.contains("next: "),
            "{error}"
        );
    }
}
