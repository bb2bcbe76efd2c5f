//! Which services have been touched since when: themselves, their tasks, or the hosts of these.

use std::collections::{BTreeMap, BTreeSet};

use model::ServiceId;

/// The revision at which each service was touched last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    /// What was touched up to this revision is not known.
    forgotten: u64,
    last: BTreeMap<ServiceId, u64>,
    in_order: BTreeSet<(u64, ServiceId)>,
}

impl Touched {
    /// Nothing is known of what was touched up to this revision.
    pub(super) fn since(revision: u64) -> Self {
        Self {
            forgotten: revision,
            ..Self::default()
        }
    }

    pub(super) fn touch(&mut self, service: ServiceId, revision: u64) {
        if let Some(last) = self.last.insert(service, revision) {
            self.in_order.remove(&(last, service));
        }
        self.in_order.insert((revision, service));
    }

    /// The service is gone.
    pub(super) fn forget(&mut self, service: ServiceId) {
        if let Some(last) = self.last.remove(&service) {
            self.in_order.remove(&(last, service));
        }
    }

    /// The services that were touched after this revision; `None` where that is not known.
    pub(crate) fn after(&self, revision: u64) -> Option<impl Iterator<Item = ServiceId>> {
        let first = (revision.saturating_add(1), ServiceId(0));
        let later = self.in_order.range(first..).map(|(_, service)| *service);
        (revision >= self.forgotten).then_some(later)
    }
}
