//! The pace of what is read again although no notice names it: some changes cause none.

use std::time::{Duration, Instant};

/// The least time between two turns.
const PERIOD: Duration = Duration::from_millis(900);
/// Turns take one part of so many of the time: 0.17 %.
const SHARE: u32 = 600;
/// However long one takes, the next comes after this time.
const LAST: Duration = Duration::from_secs(10);

/// When the next turn is due.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    due: Option<Instant>,
}

impl Turn {
    /// Whether it is time; the first turn is due at once.
    pub(crate) fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    /// A turn has ended that took this long.
    pub(crate) fn took(&mut self, cost: Duration) {
        self.due = Some(Instant::now() + pause(cost));
    }
}

fn pause(cost: Duration) -> Duration {
    (cost * SHARE).clamp(PERIOD, LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_comes_each_period_or_takes_its_share_of_the_time() {
        assert_eq!(pause(Duration::ZERO), PERIOD);
        assert_eq!(pause(Duration::from_millis(10)), Duration::from_secs(6));
        assert_eq!(pause(Duration::from_secs(1)), LAST);
        let mut turn = Turn::default();
        assert!(turn.is_due());
        turn.took(Duration::ZERO);
        assert!(!turn.is_due());
    }
}
