//! Read-modify-write: atomic per key against all writers of all levels.
//!
//! Look at the newest version, decide, write on condition that it is still the newest. The first
//! look is at the index alone, as any reader sees it. If the write then finds another version, the
//! next look goes into the writer section and sees versions that are stored but not yet durable too;
//! what was decided on such a version is answered only when that version is durable.
//!
//! Whoever has to look again was overtaken: by a write that succeeded, by one that became durable, or
//! by a compaction that moved the record. Somebody always gets on.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use kvs_format::record::Kind;

use crate::engine::core::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::options::Durability;
use crate::engine::pending::Ticket;
use crate::engine::read::{Checks, Found};
use crate::engine::time::WallClock;
use crate::engine::value::Value;
use crate::engine::writer::{One, Outcome, Version, When};
use crate::storage::fs::Fs;
use crate::storage::pin::Pin;

/// What [`crate::Store::fetch_update`] does with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Nothing.
    Keep,
    /// Stores this value.
    Set(Vec<u8>),
    /// Removes the key.
    Remove,
}

/// The newest version of a key: see [`Engine::newest`].
pub(crate) struct Newest {
    /// `None` also if it has expired.
    pub(crate) value: Option<Value>,
    /// Unix milliseconds from which on it counts as removed.
    pub(crate) expires_at: Option<u64>,
    /// What must be durable before anybody is told.
    pub(crate) ticket: Option<Ticket>,
}

/// What is done to a key that was looked at.
pub(crate) enum Step<'v> {
    /// Nothing.
    Keep,
    /// It is removed.
    Remove,
    /// It gets this value, which expires then.
    Set(Cow<'v, [u8]>, Option<u64>),
    /// It keeps its value, if it has one, which expires then.
    Restamp(Option<u64>),
}

/// A key as it was found.
pub(crate) struct Seen {
    version: Version,
    /// `None` also if it has expired.
    pub(crate) value: Option<Value>,
    pub(crate) expires_at: Option<u64>,
    /// Keeps the segment of a version without value: a word must not come to mean another record as
    /// long as it is to be compared.
    _expired: Option<Pin>,
}

impl Seen {
    fn nothing(version: Version) -> Self {
        Self {
            version,
            value: None,
            expires_at: None,
            _expired: None,
        }
    }

    fn found(
        clock: &WallClock,
        version: impl FnOnce(bool) -> Version,
        found: Found,
        pin: Pin,
    ) -> Self {
        let alive = found.is_alive(clock);
        let (value, expired) = match alive {
            true => (
                Some(Value::new(pin, found.value_offset, found.value_len)),
                None,
            ),
            false => (None, Some(pin)),
        };
        Self {
            version: version(alive),
            value,
            expires_at: found.expires_at,
            _expired: expired,
        }
    }
}

impl<F: Fs> Engine<F> {
    /// See [`crate::Store::set_if_absent`].
    pub fn set_if_absent(&self, level: Durability, key: &[u8], value: &[u8]) -> Result<bool> {
        let one = One {
            kind: Kind::Set,
            expires_at: self.default_expiry(),
            key,
            value,
        };
        let outcome = self.write_one(level, one, When::Absent)?;
        Ok(outcome != Outcome::Needless)
    }

    /// See [`crate::Store::compare_and_swap`].
    pub fn compare_and_swap(
        &self,
        level: Durability,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool> {
        let mut swapped = false;
        self.update(level, key, |old| {
            swapped = old == expected;
            Ok(match (swapped, new) {
                (false, _) => Update::Keep,
                (true, Some(new)) => Update::Set(new.to_vec()),
                (true, None) => Update::Remove,
            })
        })?;
        Ok(swapped)
    }

    /// See [`crate::Store::fetch_update`].
    pub fn fetch_update(
        &self,
        level: Durability,
        key: &[u8],
        mut update: impl FnMut(Option<&[u8]>) -> Update,
    ) -> Result<Option<Value>> {
        self.update(level, key, |old| Ok(update(old)))
    }

    /// See [`crate::Store::increment`].
    pub fn increment(&self, level: Durability, key: &[u8], by: i64) -> Result<i64> {
        let mut sum = 0;
        self.update_with(level, key, |seen| {
            let old = match seen.value.as_deref() {
                None => 0,
                Some(text) => integer(text).ok_or(Error::NotAnInteger)?,
            };
            sum = old.checked_add(by).ok_or(Error::Overflow)?;
            let expires_at = match seen.value {
                Some(_) => seen.expires_at,
                None => self.default_expiry(),
            };
            Ok(Step::Set(sum.to_string().into_bytes().into(), expires_at))
        })?;
        Ok(sum)
    }

    /// What is not said of a new value's expiry is as the store says.
    fn update(
        &self,
        level: Durability,
        key: &[u8],
        mut update: impl FnMut(Option<&[u8]>) -> Result<Update>,
    ) -> Result<Option<Value>> {
        self.update_with(level, key, |seen| {
            Ok(match update(seen.value.as_deref())? {
                Update::Keep => Step::Keep,
                Update::Remove => Step::Remove,
                Update::Set(value) => Step::Set(Cow::Owned(value), self.default_expiry()),
            })
        })
    }

    /// Returns the version that `decide` was last asked about, which is the one it changed.
    pub(crate) fn update_with<'v>(
        &self,
        level: Durability,
        key: &[u8],
        mut decide: impl FnMut(&Seen) -> Result<Step<'v>>,
    ) -> Result<Option<Value>> {
        self.check_readable(key)?;
        let mut seen = self.look(key)?;
        loop {
            let step = match decide(&seen) {
                Ok(step) => step,
                Err(error) => {
                    self.rests_on(seen.version)?;
                    return Err(error);
                }
            };
            let old = seen.value.as_deref();
            let (value, expires_at) = match &step {
                Step::Set(value, at) => (Some(&**value), *at),
                Step::Restamp(at) => (old, *at),
                Step::Keep | Step::Remove => (None, None),
            };
            let one = match value {
                // Over already: that removes the key.
                Some(_) if expires_at.is_some_and(|at| at <= self.now_ms()) => None,
                Some(value) => Some(One {
                    kind: Kind::Set,
                    expires_at,
                    key,
                    value,
                }),
                None => None,
            };
            let one = match (one, &step) {
                (Some(one), _) => Some(one),
                (None, Step::Keep) => None,
                (None, _) => old.map(|_| One::tombstone(key)),
            };
            let Some(one) = one else {
                self.rests_on(seen.version)?;
                return Ok(seen.value);
            };
            match self.write_one(level, one, When::Unchanged(seen.version))? {
                Outcome::Changed => seen = self.look_deeply(key)?,
                Outcome::Written { .. } | Outcome::Needless => return Ok(seen.value),
            }
        }
    }

