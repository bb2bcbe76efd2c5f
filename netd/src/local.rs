//! The local API on a Unix socket, for `swarmctl` and the plugins of runtimes. Translates requests;
//! decides nothing.

use std::{
    fs,
    future::Future,
    io,
    net::{IpAddr, UdpSocket},
    os::unix::{self, net::UnixStream},
    path::Path,
    sync::Arc,
};

use api::{
    Debug, InitRequest, JoinRequest, LeaveRequest, Proposal, Standing, decode, encode,
    proto::{Json, control_server, local_server},
};
use cluster::{Host, JoinOptions, Messages};
use model::{Answer, Failure, Kind, NodeConfig, Query, Refusal, ViewDelta, Watch};
use nix::sys::stat::{Mode, umask};
use serde_json::Value;
use tokio::net::UnixListener;
use tonic::{Request, Response, Status, transport::Server};

use crate::{
    callers::Callers,
    containers,
    daemon::{Daemon, Member},
    relay::{self, Relay},
    start,
};

/// How many may be connected: those that watch stay for as long as they like.
const CALLERS: usize = 1024;
/// What to do about a socket that cannot be made.
const OWN_SOCKET: &str = "let root write there, or give another --socket";

/// Listens on the local socket, root only.
///
/// # Errors
/// The socket cannot be made, or another netd answers at it.
pub(crate) fn serve(
    daemon: Arc<Daemon>,
) -> Result<impl Future<Output = Result<(), Failure>>, Failure> {
    let path = daemon.options.socket.clone();
    if let Some(parent) = path.parent() {
        let failed = |error| start::cannot("make", parent, &error, OWN_SOCKET);
        fs::create_dir_all(parent).map_err(failed)?;
    }
    if UnixStream::connect(&path).is_ok() {
        let place = format!("answers at {}", path.display());
        return Err(start::another(
            &place,
            "stop it, or give this one its own --socket",
        ));
    }
    // What a daemon that was killed has left.
    let _ = fs::remove_file(&path);
    let failed = |error| start::cannot("listen at", &path, &error, OWN_SOCKET);
    let listener = bind(&path).and_then(|listener| {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    });
    let listener = listener.map_err(failed)?;
    let server = Server::builder()
        .add_service(local_server::LocalServer::new(Local(daemon.clone())))
        .add_service(control_server::ControlServer::new(Control(daemon.clone())))
        .add_service(Relay::new(daemon).service())
        .serve_with_incoming(Callers::new(listener, CALLERS).all());
    Ok(async move {
        server
            .await
            .map_err(|error| start::ended("the local API", error))
    })
}

/// A socket at this path, root only from its first moment on, whatever mask the daemon was started
/// with.
///
/// # Errors
/// The path is taken, or its directory is missing.
pub(crate) fn bind(path: &Path) -> io::Result<unix::net::UnixListener> {
    let mask = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let listener = unix::net::UnixListener::bind(path);
    umask(mask);
    listener
}

