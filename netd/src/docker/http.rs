//! The plugin's HTTP socket. Every call is answered within limits of time and size, and a panic in
//! one does not end the daemon.

use std::{
    convert::Infallible,
    env,
    fs::{self, Permissions},
    future::Future,
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net},
    },
    path::Path,
    process,
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::{Kind, Refusal};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    time::{sleep, timeout},
};

use super::{Plugin, wire};
use crate::{callers::Callers, local};

/// Where engines look for a driver called `netd`.
pub(crate) const SOCKET: &str = "/run/docker/plugins/netd.sock";
/// The first descriptor that systemd passes (sd_listen_fds(3)).
const PASSED: i32 = 3;
/// The most bytes of a request: a container with thousands of ports has fewer.
const BODY: usize = 4 << 20;
/// How many connections an engine may have: it makes one for each call that waits.
const CALLERS: usize = 512;
/// Engines wait for ever, holding locks: nobody lets them.
const LIMIT: Duration = Duration::from_secs(25);
/// A head that takes longer does not come from an engine.
const HEAD: Duration = Duration::from_secs(10);
/// After the kernel has refused a connection (no descriptors left).
const REST: Duration = Duration::from_millis(100);

/// The socket that systemd passed on, or one of its own; root only.
///
/// # Errors
/// A directory or socket that cannot be made.
pub(crate) fn listen() -> io::Result<UnixListener> {
    let listener = match passed()? {
        Some(listener) => listener,
        None => {
            let path = Path::new(SOCKET);
            let directory = path.parent().unwrap_or(path);
            fs::create_dir_all(directory)?;
            // Removes the socket of a killed daemon. Two daemons on one host are prevented
            // elsewhere.
            let _ = fs::remove_file(path);
            local::bind(path)?
        }
    };
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn passed() -> io::Result<Option<net::UnixListener>> {
    let is_mine = env::var("LISTEN_PID").is_ok_and(|pid| pid == process::id().to_string());
    if !is_mine || env::var("LISTEN_FDS").is_ok_and(|count| count == "0") {
        return Ok(None);
    }
    let me: Pid = getpid();
    let itself = pidfd_open(me, PidfdFlags::empty())?;
    let passed: OwnedFd = pidfd_getfd(itself, PASSED, PidfdGetfdFlags::empty())?;
    fs::set_permissions(SOCKET, Permissions::from_mode(0o600))?;
    Ok(Some(passed.into()))
}

/// Answers for ever.
pub(crate) async fn serve(plugin: &Arc<Plugin>, listener: UnixListener) {
    let callers = Callers::new(listener, CALLERS);
    loop {
        let stream = match callers.next().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the engine");
                sleep(REST).await;
                continue;
            }
        };
        let plugin = plugin.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| respond(plugin.clone(), request));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD);
            // An engine that hangs up has its reasons.
            let _ = server.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn respond(
    plugin: Arc<Plugin>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let (status, answer) = if head.method != Method::POST {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            failure("only POST is supported"),
        )
    } else {
        match Limited::new(body, BODY).collect().await {
            // On its own: an engine that is killed now does not leave half of it.
            Ok(body) => tokio::spawn(async move { plugin.answer(&path, &body.to_bytes()).await })
                .await
                .unwrap_or_else(|error| {
                    (
                        StatusCode::INTERNAL_SERVER_ERROR,
                        failure(&error.to_string()),
                    )
                }),
            Err(error) => (
                StatusCode::BAD_REQUEST,
                failure(&format!("the request cannot be read: {error}")),
            ),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(wire::MEDIA_TYPE),
    );
    Ok(response)
}

/// Network drivers say `Err`, address managers `Error`: each reads its own.
fn failure(text: &str) -> Value {
    json!({"Err": text, "Error": text})
}

impl Plugin {
    /// The answer to one method of the protocols.
    async fn answer(&self, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let fixed = match path {
            "/Plugin.Activate" => wire::activation(),
            "/NetworkDriver.GetCapabilities" => wire::network_capabilities(),
            "/IpamDriver.GetCapabilities" => wire::ipam_capabilities(),
            "/IpamDriver.GetDefaultAddressSpaces" => wire::address_spaces(),
            "/NetworkDriver.EndpointOperInfo" => json!(wire::OperInfo {
                value: Default::default()
            }),
            "/NetworkDriver.DiscoverNew" | "/NetworkDriver.DiscoverDelete" => json!({}),
            _ => return self.work(path, body).await,
        };
        (StatusCode::OK, fixed)
    }

