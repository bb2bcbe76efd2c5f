//! What the CNI plugin asks for, in terms of the cluster.

use api::{ContainerReply, ContainerRequest};
use model::{Kind, Refusal};

use crate::daemon::Daemon;

/// Does what the plugin asks.
pub async fn answer(_: &Daemon, _: ContainerRequest) -> Result<ContainerReply, Refusal> {
    Err(Refusal::new(Kind::Unavailable, "containers of CNI runtimes are not attached yet", "try a later version"))
}
