//! Does operations to a real engine on a simulated disk, and asks the oracle after each of them.

mod damage;
mod expiry;
mod lives;
mod promise;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use kvs::testing::sim::{Change, Outcome, SimFs};
use kvs::testing::{Access, Engine, Fs, FsFile};
use kvs::{Batch, Compaction, Durability, Error, Expiry, Options, Update};

use crate::check::{is_hint, pairs, universe_holds, views_hold};
use crate::op::{Fill, How, Op, SNAPSHOTS, ValueSpec, key};
use crate::oracle::{Oracle, Version, Write};
use crate::seen::{Taken, Walk};

/// What the clock says when a run begins, in Unix milliseconds.
const START_MS: u64 = 1_000_000_000_000;

/// How the store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// When a write returns.
    pub durability: Durability,
    /// Records are written by `pwrite`, not through the map.
    pub write_path: bool,
    /// Where salts come from.
    pub seed: u64,
}

impl Setup {
    /// The smallest segments there are, and nothing that happens by itself.
    pub fn options(&self) -> Options {
        Options::new()
            .durability(self.durability)
            .force_write_path(self.write_path)
            .compaction(Compaction::Manual)
            .shard_bits(2)
            .segment_bytes(64 << 10)
            // Little enough for snapshots to be given up.
            .pinned_bytes_max(256 << 10)
            .default_ttl(self.default_ttl().map(Duration::from_millis))
    }

    /// Milliseconds that values live of which nothing is said: of some of the seeds that [`crate::setup`]
    /// makes, none of those that are chosen by hand.
    fn default_ttl(&self) -> Option<u64> {
        (self.seed >= 1 << 16 && self.seed.is_multiple_of(4)).then_some(70)
    }
}

/// What is wrong, and after which operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Number of the operation, from 0.
    pub step: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}: {}", self.step, self.message)
    }
}

impl std::error::Error for Failure {}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations.
    pub ops: u64,
    /// Times the store was opened.
    pub opens: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Damaged copies that were opened, each for reading only and for writing.
    pub damaged: u64,
    /// Operations that failed because a call was made to.
    pub failed: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.ops += other.ops;
        self.opens += other.opens;
        self.cuts += other.cuts;
        self.damaged += other.damaged;
        self.failed += other.failed;
    }
}

/// Does `ops` to a new store, closes it and opens it a last time.
///
/// # Errors
/// The first thing that the store must not do.
pub fn run(ops: &[Op], setup: &Setup) -> Result<Tally, Failure> {
    let mut runner = Runner::new(*setup)?;
    for op in ops {
        runner.apply(op)?;
    }
    runner.apply(&Op::Reopen)?;
    runner.apply(&Op::Check)?;
    Ok(runner.tally)
}

/// The shortest list to be had from `ops` by leaving out operations that still fails, and how. Of no
/// use on a list that does not fail.
pub fn shrunk(ops: &[Op], setup: &Setup) -> (Vec<Op>, Option<Failure>) {
    let mut best = ops.to_vec();
    let mut failure = run(ops, setup).err();
    if let Some(failure) = &failure {
        best.truncate(failure.step + 1);
    }
    let mut chunk = best.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < best.len() {
            let mut shorter = best.clone();
            shorter.drain(at..(at + chunk).min(best.len()));
            match run(&shorter, setup) {
                Err(shown) => (best, failure) = (shorter, Some(shown)),
                Ok(_) => at += chunk,
            }
        }
        chunk /= 2;
    }
    (best, failure)
}

/// What a read-modify-write says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done(bool),
    Old(Option<Vec<u8>>),
    Sum(i64),
    NotAnInteger,
    Overflow,
}