    async fn work(&self, path: &str, body: &[u8]) -> (StatusCode, Value) {
        match path {
            "/NetworkDriver.CreateNetwork" => {
                call(path, body, |asked| self.create_network(asked)).await
            }
            "/NetworkDriver.DeleteNetwork" => {
                call(path, body, |asked| self.delete_network(asked)).await
            }
            "/NetworkDriver.CreateEndpoint" => {
                call(path, body, |asked| self.create_endpoint(asked)).await
            }
            "/NetworkDriver.DeleteEndpoint" => {
                call(path, body, |asked| self.delete_endpoint(asked)).await
            }
            "/NetworkDriver.Join" => call(path, body, |asked| self.join(asked)).await,
            "/NetworkDriver.Leave" => call(path, body, |asked| self.leave(asked)).await,
            "/NetworkDriver.ProgramExternalConnectivity" => {
                call(path, body, |asked| self.program(asked)).await
            }
            "/NetworkDriver.RevokeExternalConnectivity" => {
                call(path, body, |asked| self.revoke(asked)).await
            }
            "/IpamDriver.RequestPool" => call(path, body, |asked| self.request_pool(asked)).await,
            "/IpamDriver.ReleasePool" => {
                call(path, body, async |asked| self.release_pool(&asked)).await
            }
            "/IpamDriver.RequestAddress" => {
                call(path, body, |asked| self.request_address(asked)).await
            }
            "/IpamDriver.ReleaseAddress" => {
                call(path, body, |asked| self.release_address(asked)).await
            }
            // Those for swarm mode (AllocateNetwork, FreeNetwork), too: the engine asks local
            // drivers nothing of it.
            _ => (
                StatusCode::NOT_FOUND,
                failure(&format!("there is no method {path}")),
            ),
        }
    }
}

async fn call<Asked, Answer, Working>(
    method: &str,
    body: &[u8],
    work: impl FnOnce(Asked) -> Working,
) -> (StatusCode, Value)
where
    Asked: DeserializeOwned,
    Answer: Serialize,
    Working: Future<Output = Result<Answer, Refusal>>,
{
    if body.is_empty() {
        // Docker 20.10 repeats a call whose answer it has not got, without what it had said.
        let cause =
            "the call was cut off, perhaps by a restart of netd, and repeated without its content";
        let refusal = Refusal::new(Kind::Unavailable, cause, "try again");
        return (StatusCode::OK, failure(&refusal.in_full()));
    }
    let asked = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(error) => {
            return (
                StatusCode::BAD_REQUEST,
                failure(&format!("{method}: no such request: {error}")),
            );
        }
    };
    within(LIMIT, method, work(asked)).await
}

