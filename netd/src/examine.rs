//! What can be seen of this host by those who ask any node of the cluster.

use api::{Difference, Examined, Subject, Verification};
use model::{NodeConfig, Refusal, names::Namespace};

use crate::{
    daemon::Daemon,
    dataplane::{self, state::Place},
};

/// What happens to a difference that is no failure.
const REPAIR: &str = "netd is about to do so by itself; if it is listed again, `swarmctl node inspect` says what fails";

/// Looks at this host. Errors: it has no view yet.
pub async fn look(daemon: &Daemon, subject: Subject) -> Result<Examined, Refusal> {
    let config = daemon.desired.borrow().clone();
    let dataplane = daemon.dataplane.borrow().clone();
    let (_, dataplane) = dataplane.ok_or_else(|| daemon.has_no_view())?;
    match subject {
        Subject::Kernel => {
            let found = dataplane.differences().await.ok_or_else(|| daemon.has_no_view())?;
            let differences = found.iter().map(|difference| explain(&config, difference)).collect();
            Ok(Examined::Kernel(Verification { view: orchestrator::digests(&config), differences }))
        }
    }
}

/// A difference in the words of people.
fn explain(config: &NodeConfig, difference: &dataplane::Difference) -> Difference {
    let (network, object) = match difference.place {
        Some(Place::Inside(Namespace::Network(id))) => {
            let name = config.networks.get(&id).map_or_else(|| id.to_string(), |network| network.name.clone());
            (Some(id), format!("network {name}"))
        }
        Some(Place::Inside(Namespace::Sandbox(id))) => {
            (None, format!("task {}", config.tasks.get(&id).map_or_else(|| id.to_string(), |task| task.name())))
        }
        Some(Place::Host) => (None, "host".to_owned()),
        None => (None, "data plane".to_owned()),
    };
    let (cause, next) = difference.what.split_once("; next: ").unwrap_or((&difference.what, REPAIR));
    let cause = if difference.place.is_some() { format!("to do: {cause}") } else { cause.to_owned() };
    Difference { network, object, cause, next: next.to_owned() }
}
