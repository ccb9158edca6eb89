//! Calls that fail on purpose: which one, how, and what it did nevertheless.
//!
//! Every fallible call is counted, whether it fails or not, so that a test can run a workload once to
//! learn their number and then once more for each of them.

use std::io;

pub use rustix::io::Errno;

/// A fallible call of the seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are those of the methods of `Fs` and `FsFile`.
pub enum Call {
    List,
    Create,
    CreateOrTruncate,
    Open,
    Rename,
    Link,
    Publish,
    Unlink,
    SyncDir,
    Len,
    Allocated,
    Allocate,
    SetLen,
    ReadAt,
    WriteAt,
    SyncData,
    Map,
    Store,
}

/// How often a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The one call fails, the next succeeds.
    Once,
    /// That call fails and every later one too.
    Forever,
}

/// What a failing call did before it failed. A failing sync never did anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A write applied the first half of its bytes; other calls nothing.
    Half,
    /// All of it: the error is the only thing that went wrong.
    Whole,
}

/// A failure to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What the call answers.
    pub errno: Errno,
    /// How often.
    pub mode: Mode,
    /// What it did nevertheless.
    pub effect: Effect,
}

impl Fault {
    /// Fails one call, which has no effect.
    pub const fn once(errno: Errno) -> Self {
        Self {
            errno,
            mode: Mode::Once,
            effect: Effect::None,
        }
    }

    /// Fails a call and all later ones, which have no effect.
    pub const fn forever(errno: Errno) -> Self {
        Self {
            errno,
            mode: Mode::Forever,
            effect: Effect::None,
        }
    }

    /// The same failure after some of the work was done.
    #[must_use]
    pub const fn after(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    pub(super) fn error(self) -> io::Error {
        self.errno.into()
    }
}

/// When to fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Number of the call, from 0, since the plan was made.
    pub(super) at: u64,
    /// Only these calls are counted for `at` and only these fail.
    pub(super) only: Option<Call>,
    pub(super) what: Trouble,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    Fault(Fault),
    /// The machine is off: nothing happens any more and nothing is recorded.
    Crash,
}

/// Counts calls and says which of them fail.
#[derive(Debug, Default)]
pub(super) struct Faults {
    plan: Option<Plan>,
    calls: u64,
    /// Calls that the plan counts.
    matching: u64,
    fired: u64,
}

impl Faults {
    /// Starts to count anew, with `plan` in force.
    pub(super) fn set(&mut self, plan: Option<Plan>) {
        *self = Self {
            plan,
            ..Self::default()
        };
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    pub(super) fn fired(&self) -> u64 {
        self.fired
    }

    /// Counts `call`. `Ok(None)`: it goes ahead. `Ok(Some)`: it fails that way and is recorded.
    ///
    /// # Errors
    /// `EIO` if the machine is off.
    pub(super) fn next(&mut self, call: Call) -> io::Result<Option<Fault>> {
        self.calls += 1;
        let Some(plan) = self.plan else {
            return Ok(None);
        };
        if plan.only.is_some_and(|only| only != call) {
            return Ok(None);
        }
        let number = self.matching;
        self.matching += 1;
        if number < plan.at {
            return Ok(None);
        }
        match plan.what {
            Trouble::Fault(fault) if number > plan.at && fault.mode == Mode::Once => Ok(None),
            Trouble::Fault(fault) => {
                self.fired += 1;
                Ok(Some(fault))
            }
            Trouble::Crash => {
                self.fired += 1;
                Err(Errno::IO.into())
            }
        }
    }
}
