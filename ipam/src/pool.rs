//! The addresses of one subnet: which are free, and which is given next.

use std::{collections::BTreeMap, net::IpAddr};

use model::{Family, Subnet, SubnetLease};
use serde::{Deserialize, Serialize};

use crate::{
    address::{after, before, bits},
    range,
};

/// A subnet's addresses. Free ones are kept as ranges, so that every operation is logarithmic even
/// in a /64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    lease: SubnetLease,
    /// The first and last address that can be given.
    bounds: (IpAddr, IpAddr),
    /// First to last address of each free range; ranges neither touch nor overlap.
    free: BTreeMap<IpAddr, IpAddr>,
    /// Where the search for a free address begins: behind the last one given, so that a released
    /// address is reused late.
    cursor: IpAddr,
    /// The same for sub-ranges that addresses were given from. Older ledgers have none.
    #[serde(default)]
    cursors: BTreeMap<Subnet, IpAddr>,
    used: u64,
}

/// Most sub-ranges with a cursor of their own; beyond this number all cursors are reset.
const MAX_CURSORS: usize = 1_024;

impl Pool {
    /// A subnet of which only the gateway's address is taken. `range` is the part of it that is
    /// given out.
    pub(crate) fn new(lease: SubnetLease, range: Option<Subnet>) -> Self {
        let (first, last) = range::given(lease.subnet, range);
        let free = BTreeMap::from([(first, last)]);
        let mut pool = Self {
            lease,
            bounds: (first, last),
            free,
            cursor: first,
            cursors: BTreeMap::new(),
            used: 0,
        };
        pool.take(lease.gateway);
        pool
    }

    pub(crate) fn lease(&self) -> SubnetLease {
        self.lease
    }

    pub(crate) fn family(&self) -> Family {
        self.lease.subnet.family()
    }

    /// How many of the addresses that can be given are, the gateway's included.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// How many addresses can be given, the gateway's included.
    pub(crate) fn capacity(&self) -> u128 {
        let (first, last) = self.bounds;
        bits(last) - bits(first) + 1
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Gives the next free address; `None` when there is none.
    pub(crate) fn give(&mut self) -> Option<IpAddr> {
        let address = self.next_free()?;
        self.take(address);
        self.cursor = after(address);
        Some(address)
    }

    /// Gives the next free address of a sub-range.
    pub(crate) fn give_of(&mut self, range: Subnet) -> Option<IpAddr> {
        let (first, last) = self.part(range);
        let start = self.cursors.get(&range).copied().unwrap_or(first);
        let address = self
            .first_free(start, last)
            .or_else(|| self.first_free(first, last))?;
        self.take(address);
        if self.cursors.len() >= MAX_CURSORS {
            self.cursors.clear();
        }
        self.cursors.insert(range, after(address));
        Some(address)
    }

    pub(crate) fn has_room_of(&self, range: Subnet) -> bool {
        let (first, last) = self.part(range);
        self.first_free(first, last).is_some()
    }

    /// How many addresses of this part can be given.
    pub(crate) fn capacity_of(&self, range: Subnet) -> u128 {
        let (first, last) = self.part(range);
        if first > last {
            0
        } else {
            bits(last) - bits(first) + 1
        }
    }

    /// The first and last address of a part that can be given: behind each other where there is
    /// none.
    fn part(&self, range: Subnet) -> (IpAddr, IpAddr) {
        (
            self.bounds.0.max(range.network()),
            self.bounds.1.min(range.last()),
        )
    }

    fn first_free(&self, first: IpAddr, last: IpAddr) -> Option<IpAddr> {
        let found = match self.range_around(first) {
            Some(_) => first,
            None => *self.free.range(first..).next()?.0,
        };
        (found <= last).then_some(found)
    }

    /// Makes an address that was given or taken free again.
    pub(crate) fn give_back(&mut self, address: IpAddr) {
        if !(self.bounds.0..=self.bounds.1).contains(&address) {
            return;
        }
        let left = self
            .free
            .range(..address)
            .next_back()
            .filter(|(_, last)| after(**last) == address);
        let first = left.map_or(address, |(first, _)| *first);
        let last = self.free.remove(&after(address)).unwrap_or(address);
        self.free.insert(first, last);
        self.used -= 1;
        if self.next_free() == Some(address) {
            // The address was requested by name, ahead of the cursor: the cursor moves behind it,
            // so that it is reused late, too.
            self.cursor = after(address);
        }
    }

    /// Whether endpoints may have this address, inside or outside the range that is given out.
    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        let (first, last) = range::usable(self.lease.subnet);
        self.lease.subnet.contains(address) && (first..=last).contains(&address)
    }

    fn next_free(&self) -> Option<IpAddr> {
        if self.range_around(self.cursor).is_some() {
            return Some(self.cursor);
        }
        self.free
            .range(self.cursor..)
            .chain(&self.free)
            .next()
            .map(|(first, _)| *first)
    }

    /// Takes this address, if it is one that can be given.
    pub(crate) fn take(&mut self, address: IpAddr) {
        let Some((first, last)) = self.range_around(address) else {
            return;
        };
        self.free.remove(&first);
        if first < address {
            self.free.insert(first, before(address));
        }
        if address < last {
            self.free.insert(after(address), last);
        }
        self.used += 1;
    }

    fn range_around(&self, address: IpAddr) -> Option<(IpAddr, IpAddr)> {
        let (first, last) = self.free.range(..=address).next_back()?;
        (*last >= address).then_some((*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_of_before_parts_were_given_is_read() {
        let lease = SubnetLease {
            subnet: "10.0.9.0/24".parse().unwrap(),
            gateway: "10.0.9.1".parse().unwrap(),
        };
        let pool = Pool::new(lease, None);
        let mut written = serde_json::to_value(&pool).unwrap();
        assert!(written.as_object_mut().unwrap().remove("cursors").is_some());
        assert_eq!(serde_json::from_value::<Pool>(written).unwrap(), pool);
    }

    #[test]
    fn ranges_that_touch_become_one_whatever_the_order_of_release() {
        for order in [[2, 3, 4], [4, 3, 2], [2, 4, 3], [3, 2, 4]] {
            let gateway = IpAddr::from([10, 0, 9, 1]);
            let lease = SubnetLease {
                subnet: "10.0.9.0/29".parse().unwrap(),
                gateway,
            };
            let mut pool = Pool::new(lease, None);
            let fresh = pool.free.clone();
            for _ in 0..5 {
                pool.give();
            }
            assert!(!pool.has_room());
            for last in order.into_iter().chain([5, 6]) {
                pool.give_back([10, 0, 9, last].into());
            }
            assert_eq!((pool.free, pool.used), (fresh, 1));
        }
    }
}