/// What `increment` is to say of `old`: by the letter, not as the engine does it.
fn sum(old: Option<&[u8]>, by: i64) -> Result<i64, Answer> {
    let mut number = 0i128;
    if let Some(text) = old {
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let is_number = match digits {
            [b'0'] => digits.len() == text.len(),
            [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit) && rest.len() < 19,
            _ => false,
        };
        if !is_number {
            return Err(Answer::NotAnInteger);
        }
        for digit in digits {
            number = number * 10 + i128::from(digit - b'0');
        }
        if digits.len() < text.len() {
            number = -number;
        }
        if i64::try_from(number).is_err() {
            return Err(Answer::NotAnInteger);
        }
    }
    i64::try_from(number + i128::from(by)).map_err(|_| Answer::Overflow)
}

/// A store, its disk, and the oracle.
pub struct Runner {
    setup: Setup,
    /// At which writes are done.
    level: Durability,
    /// Milliseconds.
    clock: Arc<AtomicU64>,
    /// What the system's clock says, in Unix milliseconds.
    wall: Arc<AtomicU64>,
    /// The latest that it ever said: by this keys expire.
    now: u64,
    /// With the clock of this process.
    options: Options,
    fs: SimFs,
    engine: Option<Arc<Engine<SimFs>>>,
    oracle: Oracle,
    tally: Tally,
    /// Grows with every value.
    sequence: u64,
    /// Place in the disk's record up to which failed syncs were looked for.
    looked: usize,
    /// A sync has failed since the store was opened.
    sync_failed: bool,
    /// A call has failed since the store was opened.
    troubled: bool,
    taken: [Option<Taken>; SNAPSHOTS],
    walk: Option<Walk>,
}

