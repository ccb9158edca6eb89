//! Until when writes of the level `Interval` must be durable.

use crate::sync::thread::JoinHandle;
use std::time::Duration;

use crate::sync::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(crate) struct State {
    /// When the next sync should begin, by the engine's clock.
    pub(crate) due: Option<Duration>,
    pub(crate) worker: Option<JoinHandle<()>>,
    pub(crate) stop: bool,
}

/// The thread that syncs, once there is one.
#[derive(Debug, Default)]
pub(crate) struct Interval {
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Condvar,
}

/// Until when writes of this level must be durable.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// Of the oldest write that belongs to no group yet, and its interval.
    pub(crate) open: Option<(Duration, Duration)>,
    /// Of the oldest write of the group that is being synced.
    in_group: Option<Duration>,
}

impl Deadlines {
    pub(crate) fn first(&self) -> Option<Duration> {
        let open = self.open.map(|(deadline, _)| deadline);
        self.in_group.into_iter().chain(open).min()
    }

    /// Everything stored so far belongs to the group.
    pub(crate) fn close_group(&mut self) {
        self.in_group = self.first();
        self.open = None;
    }

    /// The group is durable.
    pub(crate) fn group_is_durable(&mut self) {
        self.in_group = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_first_deadline_is_the_oldest_writes_until_its_group_is_durable() {
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.first(), None);
        deadlines.open = Some((ms(100), ms(100)));
        deadlines.close_group();
        deadlines.open = Some((ms(160), ms(100)));
        assert_eq!(deadlines.first(), Some(ms(100)));
        deadlines.group_is_durable();
        assert_eq!(deadlines.first(), Some(ms(160)));
        deadlines.close_group();
        deadlines.close_group();
        assert_eq!(
            deadlines.first(),
            Some(ms(160)),
            "a group that failed is still owed"
        );
    }
}
