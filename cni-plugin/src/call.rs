//! The calls of the plugins to the local netd.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{ContainerReply, ContainerRequest, lists, proto::local_client::LocalClient};
use model::{Kind, Question, Refusal};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout_at},
};
use tonic::{Status, transport::Channel};

use crate::error::{CniError, Code};

/// Environment variable with the path of netd's socket.
const SOCKET: &str = "NETD_SOCKET";
/// How long the plugin waits for a netd that is restarting.
const RESTART: Duration = Duration::from_secs(5);
/// Timeout of a request; netd's own limits are shorter.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no answer.
pub(crate) enum Unanswered {
    /// The daemon does not run.
    Down(String),
    /// The daemon died during the request, or did not reply in time.
    Lost(String),
    /// It refuses.
    Refused(Refusal),
}

/// Whether a daemon that does not run is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For a restart's time.
    Restart,
    /// Not at all.
    No,
}

/// Sends a request about a container.
pub(crate) fn ask(request: &ContainerRequest, wait: Wait) -> Result<ContainerReply, Unanswered> {
    let payload = api::encode(request);
    called(wait, async |channel| {
        let answer = LocalClient::new(channel).container(payload.clone()).await?;
        Ok(api::decode(answer.get_ref())?)
    })
}

/// Asks the cluster.
pub(crate) fn question<T>(question: &Question<T>) -> Result<T, Unanswered> {
    let payload = api::encode(question.query());
    let answer = called(Wait::Restart, async |channel| {
        lists::ask(channel, payload.clone(), LIMIT).await
    });
    answer.and_then(|answer| question.take(answer).map_err(Unanswered::Refused))
}

/// Detaches an interface. Without the daemon that cannot be done now, but no address leaks: netd
/// later releases the interfaces of dead namespaces. It must not fail, because a runtime would not
/// remove the container. `what` is asked for, for the runtime's log.
pub(crate) fn give_up(request: &ContainerRequest, what: &str) -> Result<(), Refusal> {
    match ask(request, Wait::No) {
        Ok(_) => Ok(()),
        Err(Unanswered::Refused(refusal)) => Err(refusal),
        Err(Unanswered::Down(reason) | Unanswered::Lost(reason)) => {
            eprintln!("{what} is left to netd, which does it once the namespace is gone: {reason}");
            Ok(())
        }
    }
}

/// Calls the daemon. If it dies meanwhile it is called again: every call is idempotent.
fn called<T>(
    wait: Wait,
    call: impl AsyncFn(Channel) -> Result<Result<T, Refusal>, Status>,
) -> Result<T, Unanswered> {
    let socket = env::var_os(SOCKET).map_or_else(|| PathBuf::from(api::SOCKET), PathBuf::from);
    let lost = |error: std::io::Error| {
        Unanswered::Lost(format!("no runtime for the call can be made: {error}"))
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(lost)?;
    let answer = runtime.block_on(try_until_answered(&socket, call, wait));
    // The process ends now: nothing of the connection has to be waited for.
    runtime.shutdown_background();
    answer
}

async fn try_until_answered<T>(
    socket: &Path,
    call: impl AsyncFn(Channel) -> Result<Result<T, Refusal>, Status>,
    wait: Wait,
) -> Result<T, Unanswered> {
    let start = Instant::now();
    let mut is_known = false;
    loop {
        let tried = timeout_at(start + LIMIT, once(socket, &call)).await;
        let failure = match tried {
            Err(_) => {
                return Err(Unanswered::Lost(format!(
                    "no reply within {} s",
                    LIMIT.as_secs()
                )));
            }
            Ok(Ok(answer)) => return answer.map_err(Unanswered::Refused),
            Ok(Err(failure)) => failure,
        };
        is_known |= matches!(failure, Unanswered::Lost(_));
        let patient = is_known || wait == Wait::Restart;
        if !patient || start.elapsed() > RESTART {
            return Err(failure);
        }
        sleep(PAUSE).await;
    }
}

async fn once<T>(
    socket: &Path,
    call: &impl AsyncFn(Channel) -> Result<Result<T, Refusal>, Status>,
) -> Result<Result<T, Refusal>, Unanswered> {
    let channel = api::connect(socket)
        .await
        .map_err(|error| Unanswered::Down(error.to_string()))?;
    call(channel)
        .await
        .map_err(|status| Unanswered::Lost(status.message().to_owned()))
}

impl From<Unanswered> for CniError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Refused(refusal) => refusal.into(),
            Unanswered::Down(reason) => Self::new(
                Code::Later,
                reason,
                "`systemctl start netd`; the runtime tries again by itself",
            ),
            Unanswered::Lost(reason) => {
                let next = "`journalctl -u netd` says more; the runtime tries again by itself";
                Self::new(
                    Code::Later,
                    format!("netd has not answered: {reason}"),
                    next,
                )
            }
        }
    }
}

impl From<Unanswered> for Refusal {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Refused(refusal) => refusal,
            Unanswered::Down(reason) => Self::new(
                Kind::Unavailable,
                reason,
                "`systemctl start netd`, and call as root: netd serves nobody else",
            ),
            Unanswered::Lost(reason) => Self::new(
                Kind::Unavailable,
                format!("netd has not answered: {reason}"),
                "`journalctl -u netd` says more; repeat the command",
            ),
        }
    }
}
