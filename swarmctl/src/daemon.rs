//! Requests to the local netd, repeated while it restarts.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use api::{
    Examine, Examined, InitRequest, JoinRequest, LeaveRequest, Look, Proposal, Standing, lists,
    proto::{
        Json, agent_client::AgentClient, control_client::ControlClient, local_client::LocalClient,
    },
};
use model::{
    Answer, Command, Failure, Kind, NodeInfo, Outcome, Question, RequestId, Role, TokenInfo, Watch,
};
use serde::de::DeserializeOwned;
use tonic::{Code, Response, Status, Streaming, transport::Channel};

/// How long one request may take, the daemon's own search for a leader included.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// How long a daemon that went away may take to come back.
const RETURN_LIMIT: Duration = Duration::from_secs(10);
/// How long swarmctl waits for a netd whose socket exists but refuses connections.
const LISTEN_LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);

/// The local daemon.
#[derive(Clone)]
pub(crate) struct Daemon {
    socket: PathBuf,
    channel: Channel,
}

impl Daemon {
    /// Connects to the daemon. If the socket exists but refuses connections, waits a little: netd
    /// may be restarting.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, Failure> {
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
                    return Err(error.into());
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Proposes a command about this object. Repeated with the same request id while the daemon
    /// restarts, so it is executed once.
    pub(crate) async fn propose(
        &self,
        object: impl Into<String>,
        command: Command,
    ) -> Result<Outcome, Failure> {
        let payload = api::encode(&Proposal {
            request: RequestId(rand::random()),
            command,
        });
        let call = |channel, payload| async move {
            read(ControlClient::new(channel).propose(payload).await)
        };
        self.insist::<model::Response, _>(payload, call)
            .await
            .flatten()
            .map_err(|failure| failure.about(object))
    }

    /// Asks the cluster. Lists come in pages: they have no limit.
    pub(crate) async fn ask<T>(&self, question: Question<T>) -> Result<T, Failure> {
        let payload = api::encode(question.query());
        let call = |channel, payload| lists::ask(channel, payload, REQUEST_LIMIT);
        let answer = self.insist::<Result<Answer, Failure>, _>(payload, call);
        answer
            .await
            .flatten()
            .and_then(|answer| question.take(answer))
            .map_err(|failure| failure.about(question.query().object()))
    }

    /// The stream of a watch, see [`crate::watching`].
    pub(crate) async fn open_watch(&self, watch: &Watch) -> Result<Streaming<Json>, Status> {
        let mut client =
            ControlClient::new(self.channel.clone()).max_decoding_message_size(api::MESSAGE_LIMIT);
        Ok(client.watch(api::encode(watch)).await?.into_inner())
    }

    /// A role's join token.
    pub(crate) async fn token(&self, role: Role) -> Result<TokenInfo, Failure> {
        self.ask(Question::token(role)).await
    }

    /// Makes a cluster of this host.
    pub(crate) async fn init(&self, request: &InitRequest) -> Result<Standing, Failure> {
        let answer = self.once(self.local().init(api::encode(request)).await)?;
        api::decode::<Result<Standing, Failure>>(&answer)?
    }

    /// Joins this host to a cluster.
    pub(crate) async fn join(&self, request: &JoinRequest) -> Result<Standing, Failure> {
        let answer = self.once(self.local().join(api::encode(request)).await)?;
        api::decode::<Result<Standing, Failure>>(&answer)?
    }

    /// Takes this host out of its cluster.
    pub(crate) async fn leave(&self, request: &LeaveRequest) -> Result<(), Failure> {
        let answer = self.once(self.local().leave(api::encode(request)).await)?;
        api::decode::<Result<(), Failure>>(&answer)?
    }

    /// This host's membership and the state of its kernel.
    pub(crate) async fn status(&self) -> Result<Standing, Failure> {
        let call =
            |channel, payload| async move { read(LocalClient::new(channel).status(payload).await) };
        self.insist(api::encode(&()), call).await
    }