impl Runner {
    /// An empty store.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn new(setup: Setup) -> Result<Self, Failure> {
        Self::over(setup, SimFs::new())
    }

    /// An empty store on a disk that may have faults planned.
    ///
    /// # Errors
    /// If it cannot be opened although no call failed.
    pub fn over(setup: Setup, fs: SimFs) -> Result<Self, Failure> {
        let mut runner = Self {
            setup,
            level: setup.durability,
            clock: Arc::default(),
            wall: Arc::new(AtomicU64::new(START_MS)),
            now: START_MS,
            options: setup.options(),
            fs,
            engine: None,
            oracle: Oracle::new(),
            tally: Tally::default(),
            sequence: 0,
            looked: 0,
            sync_failed: false,
            troubled: false,
            taken: Default::default(),
            walk: None,
        };
        runner.oracle.set_now(START_MS);
        runner.begin_process();
        let opened = runner.open().and_then(|()| runner.same());
        opened.map_err(|message| Failure { step: 0, message })?;
        Ok(runner)
    }

    /// Options as the store was opened with, at a time that stands still: now.
    pub fn options(&self) -> Options {
        let now = UNIX_EPOCH + Duration::from_millis(self.now);
        self.setup.options().clock(move || now)
    }

    /// Its disk.
    pub fn fs(&self) -> &SimFs {
        &self.fs
    }

    /// What it was told.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The open store.
    ///
    /// # Panics
    /// If an earlier operation failed.
    pub fn engine(&self) -> &Arc<Engine<SimFs>> {
        self.engine
            .as_ref()
            .expect("nothing is done after a failure")
    }

    /// Does one operation.
    ///
    /// # Errors
    /// What the store did that it must not do.
    pub fn apply(&mut self, op: &Op) -> Result<(), Failure> {
        let step = self.tally.ops as usize;
        self.tally.ops += 1;
        let done = self.step(op);
        done.map_err(|message| Failure {
            step,
            message: format!("{op:?}: {message}"),
        })
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Set { key: id, value } => {
                let (key, value) = (key(*id), self.value(*value));
                let write = vec![(key.clone(), Some(self.version(value.clone())))];
                let level = self.level;
                self.write(write, |engine| engine.set_at(level, &key, &value))
            }
            Op::SetExpiring {
                key: id,
                value,
                past,
            } => {
                let (key, value) = (key(*id), self.value(*value));
                let at = if *past { 1 } else { u64::MAX };
                let version = Version {
                    value: value.clone(),
                    expires_at: Some(at),
                };
                let write = vec![(key.clone(), Some(version))];
                let level = self.level;
                self.write(write, |engine| {
                    engine.set_expiring_at(level, &key, &value, at)
                })
            }
            Op::SetWith {
                key: id,
                value,
                span,
                only,
            } => {
                let value = self.value(*value);
                self.set_with(key(*id), value, *span, *only)
            }
            Op::Expire { key: id, ms } => self.expire(key(*id), *ms),
            Op::BatchExpiring(writes) => {
                let mut batch = Batch::new();
                let mut told: Vec<Write> = Vec::new();
                for (id, value, ms) in writes {
                    let (key, value) = (key(*id), self.value(*value));
                    let at = self.now + u64::from(*ms);
                    batch.set_with_expiry(&key, &value, Expiry::At(at));
                    let expires_at = Some(at);
                    told.push((key, Some(Version { value, expires_at })));
                }
                let level = self.level;
                self.write(told, |engine| engine.write_at(level, &batch))
            }
            Op::ClockBack { ms } => {
                let wall = self.wall.load(Ordering::Relaxed);
                let back = wall.saturating_sub(u64::from(*ms));
                self.wall.store(back, Ordering::Relaxed);
                self.clock_was_set()
            }
            Op::Remove { key: id } => {
                let key = key(*id);
                let there = self.oracle.current().contains_key(&key);
                let mut answer = there;
                let write = vec![(key.clone(), None)];
                let level = self.level;
                self.write(write, |engine| {
                    engine.remove_at(level, &key).map(|found| answer = found)
                })?;
                match answer == there {
                    true => Ok(()),
                    false => Err(format!("remove said {answer}")),
                }
            }
            Op::Batch(writes) => {
                let mut batch = Batch::new();
                let mut told: Vec<Write> = Vec::new();
                for (id, value) in writes {
                    let (key, value) = (key(*id), value.map(|value| self.value(value)));
                    match &value {
                        Some(value) => batch.set(&key, value),
                        None => batch.remove(&key),
                    };
                    told.push((key, value.map(|value| self.version(value))));
                }
                let level = self.level;
                self.write(told, |engine| engine.write_at(level, &batch))
            }
            Op::Load(pairs) => {
                let pair = |(id, value): &(u8, ValueSpec)| {
                    let value = self.value(*value);
                    (key(*id), self.version(value), None)
                };
                let pairs = pairs.iter().map(pair).collect();
                self.load(pairs)
            }
            Op::LoadExpiring(pairs) => {
                let pair = |(id, value, ms): &(u8, ValueSpec, Option<u16>)| {
                    let expires_at = ms.map(|ms| self.now + u64::from(ms));
                    let value = self.value(*value);
                    let said = expires_at.map_or(Expiry::Never, Expiry::At);
                    (key(*id), Version { value, expires_at }, Some(said))
                };
                let pairs = pairs.iter().map(pair).collect();
                self.load(pairs)
            }
            Op::Update { key: id, how } => self.update(key(*id), *how),
            Op::At(level) => {
                self.level = level.durability();
                Ok(())
            }
            Op::Wait { ms } => {
                self.clock.fetch_add(u64::from(*ms), Ordering::Relaxed);
                self.wall.fetch_add(u64::from(*ms), Ordering::Relaxed);
                self.clock_was_set()
            }
            Op::ReadAll => {
                self.note_calls();
                match views_hold(self.engine(), self.oracle.current()) {
                    Ok(held) => held,
                    Err(Error::Poisoned) if self.troubled => Ok(()),
                    Err(error) => Err(error.to_string()),
                }
            }
            Op::Snapshot { slot } => self.take(usize::from(*slot) % SNAPSHOTS),
            Op::ReadSnapshot { slot } => self.read_snapshot(usize::from(*slot) % SNAPSHOTS),
            Op::DropSnapshot { slot } => {
                self.taken[usize::from(*slot) % SNAPSHOTS] = None;
                Ok(())
            }
            Op::Scan { count, pairs } => self.scan(usize::from(*count), *pairs),
            Op::Flush => self.promise(|engine| engine.flush()),
            Op::Rotate => self.effectless(|engine| engine.rotate_now()).map(|_| ()),
            Op::Compact => {
                self.compacted(|engine| engine.compact().map(|_| ()))?;
                self.same()
            }
            Op::CompactSome { mask } => {
                let mask = u64::from(*mask);
                self.compacted(|engine| engine.compact_subset(mask).map(|_| ()))?;
                self.same()
            }
            Op::Check => self.check(),
            Op::Reopen => self.reopen(&[]),
            Op::Damage {
                closed: true,
                wounds,
            } => self.reopen(wounds),
            Op::Damage { wounds, .. } => self.damaged(&self.fs.snapshot(), wounds, false),
            Op::Kill => {
                self.engine = None;
                self.taken = Default::default();
                self.fs.clear_faults();
                self.begin_process();
                self.open()?;
                self.recovered()
            }
            Op::Crash { back, survive } => {
                let len = self.fs.log_len();
                let cut = len - usize::from(*back).min(len);
                let image = self.fs.image(cut, *survive);
                let disk = self.fs.clone();
                self.crash(cut, &image).map_err(|message| {
                    let lines = disk.log_lines()[..cut].join("\n");
                    format!("{message}\n  cut {cut} of {len}; the disk had recorded:\n{lines}")
                })
            }
            Op::DropHint { which } => {
                if let Some(name) = self.hint(*which) {
                    let _ = self.fs.unlink(&name);
                }
                Ok(())
            }
            Op::DamageHint { which, at, bit } => {
                if let Some(name) = self.hint(*which) {
                    self.flip(&name, *at, *bit);
                }
                Ok(())
            }
            Op::Fail(strike) => {
                self.note_calls();
                self.fs.fail_at(u64::from(strike.k), strike.fault);
                Ok(())
            }
        }
    }

    /// Does one, and compares its answer with what the oracle makes of the key.
    fn update(&mut self, key: Vec<u8>, how: How) -> Result<(), String> {
        let old = self.oracle.current().get(&key);
        let old = old.map(|version| version.value.clone());
        let level = self.level;
        // What it is to answer, and to write if anything.
        let (answer, new): (Answer, Option<Option<Vec<u8>>>) = match how {
            How::IfAbsent(value) => {
                let new = Some(self.value(value)).filter(|_| old.is_none());
                (Answer::Done(old.is_none()), new.map(Some))
            }
            How::Swap { equal, new } => {
                let new = new.map(|value| self.value(value));
                let nothing = old.is_none() && new.is_none();
                (Answer::Done(equal), (equal && !nothing).then_some(new))
            }
            How::Replace(new) => {
                let new = new.map(|value| self.value(value));
                let nothing = old.is_none() && new.is_none();
                (Answer::Old(old.clone()), (!nothing).then_some(new))
            }
            How::Keep => (Answer::Old(old.clone()), None),
            How::Add(by) => match sum(old.as_deref(), by) {
                Ok(sum) => (Answer::Sum(sum), Some(Some(sum.to_string().into_bytes()))),
                Err(answer) => (answer, None),
            },
        };
        let version = |value| match (how, self.oracle.expiry(&key)) {
            (How::Add(_), Some(expires_at)) => Version { value, expires_at },
            _ => self.version(value),
        };
        let write = new.clone().map(|new| (key.clone(), new.map(version)));
        let mut said = None;
        self.write(write.into_iter().collect(), |engine| {
            let wanted = new.flatten();
            let answered = match how {
                How::IfAbsent(_) => {
                    let value = wanted.unwrap_or_default();
                    engine.set_if_absent(level, &key, &value).map(Answer::Done)
                }
                How::Swap { equal, new } => {
                    let other = [old.as_deref().unwrap_or(&[]), b"!"].concat();
                    let expected = if equal {
                        old.as_deref()
                    } else {
                        Some(&other[..])
                    };
                    let new = new.and(Some(wanted.as_deref().unwrap_or(&[])));
                    let swapped = engine.compare_and_swap(level, &key, expected, new);
                    swapped.map(Answer::Done)
                }
                How::Replace(_) | How::Keep => {
                    let update = |_: Option<&[u8]>| match (how, &wanted) {
                        (How::Keep, _) => Update::Keep,
                        (_, Some(new)) => Update::Set(new.clone()),
                        (_, None) => Update::Remove,
                    };
                    let old = engine.fetch_update(level, &key, update);
                    old.map(|old| Answer::Old(old.map(|value| value.to_vec())))
                }
                How::Add(by) => match engine.increment(level, &key, by) {
                    Err(Error::NotAnInteger) => Ok(Answer::NotAnInteger),
                    Err(Error::Overflow) => Ok(Answer::Overflow),
                    sum => sum.map(Answer::Sum),
                },
            };
            answered.map(|answer| said = Some(answer))
        })?;
        match said.is_none_or(|said| said == answer) {
            true => self.look_at(&key),
            false => Err("it answered something else".to_owned()),
        }
    }

    /// Loads pairs: all or nothing, and durable whatever the level.
    fn load(&mut self, pairs: Vec<(Vec<u8>, Version, Option<Expiry>)>) -> Result<(), String> {
        let keys: BTreeSet<Vec<u8>> = pairs.iter().map(|(key, ..)| key.clone()).collect();
        let begun = self.fs.log_len();
        let was_refusing = self.sync_failed;
        let engine = self.engine();
        let result = match pairs.iter().any(|(_, _, said)| said.is_some()) {
            true => engine.load_with(
                pairs
                    .iter()
                    .map(|(key, version, said)| Ok((key, &version.value, *said))),
            ),
            false => engine.load(
                pairs
                    .iter()
                    .map(|(key, version, _)| Ok((key, &version.value))),
            ),
        };
        let failed_now = self.failed_syncs();
        let versions = pairs
            .into_iter()
            .map(|(key, version, _)| (key, Some(version)));
        let writes: Vec<Write> = versions.collect();
        match result {
            Ok(report) => {
                if (was_refusing || failed_now) && !writes.is_empty() {
                    return Err("it acknowledged a load although a sync had failed".to_owned());
                }
                let superseded = (writes.len() - keys.len()) as u64;
                if (report.pairs, report.superseded) != (writes.len() as u64, superseded) {
                    return Err(format!("it reported {report:?}"));
                }
                if !writes.is_empty() {
                    if let Some(walk) = &mut self.walk {
                        walk.note(&writes);
                    }
                    self.oracle.commit(begun, writes);
                    self.oracle.promise(self.fs.log_len());
                }
            }
            Err(error) => {
                self.excused(&error)?;
                if matches!(error, Error::Io { .. }) {
                    self.oracle.doubt(begun, writes);
                }
            }
        }
        keys.iter().try_for_each(|key| self.look_at(key))
    }

    fn take(&mut self, slot: usize) -> Result<(), String> {
        self.note_calls();
        self.taken[slot] = None;
        let snapshot = match self.engine().snapshot() {
            Ok(snapshot) => snapshot,
            Err(Error::Poisoned) if self.troubled => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let last = self.engine().stats().last_lsn;
        if snapshot.lsn() != last {
            return Err(format!("it is of LSN {} instead of {last}", snapshot.lsn()));
        }
        self.taken[slot] = Some(Taken {
            snapshot,
            shows: self.oracle.current().clone(),
            troubled: false,
        });
        self.read_snapshot(slot)
    }

    fn read_snapshot(&mut self, slot: usize) -> Result<(), String> {
        self.note_calls();
        let Some(taken) = &self.taken[slot] else {
            return Ok(());
        };
        if !taken.holds(self.troubled)? {
            self.taken[slot] = None;
        }
        Ok(())
    }

    fn scan(&mut self, count: usize, pairs: bool) -> Result<(), String> {
        self.note_calls();
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => Walk::over(self.oracle.current()),
        };
        let called = match pairs {
            false => self
                .engine()
                .scan_keys(walk.cursor, count)
                .map(|(next, keys)| {
                    let keys = keys.into_iter().map(Vec::from).collect();
                    (next, keys)
                }),
            true => match self.engine().scan_pairs(walk.cursor, count) {
                Ok((next, pairs)) => {
                    let of = |key: &[u8]| {
                        self.oracle
                            .current()
                            .get(key)
                            .map(|version| &version.value[..])
                    };
                    if let Some((key, _)) = pairs.iter().find(|(k, v)| of(k) != Some(&v[..])) {
                        return Err(format!("{key:?} came with another value"));
                    }
                    let keys = pairs.into_iter().map(|(key, _)| key.into()).collect();
                    Ok((next, keys))
                }
                Err(error) => Err(error),
            },
        };
        match called {
            Ok((next, keys)) => {
                walk.step(next, keys, self.oracle.current())?;
                self.walk = Some(walk).filter(|walk| !walk.cursor.is_end());
                Ok(())
            }
            Err(Error::Poisoned) if self.troubled => {
                self.walk = Some(walk);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The bytes of the next value.
    fn value(&mut self, spec: ValueSpec) -> Vec<u8> {
        self.sequence += 1;
        let len = spec.len as usize;
        match spec.fill {
            Fill::Zero => vec![0; len],
            Fill::Number => self.sequence.to_string().into_bytes(),
            Fill::Unique => {
                let mut bytes = self.sequence.to_be_bytes().repeat(len / 8 + 1);
                bytes.truncate(len);
                bytes
            }
            Fill::Forged { file, from } => {
                let names = self.fs.names();
                let mut bytes = match names.is_empty() {
                    true => Vec::new(),
                    false => self.fs.read(&names[usize::from(file) % names.len()]),
                };
                let from = usize::from(from) * 8 % bytes.len().max(1);
                bytes.drain(..from);
                bytes.resize(len, 0);
                bytes
            }
        }
    }

    fn hint(&self, which: u8) -> Option<String> {
        let mut names = self.fs.names();
        names.retain(|name| is_hint(name));
        let which = usize::from(which).checked_rem(names.len())?;
        Some(names.swap_remove(which))
    }

    /// Best effort: the calls it makes may be the ones that fail.
    fn flip(&self, name: &str, at: u16, bit: u8) {
        let Ok(file) = self.fs.open(name, Access::ReadWrite) else {
            return;
        };
        let Ok(len) = file.len() else { return };
        let Some(at) = u64::from(at).checked_rem(len) else {
            return;
        };
        let mut byte = [0];
        if file.read_at(at, &mut byte).is_ok() {
            byte[0] ^= 1 << (bit % 8);
            let _ = file.write_at(at, &byte);
        }
    }

    /// Remembers what the plan made fail before another takes its place.
    fn note_calls(&mut self) {
        self.troubled |= self.fs.fired() > 0;
    }

    /// True if an error is nobody's fault but the test's.
    fn excused(&mut self, error: &Error) -> Result<(), String> {
        self.note_calls();
        self.tally.failed += 1;
        let typed = matches!(
            error,
            Error::Io { .. } | Error::DiskFull { .. } | Error::Poisoned
        );
        match self.troubled && typed {
            true => Ok(()),
            false => Err(format!("unexpected error: {error} ({error:?})")),
        }
    }

    /// Looks for syncs that failed since it last looked; true if there were any.
    fn failed_syncs(&mut self) -> bool {
        self.note_calls();
        let len = self.fs.log_len();
        if !self.troubled || self.looked == len {
            self.looked = len;
            return false;
        }
        let log = self.fs.log();
        let new = log[self.looked..].iter().any(|op| {
            let is_sync = matches!(op.change, Change::SyncData { .. } | Change::SyncDir);
            is_sync && op.outcome != Outcome::Done
        });
        self.looked = len;
        self.sync_failed |= new;
        new
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.clock.load(Ordering::Relaxed))
    }

    /// Something that writes pairs.
    fn write(
        &mut self,
        writes: Vec<Write>,
        act: impl FnOnce(&Engine<SimFs>) -> kvs::Result<()>,
    ) -> Result<(), String> {
        let keys: BTreeSet<Vec<u8>> = writes.iter().map(|(key, _)| key.clone()).collect();
        let begun = self.fs.log_len();
        let sync = self.level == Durability::Sync;
        let was_refusing = self.sync_failed;
        let result = act(self.engine());
        let failed_now = self.failed_syncs();
        let wrote = self.fs.log_len() > begun;
        match result {
            // The first to be refused writes that down, and may be told something else than that.
            Ok(()) if was_refusing && wrote && !writes.is_empty() => {
                return Err("it accepted a write after a sync had failed".to_owned());
            }
            Ok(()) if sync && failed_now => {
                return Err("it acknowledged a write whose sync failed".to_owned());
            }
            // Removing what is not there, a batch of nothing, an update that does nothing.
            Ok(()) if !wrote || writes.is_empty() => {}
            Ok(()) => {
                if let Durability::Interval(_) = self.level {
                    self.oracle.keep_bound(self.now(), self.fs.log_len());
                }
                if let Some(walk) = &mut self.walk {
                    walk.note(&writes);
                }
                self.oracle.commit(begun, writes);
                if let Durability::Interval(interval) = self.level {
                    self.oracle.owe(self.now() + interval);
                }
                if sync {
                    self.oracle.promise(self.fs.log_len());
                }
            }
            Err(error) => {
                self.excused(&error)?;
                if matches!(error, Error::Io { .. }) && !writes.is_empty() {
                    self.oracle.doubt(begun, writes);
                }
            }
        }
        keys.iter().try_for_each(|key| self.look_at(key))
    }

    /// A key shows its newest acknowledged value, or the store refuses to tell after a failure.
    fn look_at(&self, key: &[u8]) -> Result<(), String> {
        let expected = self.oracle.current().get(key);
        match self.engine().get(key) {
            Ok(found) if found.as_deref() == expected.map(|version| &version.value[..]) => {
                self.look_at_expiry(key)
            }
            Ok(found) => Err(format!(
                "afterwards {:?} has {:02x?}",
                String::from_utf8_lossy(&key[..key.len().min(16)]),
                found.as_deref().map(|value| &value[..value.len().min(16)]),
            )),
            Err(Error::Poisoned) if self.troubled => Ok(()),
            Err(error) => Err(format!("get: {error}")),
        }
    }

    /// Something that changes no pair. True if it succeeded.
    fn effectless(
        &mut self,
        act: impl FnOnce(&Engine<SimFs>) -> kvs::Result<()>,
    ) -> Result<bool, String> {
        let result = act(self.engine());
        self.failed_syncs();
        match result {
            Ok(()) => Ok(true),
            Err(error) => self.excused(&error).map(|()| false),
        }
    }

    /// The open store shows what it must.
    fn same(&mut self) -> Result<(), String> {
        self.note_calls();
        let found = match self.engine().pairs() {
            Err(Error::Poisoned) if self.troubled => return Ok(()),
            _ => pairs(self.engine())?,
        };
        match found == *self.oracle.current() {
            true => Ok(()),
            false => Err(crate::oracle::differences(self.oracle.current(), &found).join("\n    ")),
        }
    }

    fn check(&mut self) -> Result<(), String> {
        self.note_calls();
        if self.troubled {
            return self.same();
        }
        let held = universe_holds(self.engine(), self.oracle.current());
        self.note_calls();
        match self.troubled {
            // Reading by call failed, as it was made to; reading the map must not.
            true => self.same(),
            false => held,
        }
    }
}
