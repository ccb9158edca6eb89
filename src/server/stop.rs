//! Ending a server from elsewhere.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

type Hook = Box<dyn Fn() + Send>;

#[derive(Default)]
struct Inner {
    stopped: AtomicBool,
    hooks: Mutex<Vec<Hook>>,
}

/// Ends a running server from elsewhere. A clone ends the same one.
#[derive(Clone, Default)]
pub struct Stopper {
    inner: Arc<Inner>,
}

impl fmt::Debug for Stopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopper")
            .field("stopped", &self.is_stopped())
            .finish()
    }
}

impl Stopper {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Lets the server answer what it has received, then end. Returns at once.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        self.inner.hooks.lock().iter().for_each(|hook| hook());
    }

    /// Whether it was told to.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::SeqCst)
    }

    /// How a driver that waits is woken; at once if it is too late.
    pub(crate) fn on_stop(&self, hook: impl Fn() + Send + 'static) {
        self.inner.hooks.lock().push(Box::new(hook));
        if self.is_stopped() {
            self.stop();
        }
    }
}
