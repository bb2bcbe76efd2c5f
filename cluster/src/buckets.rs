//! Token buckets, one for each place of origin: so many at once, then so many a second.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The most origins that are told apart. Beyond them the one with the fullest bucket is forgotten.
const ORIGINS: usize = 1024;

/// Whom an address belongs to: an IPv4 address, or the 64 bits of an IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Ipv6Addr::from_bits(network).into()
            }
            IpAddr::V4(address) => address.into(),
        })
    }
}

/// How much a bucket holds, and how long one token takes to come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub burst: u32,
    pub every: Duration,
}

impl Rate {
    fn whole(self) -> Duration {
        self.every * self.burst
    }
}

/// One bucket. It is kept as the time until which its tokens are spent: each token taken puts that
/// off, and a time that has passed is a full bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    full_at: Instant,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let spent = self.full_at.max(now) + rate.every;
        let has_one = spent <= now + rate.whole();
        if has_one {
            self.full_at = spent;
        }
        has_one
    }
}

/// A bucket for each origin.
pub(crate) struct Buckets {
    rate: Rate,
    by: Mutex<BTreeMap<Origin, Bucket>>,
}

impl Buckets {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            by: Mutex::default(),
        }
    }

    /// Takes a token of this origin, if there is one.
    pub(crate) fn take(&self, origin: Origin) -> bool {
        let now = Instant::now();
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        if by.len() >= ORIGINS && !by.contains_key(&origin) {
            by.retain(|_, bucket| bucket.full_at > now);
            let fullest = by.iter().min_by_key(|(_, bucket)| bucket.full_at);
            let fullest = fullest.map(|(&origin, _)| origin);
            if let Some(fullest) = fullest.filter(|_| by.len() >= ORIGINS) {
                by.remove(&fullest);
            }
        }
        let full = Bucket { full_at: now };
        by.entry(origin).or_insert(full).take(self.rate, now)
    }

    /// Puts a token back that was taken.
    pub(crate) fn give_back(&self, origin: Origin) {
        let mut by = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = by.get_mut(&origin) {
            bucket.full_at -= self.rate.every;
        }
    }
}

/// One bucket for all.
pub(crate) struct Common {
    rate: Rate,
    bucket: Mutex<Bucket>,
}

impl Common {
    pub(crate) fn new(rate: Rate) -> Self {
        let full_at = Instant::now();
        Self {
            rate,
            bucket: Mutex::new(Bucket { full_at }),
        }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.rate, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const RATE: Rate = Rate {
        burst: 3,
        every: Duration::from_secs(1),
    };

    fn origin(text: &str) -> Origin {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn taken(buckets: &Buckets, origin: Origin, asked: usize) -> usize {
        (0..asked).filter(|_| buckets.take(origin)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_one_each_second() {
        let buckets = Buckets::new(RATE);
        let (one, other) = (origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(taken(&buckets, one, 10), 3);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(taken(&buckets, one, 10), 2);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(taken(&buckets, one, 10), 3);
        assert_eq!(taken(&buckets, other, 10), 3);
        buckets.give_back(one);
        assert_eq!(taken(&buckets, one, 10), 1);
    }

    #[test]
    fn an_ipv6_network_is_one_origin_and_each_ipv4_address_another() {
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:3::"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
    }

    #[tokio::test(start_paused = true)]
    async fn origins_take_bounded_memory_and_empty_buckets_stay_empty() {
        let buckets = Buckets::new(RATE);
        let guesser = origin("192.0.2.1");
        assert_eq!(taken(&buckets, guesser, 3), 3);
        for number in 0..10 * ORIGINS as u32 {
            let address = IpAddr::from(Ipv4Addr::from_bits(number));
            assert!(buckets.take(address.into()));
        }
        assert!(buckets.by.lock().unwrap().len() <= ORIGINS);
        assert!(!buckets.take(guesser));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(buckets.take(origin("2001:db8::1")));
        assert_eq!(buckets.by.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn all_share_the_common_bucket() {
        let common = Common::new(RATE);
        assert_eq!((0..10).filter(|_| common.take()).count(), 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(common.take() && !common.take());
    }
}
