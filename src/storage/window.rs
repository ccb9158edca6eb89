//! Which index windows are free. A window goes back only when its segment is unmapped.

use std::sync::Arc;

use crate::sync::Mutex;

use crate::storage::location::{WINDOW_BYTES, WINDOWS_MAX};

#[derive(Debug, Default)]
struct Free {
    /// Windows that were in use and are not.
    returned: std::collections::BTreeSet<u16>,
    /// Windows from here on were never in use.
    fresh: usize,
}

/// The windows of one open store.
#[derive(Clone, Debug, Default)]
pub struct Windows(Arc<Mutex<Free>>);

/// Consecutive windows in use by one segment.
#[derive(Debug)]
pub struct WindowLease {
    windows: Windows,
    base: u16,
    count: u16,
}

impl Windows {
    /// Windows for a segment of `bytes`; `None` if none are left.
    pub fn lease(&self, bytes: u64) -> Option<WindowLease> {
        let count = bytes.div_ceil(WINDOW_BYTES).max(1) as usize;
        let mut free = self.0.lock();
        let reused = free.returned.iter().copied().find(|base| {
            (0..count).all(|i| {
                u16::try_from(usize::from(*base) + i).is_ok_and(|w| free.returned.contains(&w))
            })
        });
        let base = match reused {
            Some(base) => {
                for i in 0..count {
                    free.returned.remove(&(base + i as u16));
                }
                base
            }
            None if free.fresh + count <= WINDOWS_MAX => {
                let base = free.fresh as u16;
                free.fresh += count;
                base
            }
            None => return None,
        };
        Some(WindowLease {
            windows: self.clone(),
            base,
            count: count as u16,
        })
    }
}

impl WindowLease {
    /// The first of them.
    pub fn base(&self) -> u16 {
        self.base
    }

    /// How many.
    pub fn count(&self) -> u16 {
        self.count
    }
}

impl Drop for WindowLease {
    fn drop(&mut self) {
        let mut free = self.windows.0.lock();
        for i in 0..self.count {
            free.returned.insert(self.base + i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_come_back_only_when_the_lease_is_dropped() {
        let windows = Windows::default();
        let a = windows.lease(1).unwrap();
        let b = windows.lease(WINDOW_BYTES + 1).unwrap();
        assert_eq!((a.base(), a.count(), b.base(), b.count()), (0, 1, 1, 2));
        drop(b);
        let c = windows.lease(1).unwrap();
        assert_eq!(c.base(), 1);
        let d = windows.lease(2 * WINDOW_BYTES).unwrap();
        assert_eq!(d.base(), 3, "two in a row: 2 alone is not enough");
        drop((a, c));
        assert_eq!(windows.lease(3 * WINDOW_BYTES).unwrap().base(), 0);
    }

    #[test]
    fn windows_run_out_with_an_answer() {
        let windows = Windows::default();
        let half = WINDOWS_MAX as u64 / 2 * WINDOW_BYTES;
        let _a = windows.lease(half).unwrap();
        let _b = windows.lease(half).unwrap();
        assert!(windows.lease(1).is_none());
    }
}
