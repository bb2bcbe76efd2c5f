//! The IPsec plane of the host's namespace. Packets of encrypted tunnels are encrypted, or dropped
//! by policies that exist before the first tunnel and until after the last. Foreign associations
//! and policies are ignored. An association begins once: a lost one is reported, not restored.

mod kernel;
mod plan;
mod record;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use model::{Kind, NodeId, Spi};
use tracing::info;

pub use kernel::{observe, probe};
pub use plan::{
    Direction, Observed, ObservedAssociation, Op, Peer, Plan, Traffic, Usage, Verdict, Wanted, Way,
    plan,
};

use super::{AGAIN, Failure, Plane, kernel_said, undone};
use kernel::Kernel;
use record::Record;

/// What no change was heard of is read again after this time all the same.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// The file of the record, in the daemon's directory.
const FILE: &str = "associations";
/// Why nothing goes to a peer.
const MUTE: &str =
    "the kernel lost the association that this host sends by, and a key is never used again";
const UNMUTE: &str =
    "a manager issues another key once one can be reached; until then nothing is sent there";

/// When a pass may take the barrier down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnels {
    /// There may be some.
    Up,
    /// Those that are not wanted are gone.
    Settled,
}

/// How far a pass has come.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Whether nothing passes in the clear.
    pub closed: bool,
    /// What is left to do.
    pub left: Vec<Op>,
    /// What could not be done.
    pub failures: Vec<Failure>,
    /// What the kernel has lost.
    pub lost: BTreeSet<(NodeId, Spi)>,
}

/// IPsec of this host.
pub struct Encryption {
    kernel: io::Result<Kernel>,
    path: PathBuf,
    record: Record,
    settled: Option<(Option<Wanted>, Instant)>,
    observed: Observed,
}

impl Encryption {
    /// Of the namespace that the calling thread is in; `directory` keeps what must survive a
    /// reboot.
    pub fn open(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let record = Record::open(&path);
        Self {
            kernel: Kernel::open(),
            path,
            record,
            settled: None,
            observed: Observed::default(),
        }
    }

    /// What the kernel held of ours when it was last read.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Completes when something has changed. Cancel-safe.
    pub async fn changed(&mut self) {
        match &mut self.kernel {
            Ok(kernel) => kernel.changed().await,
            Err(_) => std::future::pending().await,
        }
        self.settled = None;
    }

    /// Makes the kernel hold what is wanted; goes on after failures.
    pub fn reconcile(&mut self, wanted: Option<&Wanted>, tunnels: Tunnels) -> Outcome {
        if self
            .settled
            .as_ref()
            .is_some_and(|(last, at)| last.as_ref() == wanted && at.elapsed() < READ_AGAIN)
        {
            return Outcome {
                closed: true,
                ..Outcome::default()
            };
        }
        match self.try_reconcile(wanted, tunnels) {
            Ok(outcome) => outcome,
            // A host that never had any of it lacks nothing.
            Err(_) if wanted.is_none() => Outcome {
                closed: true,
                ..Outcome::default()
            },
            Err(error) => Outcome {
                failures: vec![failure(None, kernel_said(&error, AGAIN).about("IPsec"))],
                ..Outcome::default()
            },
        }
    }

    /// What a pass would find to do, in lines for people.
    pub fn differences(&mut self, wanted: Option<&Wanted>) -> Vec<String> {
        self.settled = None;
        match self.observe() {
            Ok(()) => {
                let next = plan(wanted, &self.observed, &self.record);
                let lost = next
                    .lost
                    .iter()
                    .map(|(peer, spi)| format!("replace association {spi} with node {peer}"));
                next.ops.iter().map(Op::to_string).chain(lost).collect()
            }
            Err(_) if wanted.is_none() => Vec::new(),
            Err(error) => vec![format!("IPsec cannot be read: {error}")],
        }
    }

    fn try_reconcile(&mut self, wanted: Option<&Wanted>, tunnels: Tunnels) -> io::Result<Outcome> {
        self.settled = None;
        if let Some(wanted) = wanted {
            self.record = std::mem::replace(&mut self.record, Record::empty()).of(wanted.node);
        }
        self.observe()?;
        let mut next = plan(wanted, &self.observed, &self.record);
        let mut failures = Vec::new();
        if due(&next, tunnels).next().is_some() {
            failures = self.apply(wanted, &next, tunnels);
            self.observe()?;
            next = plan(wanted, &self.observed, &self.record);
        }
        let undone = |op: &Op| failure(Some(op), undone());
        if failures.is_empty() {
            failures.extend(due(&next, tunnels).map(undone));
        }
        let mute = wanted
            .into_iter()
            .flat_map(|wanted| &wanted.peers)
            .filter(|(id, _)| next.mute.contains(id));
        failures.extend(mute.map(|(_, peer)| {
            let why = model::Failure::new(Kind::Unavailable, MUTE, UNMUTE);
            failure(None, why.about(format!("encryption to {}", peer.hostname)))
        }));
        if next.ops.is_empty() && next.lost.is_empty() {
            self.settled = Some((wanted.cloned(), Instant::now()));
        }
        let closed = wanted.is_none_or(|wanted| self.observed.is_closed(wanted.port));
        Ok(Outcome {
            closed,
            left: next.ops,
            failures,
            lost: next.lost,
        })
    }

    fn observe(&mut self) -> io::Result<()> {
        if self.kernel.is_err() {
            self.kernel = Kernel::open();
        }
        match &mut self.kernel {
            Ok(kernel) => self.observed = kernel.observe()?,
            Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
        }
        Ok(())
    }

    fn apply(&mut self, wanted: Option<&Wanted>, plan: &Plan, tunnels: Tunnels) -> Vec<Failure> {
        let mut failures = Vec::new();
        let ops: Vec<&Op> = due(plan, tunnels).collect();
        info!(operations = ops.len(), first = %ops[0], "changing IPsec");
        let mut recorded = true;
        for op in ops {
            let result = match op {
                Op::Record(_) => self.write_down(wanted, op),
                Op::Add(..) if !recorded => continue,
                _ => self
                    .kernel
                    .as_mut()
                    .map_or(Ok(()), |kernel| kernel.apply(op)),
            };
            recorded &= result.is_ok() || !matches!(op, Op::Record(_));
            failures.extend(
                result
                    .err()
                    .map(|error| failure(Some(op), kernel_said(&error, AGAIN))),
            );
        }
        failures
    }

    fn write_down(&mut self, wanted: Option<&Wanted>, op: &Op) -> io::Result<()> {
        let (Op::Record(used), Some(wanted)) = (op, wanted) else {
            return Ok(());
        };
        let record = self.record.with(wanted.node, used, wanted.oldest());
        record.save(&self.path)?;
        self.record = record;
        Ok(())
    }
}

/// What may be done now.
fn due(plan: &Plan, tunnels: Tunnels) -> impl Iterator<Item = &Op> {
    plan.ops
        .iter()
        .filter(move |op| tunnels == Tunnels::Settled || !op.is_last())
}

fn failure(op: Option<&Op>, why: model::Failure) -> Failure {
    let op = op.map(Op::to_string);
    Failure {
        why: why.about(op.clone().unwrap_or_default()),
        plane: Plane::Ipsec(op),
        sandbox: None,
        network: None,
    }
}
