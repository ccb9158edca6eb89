//! What the runner does to keys that expire, and to the clock by which they do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use kvs::{Error, Expiry, SetOptions};

use super::Runner;
use crate::op::{Only, Span};
use crate::oracle::Version;

impl Runner {
    /// Another process has another clock. What an earlier one was told it does not know; here the
    /// system's clock is set right before it begins.
    pub(super) fn begin_process(&mut self) {
        self.wall.store(self.now, Ordering::Relaxed);
        let wall = Arc::clone(&self.wall);
        let now = move || UNIX_EPOCH + Duration::from_millis(wall.load(Ordering::Relaxed));
        self.options = self.setup.options().clock(now);
    }

    /// L-1: the clock was set; the store is told, and goes by the latest time there ever was.
    pub(super) fn clock_was_set(&mut self) -> Result<(), String> {
        self.now = self.now.max(self.wall.load(Ordering::Relaxed));
        self.oracle.set_now(self.now);
        if let Some(walk) = &mut self.walk {
            walk.reopened(self.oracle.current());
        }
        match self.engine().wall_clock_ms() {
            said if said == self.now => Ok(()),
            said => Err(format!("it is {} and the store says {said}", self.now)),
        }
    }

    /// A version that is written now and of whose expiry nothing is said.
    pub(super) fn version(&self, value: Vec<u8>) -> Version {
        Version {
            value,
            expires_at: self.setup.default_ttl().map(|ttl| self.now + ttl),
        }
    }

    /// Does it, and compares its answer.
    pub(super) fn set_with(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
        span: Span,
        only: Only,
    ) -> Result<(), String> {
        let old = self.oracle.expiry(&key);
        let options = match span {
            Span::Default => SetOptions::new(),
            Span::Never => SetOptions::new().expiry(Expiry::Never),
            Span::In(ms) => SetOptions::new().ttl(Duration::from_millis(ms.into())),
            Span::Keep => SetOptions::new().keep_ttl(),
        };
        let (options, holds) = match only {
            Only::Always => (options, true),
            Only::Absent => (options.if_absent(), old.is_none()),
            Only::Present => (options.if_present(), old.is_some()),
        };
        let mut version = self.version(value.clone());
        match (span, old) {
            (Span::Never, _) => version.expires_at = None,
            (Span::In(ms), _) => version.expires_at = Some(self.now + u64::from(ms)),
            (Span::Keep, Some(at)) => version.expires_at = at,
            (Span::Default | Span::Keep, _) => {}
        }
        let write = holds.then(|| (key.clone(), Some(version)));
        let mut said = holds;
        let level = self.level;
        self.write(write.into_iter().collect(), |engine| {
            let done = engine.set_with(level, &key, &value, &options);
            done.map(|done| said = done)
        })?;
        match said == holds {
            true => self.look_at(&key),
            false => Err(format!("it said {said}")),
        }
    }

    /// Does it, and compares its answer.
    pub(super) fn expire(&mut self, key: Vec<u8>, ms: Option<u16>) -> Result<(), String> {
        let old = self.oracle.expiry(&key);
        let new = ms.map(|ms| self.now + u64::from(ms));
        let answer = match (old, new) {
            (None, _) | (Some(None), None) => false,
            (Some(_), _) => true,
        };
        let version = self.oracle.current().get(&key).map(|version| Version {
            value: version.value.clone(),
            expires_at: new,
        });
        let write = (answer && old != Some(new)).then(|| (key.clone(), version));
        let mut said = answer;
        let level = self.level;
        self.write(write.into_iter().collect(), |engine| {
            let done = match new {
                Some(at) => engine.expire_at(level, &key, at),
                None => engine.persist(level, &key),
            };
            done.map(|done| said = done)
        })?;
        match said == answer {
            true => self.look_at(&key),
            false => Err(format!("it said {said}")),
        }
    }

    /// A key expires when it was told to.
    pub(super) fn look_at_expiry(&self, key: &[u8]) -> Result<(), String> {
        let expected = self.oracle.expiry(key);
        let said = match self.engine().expires_at(key) {
            Ok(said) => said.map(|expiry| match expiry {
                Expiry::Never => None,
                Expiry::At(ms) => Some(ms),
            }),
            Err(Error::Poisoned) if self.troubled => return Ok(()),
            Err(error) => return Err(format!("expires_at: {error}")),
        };
        match said == expected {
            true => Ok(()),
            false => Err(format!("it expires at {said:?}, not {expected:?}")),
        }
    }
}