async fn within<Answer: Serialize>(
    limit: Duration,
    method: &str,
    working: impl Future<Output = Result<Answer, Refusal>>,
) -> (StatusCode, Value) {
    match timeout(limit, working).await {
        Ok(Ok(answer)) => (StatusCode::OK, json!(answer)),
        Ok(Err(refusal)) => {
            tracing::info!(method, %refusal, "refused");
            (StatusCode::OK, failure(&refusal.in_full()))
        }
        Err(_) => {
            tracing::warn!(method, "a plugin call timed out");
            let cause = "the cluster did not answer in time";
            let next = "`swarmctl node ls` shows its managers";
            let late = Refusal::new(Kind::Unavailable, cause, next);
            (StatusCode::OK, failure(&late.in_full()))
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{NodeConfig, NodeId};
    use tokio::sync::{Mutex, watch};

    use super::{super::journal::Journal, *};
    use crate::daemon::{Daemon, Options};

    fn plugin(directory: &Path) -> Plugin {
        let daemon = Arc::new(Daemon {
            options: Options {
                known: model::Level::NEWEST,
                history: cluster::Limits::default(),
                dns: Vec::new(),
                directory: directory.to_owned(),
                socket: directory.join("netd.sock"),
            },
            hostname: "h1".to_owned(),
            executor: Arc::new(agent::Exec::new(directory.to_owned(), "h1".to_owned())),
            desired: watch::Sender::new(Arc::new(NodeConfig::empty(NodeId(0)))),
            dataplane: watch::Sender::new(None),
            serving: watch::Sender::default(),
            member: watch::Sender::new(None),
            membership: Mutex::new(()),
            unkept: watch::Sender::default(),
            roster: Default::default(),
        });
        Plugin::new(daemon, Journal::open(directory).unwrap())
    }

    async fn ask(method: &str, body: &str) -> (u16, Value) {
        let directory = tempfile::tempdir().unwrap();
        let (status, answer) = plugin(directory.path())
            .answer(method, body.as_bytes())
            .await;
        (status.as_u16(), answer)
    }

    #[tokio::test]
    async fn engines_of_every_age_are_told_what_this_driver_is() {
        let spaces =
            json!({"LocalDefaultAddressSpace": "netd", "GlobalDefaultAddressSpace": "netd"});
        for (method, answer) in [
            (
                "/Plugin.Activate",
                json!({"Implements": ["NetworkDriver", "IpamDriver"]}),
            ),
            // Engines outside of swarm mode know local ones only; and none of GwAllocCheck.
            (
                "/NetworkDriver.GetCapabilities",
                json!({"Scope": "local", "ConnectivityScope": "global"}),
            ),
            // Capabilities: the engine must send Ethernet addresses with requests, and need not
            // replay them after a restart.
            (
                "/IpamDriver.GetCapabilities",
                json!({"RequiresMACAddress": true, "RequiresRequestReplay": false}),
            ),
            ("/IpamDriver.GetDefaultAddressSpaces", spaces),
            ("/NetworkDriver.EndpointOperInfo", json!({"Value": {}})),
            ("/NetworkDriver.DiscoverDelete", json!({})),
        ] {
            assert_eq!(ask(method, "").await, (200, answer), "{method}");
        }
        for method in ["FreeNetwork", "GwAllocCheck"] {
            assert_eq!(
                ask(&format!("/NetworkDriver.{method}"), "{}").await.0,
                404,
                "{method}"
            );
        }
    }

    #[tokio::test]
    async fn an_engine_is_answered_in_time_whatever_hangs() {
        let hangs = std::future::pending::<Result<wire::Nothing, Refusal>>();
        let (status, answer) = within(Duration::from_millis(1), "Join", hangs).await;
        assert!(
            status == 200
                && answer["Err"]
                    .as_str()
                    .unwrap()
                    .contains("did not answer in time"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn malformed_requests_are_answered() {
        assert_eq!(ask("/NetworkDriver.AllocateNetwork", "{}").await.0, 404);
        assert_eq!(ask("/NetworkDriver.Join", "{").await.0, 400);
        assert_eq!(ask("/IpamDriver.RequestPool", r#"{"V6": 7}"#).await.0, 400);
        let (status, answer) = ask("/IpamDriver.RequestAddress", "").await;
        assert!(
            status == 200 && answer["Error"].as_str().unwrap().contains("try again"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn without_a_cluster_only_removals_succeed() {
        for method in [
            "CreateNetwork",
            "CreateEndpoint",
            "Join",
            "ProgramExternalConnectivity",
        ] {
            let body = r#"{"NetworkID": "n", "EndpointID": "e",
                "Options": {"com.docker.network.generic": {"netd.network": "x"}}}"#;
            let (status, answer) = ask(&format!("/NetworkDriver.{method}"), body).await;
            assert!(
                status == 200 && answer["Err"].as_str().unwrap().contains("next:"),
                "{method}: {answer}"
            );
        }
        for method in [
            "DeleteNetwork",
            "DeleteEndpoint",
            "Leave",
            "RevokeExternalConnectivity",
            "DiscoverNew",
        ] {
            let body = r#"{"NetworkID": "n", "EndpointID": "e"}"#;
            assert_eq!(
                ask(&format!("/NetworkDriver.{method}"), body).await,
                (200, json!({})),
                "{method}"
            );
        }
        for method in ["ReleasePool", "ReleaseAddress"] {
            let body = r#"{"PoolID": "any/240.0.0.1", "Address": "10.0.9.5"}"#;
            assert_eq!(
                ask(&format!("/IpamDriver.{method}"), body).await,
                (200, json!({})),
                "{method}"
            );
        }
    }
}
