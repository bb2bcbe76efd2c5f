//! The data plane of this host: makes the kernel hold what a `NodeConfig` asks for and keeps it so.
//! One thread owns it: desired (pure) → observe → plan (pure) → apply, after each change, on
//! notices of the kernel, and every second. `pass.rs` calls the planes: IPsec, links, probes, ports
//! and rules. Each one's `reconcile` observes, plans and applies, and tells what it could not do;
//! `differences` observes anew and plans only. IPsec and the host's rules come before links, so
//! that no tunnel is up which they do not guard.

#![warn(unreachable_pub)]

mod arrivals;
mod changed;
mod channel;
mod derived;
pub mod desired;
mod doubt;
mod inspect;
mod kernel;
mod last;
mod listeners;
mod listing;
pub mod namespace;
mod notices;
mod pass;
pub mod plan;
pub mod policy;
pub mod ports;
mod probe;
mod read;
pub mod rules;
pub mod shape;
pub mod state;
mod status;
mod sysctl;
#[cfg(test)]
mod tests;
mod turn;
mod wire;
pub mod xfrm;

use std::{fs::File, io, path::Path, sync::Arc, thread, time::Duration};

use model::{NodeConfig, SandboxId};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};
use tracing::warn;

pub use inspect::{Dataplane, Difference, Reads};
pub use status::{Failure, Plane, Status};

use arrivals::Arrivals;
use channel::KernelError;
use derived::Derived;
use inspect::Inside;
use kernel::{Inhabited, Kernel};
use pass::{Planes, capabilities, differences, reconcile};
use ports::Ports;
use probe::Probes;
use rules::{Entered, Rules};
use status::{AGAIN, kernel_said, kind_of, undone};
use xfrm::Encryption;

/// Interval of passes over a settled kernel: some changes (sysctls, namespaces) cause no notice.
const PERIOD: Duration = Duration::from_secs(1);
/// Changes of the kernel come in flocks.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// A pass that failed is repeated after this time, doubled each time up to [`RETRY_LAST`].
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// How many may ask for a look at the same time.
const VISITORS: usize = 8;

/// Starts the data plane in the calling thread's network namespace, on a thread of its own. It
/// takes the first value of `desired` as the truth (an empty configuration removes all that is
/// ours) and ends when its sender is dropped, leaving the kernel as it is. `inhabited` finds the
/// network namespace that a task's processes are in, so that a sandbox is found again without its
/// name; `entered` runs inside a container's network namespace before questions for names are
/// redirected there; `directory` keeps what must survive a reboot. Errors: no thread or no runtime
/// can be had.
pub fn spawn(
    desired: watch::Receiver<Arc<NodeConfig>>,
    directory: &Path,
    inhabited: impl Fn(SandboxId) -> Option<File> + Send + Sync + 'static,
    entered: impl Fn(SandboxId) + Send + 'static,
) -> io::Result<(watch::Receiver<Arc<Status>>, Dataplane)> {
    let (inhabited, directory): (Inhabited, _) = (Arc::new(inhabited), directory.to_owned());
    let entered: Entered = Box::new(entered);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (status, status_seen) = watch::channel(Arc::new(Status::default()));
    let (inside, inside_seen) = watch::channel(Arc::new(Inside::default()));
    let (visitors, visits) = mpsc::channel(VISITORS);
    let outlet = Outlet {
        status,
        inside,
        visits,
    };
    thread::Builder::new()
        .name("dataplane".to_owned())
        .spawn(move || runtime.block_on(run(desired, (inhabited, entered), outlet, &directory)))?;
    Ok((
        status_seen,
        Dataplane {
            inside: inside_seen,
            visitors,
        },
    ))
}

struct Outlet {
    status: watch::Sender<Arc<Status>>,
    inside: watch::Sender<Arc<Inside>>,
    visits: mpsc::Receiver<oneshot::Sender<Vec<Difference>>>,
}

