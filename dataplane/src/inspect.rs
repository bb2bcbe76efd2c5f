//! For looking at a running data plane from outside.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    plan::{Observed, Op},
    rules::Pending,
    state::Place,
    status::Plane,
    xfrm,
};

/// For looking at the inside of a running data plane.
#[derive(Clone, Debug)]
pub struct Dataplane {
    pub(crate) inside: watch::Receiver<Arc<Inside>>,
    pub(crate) visitors: mpsc::Sender<oneshot::Sender<Vec<Difference>>>,
}

/// How the kernel differs from what it should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Something is to be done.
    Todo {
        /// Where.
        place: Place,
        /// Whose work it is.
        plane: Plane,
        /// What.
        what: String,
    },
    /// Something cannot be done, or be read.
    Failed(model::Failure),
}

/// How much has been read of the kernel since the start, but for what is read in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Dumps of rtnetlink: of all objects of a kind in a namespace, or of those of one link.
    pub dumps: u64,
    /// Tables of nftables.
    pub tables: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Inside {
    pub(crate) passes: u64,
    pub(crate) reads: Reads,
    pub(crate) observed: Arc<Observed>,
    pub(crate) plan: Arc<Vec<Op>>,
    pub(crate) rules: Vec<Pending>,
    pub(crate) ipsec: (xfrm::Observed, Vec<xfrm::Op>),
}

impl Dataplane {
    /// What the kernel held of ours at the end of the last pass.
    pub fn observed(&self) -> String {
        let inside = self.inside.borrow();
        format!("{:#?}\n{:#?}", inside.observed, inside.ipsec.0)
    }

    /// How the kernel differs now, seen by a pass that changes nothing; `None` once the data plane
    /// has ended.
    pub async fn differences(&self) -> Option<Vec<Difference>> {
        let (answer, answered) = oneshot::channel();
        self.visitors.send(answer).await.ok()?;
        answered.await.ok()
    }

    /// How many passes have read the kernel: one per period while nothing changes.
    pub fn passes(&self) -> u64 {
        self.inside.borrow().passes
    }

    /// How much the passes have read of the kernel.
    pub fn reads(&self) -> Reads {
        self.inside.borrow().reads
    }

    /// What the next pass would change, one operation per line; empty when settled.
    pub fn plan(&self) -> String {
        let inside = self.inside.borrow();
        let ops = inside.plan.iter().map(ToString::to_string);
        let rules = inside.rules.iter().flat_map(Pending::lines);
        let ipsec = inside
            .ipsec
            .1
            .iter()
            .map(|op| format!("{}: IPsec: {op}", Place::Host));
        ops.chain(rules)
            .chain(ipsec)
            .fold(String::new(), |text, line| text + &line + "\n")
    }
}