    /// Internal state of this host's netd.
    pub(crate) async fn debug(&self, what: api::Debug) -> Result<String, Failure> {
        let answer = self.once(self.local().debug(api::encode(&what)).await)?;
        api::decode::<Result<String, Failure>>(&answer)?
    }

    /// Asks one node about its kernel, peers or traffic.
    pub(crate) async fn look<T>(&self, node: &NodeInfo, look: &Look<T>) -> Result<T, Failure> {
        let call = |channel, payload| async move {
            read(AgentClient::new(channel).examine(payload).await)
        };
        let request = Examine {
            node: node.id,
            subject: look.subject(),
        };
        self.insist::<Result<Examined, Failure>, _>(api::encode(&request), call)
            .await
            .flatten()
            .and_then(|found| look.take(found))
            .map_err(|failure| failure.about(format!("node {}", node.hostname)))
    }

    /// Streams to and from tasks.
    pub(crate) fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
    }

    /// Explains a broken stream or call to the user.
    pub(crate) fn broken(&self, status: &Status) -> Failure {
        let path = self.socket.display();
        // A refusal that a stream could only pass on as its end.
        if let Ok(refusal) = serde_json::from_slice(status.details()) {
            return refusal;
        }
        let failure = match status.code() {
            Code::InvalidArgument | Code::Unimplemented => Failure::new(
                Kind::Invalid,
                format!(
                    "netd at {path} does not understand the request: {}",
                    status.message()
                ),
                "give swarmctl and netd the same version",
            ),
            _ => Failure::new(
                Kind::Unavailable,
                format!(
                    "netd at {path} closed the connection during the request: {}",
                    status.message()
                ),
                "read netd's log (`journalctl -u netd`), restart netd, and check whether the \
                 change was made before you repeat the command",
            ),
        };
        failure.about(self.object())
    }

    fn object(&self) -> String {
        format!("netd at {}", self.socket.display())
    }

    fn local(&self) -> LocalClient<Channel> {
        LocalClient::new(self.channel.clone()).max_decoding_message_size(api::MESSAGE_LIMIT)
    }

    fn once(&self, result: Result<Response<Json>, Status>) -> Result<Json, Failure> {
        result
            .map(Response::into_inner)
            .map_err(|status| self.broken(&status))
    }

    /// Sends an idempotent request, repeatedly while the daemon is away.
    async fn insist<T, F>(
        &self,
        payload: Json,
        call: impl Fn(Channel, Json) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut away = None;
        loop {
            let attempt =
                tokio::time::timeout(REQUEST_LIMIT, call(self.channel.clone(), payload.clone()));
            let status = match attempt.await {
                Ok(Ok(answer)) => return Ok(answer),
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

    fn silent(&self) -> Failure {
        Failure::new(
            Kind::Unavailable,
            format!(
                "netd at {} has not answered within {} s",
                self.socket.display(),
                REQUEST_LIMIT.as_secs()
            ),
            "read netd's log (`journalctl -u netd`), and check whether the change was made before \
             you repeat the command",
        )
        .about(self.object())
    }
}

fn read<T: DeserializeOwned>(answer: Result<Response<Json>, Status>) -> Result<T, Status> {
    Ok(api::decode(answer?.get_ref())?)
}

/// What tonic reports of a connection that broke, or of a daemon that is not there.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted
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

        type ListStream = tokio_stream::Empty<Result<Json, Status>>;

        async fn list(&self, _: Request<Json>) -> Result<Response<Self::ListStream>, Status> {
            Err(Status::unimplemented("no lists"))
        }

        type WatchStream = tokio_stream::Empty<Result<Json, Status>>;

        async fn watch(&self, _: Request<Json>) -> Result<Response<Self::WatchStream>, Status> {
            Err(Status::unimplemented("no watches"))
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
                .propose(
                    "service web",
                    Command::Service(ServiceCommand::Remove {
                        service: "web".into(),
                    }),
                )
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
            .unwrap();
        assert!(
            error
                .cause
                .contains("netd does not answer at /nonexistent/netd.sock")
                && !error.next.is_empty(),
            "{error}"
        );
    }
}
