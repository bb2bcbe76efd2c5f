//! The plugin's call to the local netd.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{ContainerReply, ContainerRequest, proto::local_client::LocalClient};
use model::Refusal;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout_at},
};

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

/// Sends a request. If the daemon dies meanwhile the request is sent again: every request is
/// idempotent.
pub(crate) fn ask(request: &ContainerRequest, wait: Wait) -> Result<ContainerReply, Unanswered> {
    let socket = env::var_os(SOCKET).map_or_else(|| PathBuf::from(api::SOCKET), PathBuf::from);
    let lost = |error: std::io::Error| {
        Unanswered::Lost(format!("no runtime for the call can be made: {error}"))
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(lost)?;
    let answer = runtime.block_on(try_until_answered(&socket, request, wait));
    // The process ends now: nothing of the connection has to be waited for.
    runtime.shutdown_background();
    answer
}

async fn try_until_answered(
    socket: &Path,
    request: &ContainerRequest,
    wait: Wait,
) -> Result<ContainerReply, Unanswered> {
    let start = Instant::now();
    let mut is_known = false;
    loop {
        let tried = timeout_at(start + LIMIT, once(socket, request)).await;
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

async fn once(
    socket: &Path,
    request: &ContainerRequest,
) -> Result<Result<ContainerReply, Refusal>, Unanswered> {
    let channel = api::connect(socket)
        .await
        .map_err(|error| Unanswered::Down(error.to_string()))?;
    let answer = LocalClient::new(channel)
        .container(api::encode(request))
        .await;
    let answer = answer.map_err(|status| Unanswered::Lost(status.message().to_owned()))?;
    api::decode(answer.get_ref()).map_err(|error| Unanswered::Lost(error.to_string()))
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
