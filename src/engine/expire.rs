//! Keys that expire: when they do, and changing that.
//!
//! A key expires at a Unix millisecond that stands in its record, so changing it writes the record
//! again. From that millisecond on every read says that the key is not there; to recovery and to
//! compaction the record is from then on the removal of its key.

use std::borrow::Cow;
use std::time::Duration;

use kvs_format::record::Kind;

use crate::engine::batch::Batch;
use crate::engine::core::Engine;
use crate::engine::error::Result;
use crate::engine::expiry::{Condition, Expiry, Said, SetOptions, Ttl};
use crate::engine::options::Durability;
use crate::engine::rmw::Step;
use crate::engine::time::millis;
use crate::engine::writer::{One, When};
use crate::storage::fs::Fs;

/// A key, its value or `None`, and when that expires.
pub(crate) type Resolved<'a> = (&'a [u8], Option<&'a [u8]>, Option<u64>);

impl<F: Fs> Engine<F> {
    /// Unix milliseconds; never less than it said before.
    pub(crate) fn now_ms(&self) -> u64 {
        self.config.wall_clock.now_ms()
    }

    /// When a value expires of which nothing is said.
    #[inline]
    pub(crate) fn default_expiry(&self) -> Option<u64> {
        let ttl = self.config.default_ttl?;
        Some(self.now_ms().saturating_add(ttl))
    }

    fn expiry_of(&self, said: Said) -> Option<u64> {
        match said {
            Said::Nothing | Said::Keep => self.default_expiry(),
            Said::Is(Expiry::Never) => None,
            Said::Is(Expiry::At(ms)) => Some(ms),
            Said::In(ttl) => Some(self.now_ms().saturating_add(millis(ttl))),
        }
    }

    /// What a batch comes to now: the store's own word where it says nothing, a removal of what has
    /// expired already.
    pub(crate) fn resolve<'a>(&self, batch: &'a Batch) -> Vec<Resolved<'a>> {
        let default = self.default_expiry();
        let resolve = |(key, value, expiry): (&'a [u8], Option<&'a [u8]>, Option<Expiry>)| {
            let at = match expiry {
                _ if value.is_none() => None,
                None => default,
                Some(Expiry::Never) => None,
                Some(Expiry::At(ms)) if ms <= self.now_ms() => return (key, None, None),
                Some(Expiry::At(ms)) => Some(ms),
            };
            (key, value, at)
        };
        batch.entries().map(resolve).collect()
    }

    /// See [`crate::Store::set_with`].
    pub fn set_with(
        &self,
        level: Durability,
        key: &[u8],
        value: &[u8],
        options: &SetOptions,
    ) -> Result<bool> {
        let SetOptions { said, condition } = *options;
        if condition == Condition::None && said != Said::Keep {
            let expires_at = self.expiry_of(said);
            let one = match expires_at.is_some_and(|at| at <= self.now_ms()) {
                true => One::tombstone(key),
                false => One {
                    kind: Kind::Set,
                    expires_at,
                    key,
                    value,
                },
            };
            Self::check_sizes(key, value)?;
            return self.write_one(level, one, When::Always).map(|_| true);
        }
        let mut holds = false;
        self.update_with(level, key, |seen| {
            holds = match condition {
                Condition::None => true,
                Condition::Absent => seen.value.is_none(),
                Condition::Present => seen.value.is_some(),
            };
            Ok(match (holds, said) {
                (false, _) => Step::Keep,
                (true, Said::Keep) if seen.value.is_some() => {
                    Step::Set(Cow::Borrowed(value), seen.expires_at)
                }
                (true, said) => Step::Set(Cow::Borrowed(value), self.expiry_of(said)),
            })
        })?;
        Ok(holds)
    }

    /// See [`crate::Store::expires_at`].
    pub fn expires_at(&self, key: &[u8]) -> Result<Option<Expiry>> {
        self.check_readable(key)?;
        Ok(self.find(key)?.map(|(_, found)| match found.expires_at {
            None => Expiry::Never,
            Some(ms) => Expiry::At(ms),
        }))
    }

    /// See [`crate::Store::ttl`].
    pub fn ttl(&self, key: &[u8]) -> Result<Option<Ttl>> {
        Ok(match self.expires_at(key)? {
            None => None,
            Some(Expiry::Never) => Some(Ttl::Never),
            Some(Expiry::At(ms)) => match ms.saturating_sub(self.now_ms()) {
                0 => None,
                left => Some(Ttl::Left(Duration::from_millis(left))),
            },
        })
    }

    /// See [`crate::Store::expire_at`].
    pub fn expire_at(&self, level: Durability, key: &[u8], ms: u64) -> Result<bool> {
        self.restamp(level, key, |_| Some(Expiry::At(ms)))
    }

    /// See [`crate::Store::expire_in`].
    pub fn expire_in(&self, level: Durability, key: &[u8], ttl: Duration) -> Result<bool> {
        let at = self.now_ms().saturating_add(millis(ttl));
        self.expire_at(level, key, at)
    }

    /// See [`crate::Store::persist`].
    pub fn persist(&self, level: Durability, key: &[u8]) -> Result<bool> {
        self.restamp(level, key, |old| {
            (old != Expiry::Never).then_some(Expiry::Never)
        })
    }

    /// Lets the key, if it is there, expire when `decide` says, if it says anything; whether it did.
    fn restamp(
        &self,
        level: Durability,
        key: &[u8],
        decide: impl Fn(Expiry) -> Option<Expiry>,
    ) -> Result<bool> {
        let mut done = false;
        self.update_with(level, key, |seen| {
            let old = seen.expires_at.map_or(Expiry::Never, Expiry::At);
            let new = seen.value.as_ref().and_then(|_| decide(old));
            done = new.is_some();
            Ok(match new {
                None => Step::Keep,
                Some(new) if new == old => Step::Keep,
                Some(Expiry::Never) => Step::Restamp(None),
                Some(Expiry::At(ms)) => Step::Restamp(Some(ms)),
            })
        })?;
        Ok(done)
    }
}