/// Tunnels can end at an address of this host only, which is one that a socket can be bound to.
fn refuse_foreign(vtep: IpAddr) -> Result<(), Refusal> {
    match UdpSocket::bind((vtep, 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(Refusal::new(
            Kind::Invalid,
            format!("{vtep} is not an address of this host: its tunnels cannot end there"),
            "give an address of this host with --advertise-addr; behind NAT, add --data-path-addr",
        )),
        _ => Ok(()),
    }
}

fn no_state() -> Refusal {
    Refusal::new(
        Kind::Precondition,
        "this host is a worker: only managers keep the replicated state",
        "run the command on a manager (`swarmctl node ls` shows them)",
    )
}

fn unwritable(error: &io::Error) -> Refusal {
    Refusal::new(
        Kind::Unavailable,
        format!("the daemon's directory cannot be written: {error}"),
        "free space or repair the disk",
    )
}

/// What people may pass on: of a secret record its numbers, and of no text more than that it is
/// there.
fn without_secrets(mut view: ViewDelta) -> ViewDelta {
    for (key, record) in &mut view.set {
        if !NodeConfig::is_public(key) {
            redact(record);
        }
    }
    view
}

fn redact(value: &mut Value) {
    match value {
        Value::String(text) => "secret".clone_into(text),
        Value::Array(values) => values.iter_mut().for_each(redact),
        Value::Object(fields) => fields.values_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

type Reply = Result<Response<Json>, Status>;

struct Control(Arc<Daemon>);

#[tonic::async_trait]
impl control_server::Control for Control {
    async fn propose(&self, request: Request<Json>) -> Reply {
        let proposal: Proposal = decode(request.get_ref())?;
        let response: model::Response = match self.0.member() {
            Ok(member) => member.propose(proposal).await,
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(encode(&response)))
    }

    async fn query(&self, request: Request<Json>) -> Reply {
        let query: Query = decode(request.get_ref())?;
        let answer: Result<Answer, Refusal> = match self.0.member() {
            Ok(member) => member.query(query).await,
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(encode(&answer)))
    }

    type ListStream = Messages;

    async fn list(&self, request: Request<Json>) -> Result<Response<Messages>, Status> {
        let query: Query = decode(request.get_ref())?;
        let answer = match self.0.member() {
            Ok(member) => member.query(query).await,
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(cluster::paged(answer)))
    }

    type WatchStream = Messages;

    async fn watch(&self, request: Request<Json>) -> Result<Response<Messages>, Status> {
        let watch: Watch = decode(request.get_ref())?;
        let told = match self.0.member() {
            Ok(member) => member.watch(watch).await,
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(cluster::told(told)))
    }
}

struct Local(Arc<Daemon>);

impl Local {
    fn standing(&self) -> Standing {
        let status = self
            .0
            .dataplane
            .borrow()
            .as_ref()
            .map(|(status, _)| status.borrow().clone());
        let failures = status.iter().flat_map(|status| &status.failures);
        let failures = failures.map(|failure| failure.why.clone());
        let causes: Vec<Failure> = self.0.ailment().into_iter().chain(failures).collect();
        Standing {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: self.0.hostname.clone(),
            member: self
                .0
                .member
                .borrow()
                .as_ref()
                .map(|member| (member.node(), member.role())),
            level: self.0.desired.borrow().level,
            generation: self.0.desired.borrow().generation,
            applied: status.as_ref().map_or(0, |status| status.generation),
            failures: causes.iter().map(Failure::in_one_line).collect(),
            causes,
        }
    }

    fn refuse_if_member(&self) -> Result<(), Refusal> {
        match self.0.member.borrow().as_ref() {
            None => Ok(()),
            Some(member) => Err(Refusal::new(
                Kind::Conflict,
                format!("this host is already node {} of a cluster", member.node()),
                "run `swarmctl leave` first",
            )),
        }
    }

    async fn init(&self, request: InitRequest) -> Result<Standing, Refusal> {
        let _guard = self.0.membership.lock().await;
        self.refuse_if_member()?;
        let vtep = request.data_path.unwrap_or(request.advertise.ip());
        refuse_foreign(vtep)?;
        let host = Host {
            hostname: self.0.hostname.clone(),
            advertise: request.advertise,
            vtep,
        };
        let config = self
            .0
            .cluster(request.listen)
            .map_err(|error| unwritable(&error))?;
        let member = Member::init(config, host, request.data_path_port, |_| {
            relay::routes(&self.0)
        })
        .await?;
        self.0.follow(&member);
        Ok(self.standing())
    }

    async fn join(&self, request: JoinRequest) -> Result<Standing, Refusal> {
        let _guard = self.0.membership.lock().await;
        self.refuse_if_member()?;
        request
            .data_path
            .or(request.advertise.map(|address| address.ip()))
            .map_or(Ok(()), refuse_foreign)?;
        let options = JoinOptions {
            token: request.token,
            manager: request.manager,
            hostname: self.0.hostname.clone(),
            advertise: request.advertise,
            vtep: request.data_path,
        };
        let config = self
            .0
            .cluster(request.listen)
            .map_err(|error| unwritable(&error))?;
        let member = Member::join(config, options, |_| relay::routes(&self.0)).await?;
        self.0.follow(&member);
        Ok(self.standing())
    }

    async fn leave(&self, request: LeaveRequest) -> Result<(), Refusal> {
        let _guard = self.0.membership.lock().await;
        let member = self.0.member()?;
        member.leave(request.force).await?;
        self.0.forget().await;
        Ok(())
    }

    async fn debug(&self, what: Debug) -> Result<String, Refusal> {
        if let Debug::Config = what {
            let snapshot = without_secrets(self.0.desired.borrow().snapshot());
            return Ok(serde_json::to_string_pretty(&snapshot).unwrap_or_default());
        }
        if let Debug::Digest = what {
            let member = self.0.member()?;
            let digest = member.digest().ok_or_else(no_state)?;
            return Ok(serde_json::to_string_pretty(&digest).unwrap_or_default());
        }
        let dataplane = self.0.dataplane.borrow().clone();
        let dataplane = dataplane.ok_or_else(|| self.0.has_no_view())?;
        Ok(match what {
            Debug::Plan => dataplane.1.plan(),
            Debug::Config | Debug::Observed | Debug::Digest => dataplane.1.observed(),
        })
    }
}

#[tonic::async_trait]
impl local_server::Local for Local {
    async fn init(&self, request: Request<Json>) -> Reply {
        Ok(Response::new(encode(
            &self.init(decode(request.get_ref())?).await,
        )))
    }

    async fn join(&self, request: Request<Json>) -> Reply {
        Ok(Response::new(encode(
            &self.join(decode(request.get_ref())?).await,
        )))
    }

    async fn leave(&self, request: Request<Json>) -> Reply {
        Ok(Response::new(encode(
            &self.leave(decode(request.get_ref())?).await,
        )))
    }

    async fn status(&self, _: Request<Json>) -> Reply {
        Ok(Response::new(encode(&self.standing())))
    }

    async fn container(&self, request: Request<Json>) -> Reply {
        let request = decode(request.get_ref())?;
        Ok(Response::new(encode(
            &containers::cni::answer(&self.0, request).await,
        )))
    }

    async fn debug(&self, request: Request<Json>) -> Reply {
        Ok(Response::new(encode(
            &self.debug(decode(request.get_ref())?).await,
        )))
    }
}