    /// Waits until the version that an answer rests on is durable.
    fn rests_on(&self, version: Version) -> Result<()> {
        match version {
            Version::Pending(lsn, _) => self.wait(Ticket(lsn)),
            Version::None | Version::Indexed(..) => Ok(()),
        }
    }

    /// The version that readers see.
    fn look(&self, key: &[u8]) -> Result<Seen> {
        let hash = self.hash_key.hash(key);
        for (word, pin) in self.candidates(hash).into_iter() {
            if let Some(found) = self.matches(&pin, word, key, Checks::Both)? {
                return Ok(Seen::found(
                    &self.config.wall_clock,
                    |alive| Version::Indexed(word, alive),
                    found,
                    pin,
                ));
            }
        }
        Ok(Seen::nothing(Version::None))
    }

    /// The newest value of `key`, durable or not.
    ///
    /// Cost: as [`Engine::get`] if no write is pending, else also one turn in the writer section.
    pub(crate) fn newest(&self, key: &[u8]) -> Result<Newest> {
        self.check_readable(key)?;
        let seen = match self.has_pending.load(Ordering::Acquire) {
            true => self.look_deeply(key)?,
            false => self.look(key)?,
        };
        Ok(Newest {
            value: seen.value,
            expires_at: seen.expires_at,
            ticket: match seen.version {
                Version::Pending(lsn, _) => Some(Ticket(lsn)),
                Version::None | Version::Indexed(..) => None,
            },
        })
    }

    /// The newest version, durable or not.
    fn look_deeply(&self, key: &[u8]) -> Result<Seen> {
        let fingerprint = self.hash_key.fingerprint(key);
        let pending = {
            let mut section = self.section.lock();
            self.check_writable(&mut section)?;
            section.pending.get(fingerprint).cloned()
        };
        let Some(pending) = pending else {
            return self.look(key);
        };
        let version = |alive| Version::Pending(pending.lsn, alive);
        let Some(place) = pending.new else {
            return Ok(Seen::nothing(version(false)));
        };
        let pin = place.slot.stripes.pin();
        let word = place.slot.word(fingerprint.lo, place.offset);
        let found = self
            .matches(&pin, word, key, Checks::Both)?
            .expect("a pending write's record is of its key");
        Ok(Seen::found(&self.config.wall_clock, version, found, pin))
    }
}

/// The number that `text` is, written as `i64` is displayed: no plus sign, no leading zeros.
fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::engine::config::Config;
    use crate::engine::expiry::SetOptions;
    use crate::engine::options::Options;
    use crate::storage::real::RealFs;

    /// A version that is stored but not yet durable, and expires meanwhile.
    #[test]
    fn a_pending_version_that_expires_is_not_there_for_an_update() {
        let time = Arc::new(AtomicU64::new(1_000));
        let clock = Arc::clone(&time);
        let now = move || UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst));
        let options = Options::new().clock(now);
        let engine = Engine::open(RealFs::in_memory(), Config::new(&options)).unwrap();
        engine.set(b"k", b"old").unwrap();
        // As long as this thread leads, nothing becomes durable.
        assert!(engine.commit.wait_or_lead(1_000).unwrap());
        let mut asked = Vec::new();
        std::thread::scope(|scope| {
            let setter = scope.spawn(|| {
                let soon = SetOptions::new().expires_at(2_000);
                engine.set_with(Durability::Sync, b"k", b"new", &soon)
            });
            while engine.section.lock().pending.is_empty() {
                std::thread::yield_now();
            }
            assert_eq!(engine.get(b"k").unwrap().unwrap(), b"old");
            time.store(2_000, Ordering::SeqCst);
            let updater = scope.spawn(|| {
                engine.fetch_update(Durability::Os, b"k", |old| {
                    asked.push(old.map(<[u8]>::to_vec));
                    Update::Set(b"after".to_vec())
                })
            });
            while engine.section.lock().next_lsn < 5 {
                std::thread::yield_now();
            }
            engine.commit.stop_leading();
            assert!(setter.join().unwrap().unwrap());
            assert!(updater.join().unwrap().unwrap().is_none());
        });
        assert_eq!(asked, [Some(b"old".to_vec()), None]);
        assert_eq!(engine.get(b"k").unwrap().unwrap(), b"after");
        engine.close_within(Duration::ZERO).unwrap();
    }

    #[test]
    fn an_integer_is_what_an_integer_prints() {
        for (text, number) in [
            ("0", Some(0)),
            ("-5", Some(-5)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("+5", None),
            ("05", None),
            ("-0", None),
            (" 5", None),
            ("5\n", None),
            ("", None),
        ] {
            assert_eq!(integer(text.as_bytes()), number, "{text:?}");
        }
    }
}
