//! The subnets that networks have, looked up by address.

use std::{collections::BTreeMap, net::IpAddr};

use model::Subnet;

use crate::{address::after, range};

/// Subnets that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    subnets: BTreeMap<IpAddr, Subnet>,
    /// The same as pieces of the default pools, where a part takes the whole.
    pieces: Runs,
}

impl Taken {
    pub(crate) fn insert(&mut self, subnet: Subnet) {
        self.subnets.insert(subnet.network(), subnet);
        self.pieces.insert(range::pieces(subnet));
    }

    pub(crate) fn remove(&mut self, subnet: Subnet) {
        self.subnets.remove(&subnet.network());
        let (first, last) = range::pieces(subnet);
        self.pieces.remove((first, last));
        let others = self.subnets.range(first..=last).map(|(_, other)| *other);
        let others: Vec<Subnet> = others.collect();
        for other in others {
            self.pieces.insert(range::pieces(other));
        }
    }

    pub(crate) fn overlaps(&self, subnet: Subnet) -> bool {
        let starts_before = self.subnets.range(..=subnet.last()).next_back();
        starts_before.is_some_and(|(_, last)| last.overlaps(&subnet))
    }

    pub(crate) fn pieces(&self) -> &Runs {
        &self.pieces
    }
}

/// Ranges of addresses that neither touch nor overlap: last address by first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs(BTreeMap<IpAddr, IpAddr>);

impl Runs {
    pub(crate) fn insert(&mut self, (mut first, mut last): (IpAddr, IpAddr)) {
        if let Some((&before, &end)) = self.0.range(..=first).next_back()
            && after(end) >= first
            && end.is_ipv6() == first.is_ipv6()
        {
            first = before;
            last = last.max(end);
        }
        while let Some((&next, &end)) = self.0.range(first..).next()
            && next <= after(last)
            && next.is_ipv6() == last.is_ipv6()
        {
            self.0.remove(&next);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Takes out a range that lies within a run.
    fn remove(&mut self, (first, last): (IpAddr, IpAddr)) {
        let Some((begin, end)) = self.around(first) else {
            return;
        };
        self.0.remove(&begin);
        if begin < first {
            self.0.insert(begin, crate::address::before(first));
        }
        if last < end {
            self.0.insert(after(last), end);
        }
    }

    /// The run that holds an address.
    pub(crate) fn around(&self, address: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let (first, last) = self.0.range(..=address).next_back()?;
        (*last >= address).then_some((*first, *last))
    }
}
