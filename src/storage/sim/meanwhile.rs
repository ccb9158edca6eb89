//! What a test wants done at a certain sync of a file: by the call that syncs, in its thread.
//!
//! So a write can land while a sync is under way, or a sync can take as long as a test likes, without
//! anything being left to the scheduler.

use std::fmt;

type Act = Box<dyn FnOnce() + Send>;

/// An act that is due at some sync.
#[derive(Default)]
pub(super) struct Meanwhile {
    /// After how many more syncs, and what.
    due: Option<(u64, Act)>,
}

impl Meanwhile {
    pub(super) fn new(k: u64, act: Act) -> Self {
        Self {
            due: Some((k, act)),
        }
    }

    /// Counts a sync; what is to be done at this one.
    pub(super) fn take(&mut self) -> Option<Act> {
        let (left, _) = self.due.as_mut()?;
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                None
            }
            None => self.due.take().map(|(_, act)| act),
        }
    }
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = self.due.as_ref().map(|(left, _)| left);
        f.debug_tuple("Meanwhile").field(&left).finish()
    }
}
