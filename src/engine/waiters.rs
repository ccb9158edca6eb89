//! Where threads wait for a sync: who leads, what is durable, what went wrong.

use std::io;
use std::path::PathBuf;

use parking_lot::{Condvar, Mutex};

use crate::engine::error::Error;

/// What a failed sync said, to be told to every waiter of its group.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    op: &'static str,
    path: PathBuf,
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl Failure {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Io { op, path, source } => Self {
                op,
                path: path.clone(),
                kind: source.kind(),
                code: source.raw_os_error(),
            },
            _ => Self {
                op: "complete the commit",
                path: PathBuf::new(),
                kind: io::ErrorKind::Other,
                code: None,
            },
        }
    }

    pub(crate) fn to_error(&self) -> Error {
        Error::Io {
            op: self.op,
            path: self.path.clone(),
            source: match self.code {
                Some(code) => io::Error::from_raw_os_error(code),
                None => self.kind.into(),
            },
        }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) durable_lsn: u64,
    pub(crate) leading: bool,
    pub(crate) failure: Option<Failure>,
}

/// Where waiters meet.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Condvar,
}

impl Commit {
    pub(crate) fn new(durable_lsn: u64) -> Self {
        Self {
            state: Mutex::new(State {
                durable_lsn,
                leading: false,
                failure: None,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Commit {
    /// Lets all waiters go with an error: the first one that is told counts.
    pub(crate) fn fail(&self, error: &Error) {
        let mut state = self.state.lock();
        state.failure.get_or_insert_with(|| Failure::of(error));
        drop(state);
        self.changed.notify_all();
    }
}