async fn run(
    mut desired: watch::Receiver<Arc<NodeConfig>>,
    (inhabited, entered): (Inhabited, Entered),
    mut outlet: Outlet,
    directory: &Path,
) {
    let Some(mut kernel) = open(&mut desired, &inhabited, &outlet).await else {
        return;
    };
    let (probes, encryption) = (Probes::default(), Encryption::open(directory));
    let (ports, derived) = (Ports::default(), Derived::default());
    let capabilities = capabilities(&mut kernel);
    let mut planes = Planes {
        kernel,
        rules: Rules::new(capabilities.clone(), entered),
        probes,
        encryption,
        ports,
        has_esp: false,
        reads: Reads::default(),
        derived,
        arrivals: Arrivals::default(),
    };
    let mut config = desired.borrow_and_update().clone();
    let mut retry = RETRY_FIRST;
    loop {
        if desired.has_changed().is_ok_and(|changed| changed) {
            config = newer(config, desired.borrow_and_update().clone());
            retry = RETRY_FIRST;
        }
        let status = pass(&mut planes, &config, &outlet);
        let status = Status {
            capabilities: capabilities.clone(),
            ..status
        };
        let pause = if status.settled { PERIOD } else { retry };
        retry = if status.settled {
            RETRY_FIRST
        } else {
            (retry * 2).min(RETRY_LAST)
        };
        publish(&outlet, status);
        tokio::select! {
            changed = desired.changed() => {
                if changed.is_err() {
                    return;
                }
                config = newer(config, desired.borrow_and_update().clone());
                retry = RETRY_FIRST;
            }
            () = planes.kernel.changed() => rest(&desired).await,
            () = planes.rules.changed() => rest(&desired).await,
            () = planes.encryption.changed() => rest(&desired).await,
            () = planes.probes.changed() => {}
            // Its container starts within moments.
            () = planes.arrivals.arrived() => {}
            // The pass that follows repairs what the visitor was shown.
            Some(visitor) = outlet.visits.recv() => drop(visitor.send(differences(&mut planes, &config))),
            () = sleep(pause) => {}
        }
    }
}

/// Waits until a burst of changes is over; a new configuration ends the wait.
async fn rest(desired: &watch::Receiver<Arc<NodeConfig>>) {
    let mut next = desired.clone();
    tokio::select! {
        _ = next.changed() => {}
        () = sleep(DEBOUNCE) => {}
    }
}

/// Opens the kernel, however long it takes.
async fn open(
    desired: &mut watch::Receiver<Arc<NodeConfig>>,
    inhabited: &Inhabited,
    outlet: &Outlet,
) -> Option<Kernel> {
    loop {
        match Kernel::open(inhabited.clone()) {
            Ok(kernel) => return Some(kernel),
            Err(error) => publish(outlet, unreadable(&desired.borrow(), &error)),
        }
        tokio::select! {
            changed = desired.changed() => changed.ok()?,
            () = sleep(RETRY_LAST) => {}
        }
    }
}

/// Generations count within one membership: a host that joins anew gets another node id and another
/// log.
fn newer(applied: Arc<NodeConfig>, offered: Arc<NodeConfig>) -> Arc<NodeConfig> {
    if offered.node == applied.node && offered.generation < applied.generation {
        warn!(
            offered = offered.generation,
            applied = applied.generation,
            "refused an older configuration"
        );
        return applied;
    }
    offered
}

fn pass(planes: &mut Planes, config: &Arc<NodeConfig>, outlet: &Outlet) -> Status {
    match reconcile(planes, config) {
        Ok((status, inside)) => {
            let passes = outlet.inside.borrow().passes + 1;
            outlet
                .inside
                .send_replace(Arc::new(Inside { passes, ..inside }));
            status
        }
        Err(error) => unreadable(config, &error),
    }
}

fn publish(outlet: &Outlet, status: Status) {
    let status = Arc::new(status);
    outlet.status.send_if_modified(|last| {
        if **last == *status {
            return false;
        }
        for failure in status
            .failures
            .iter()
            .filter(|failure| !last.failures.contains(failure))
        {
            let model::Failure {
                object,
                cause,
                next,
                ..
            } = &failure.why;
            warn!(object, cause, next, "the data plane lacks something");
        }
        *last = status;
        true
    });
}

/// A kernel that cannot be read never looks settled.
fn unreadable(config: &NodeConfig, error: &KernelError) -> Status {
    let failure = Failure::of_host(error.failure());
    Status {
        node: Some(config.node),
        generation: config.generation,
        settled: false,
        failures: vec![failure],
        ..Status::default()
    }
}
