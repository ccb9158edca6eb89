//! What the store was told, in the order in which it was told, and so what it may say.
//!
//! The state after n commits is known by a hash alone, so that asking which prefix of the commits a
//! store shows costs as many comparisons as there are candidates.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::check::Pairs;

/// A value, and the Unix millisecond from which on it is not there.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Version {
    /// Its bytes.
    pub value: Vec<u8>,
    /// When it expires.
    pub expires_at: Option<u64>,
}

impl From<Vec<u8>> for Version {
    /// One that lives for ever.
    fn from(value: Vec<u8>) -> Self {
        Self {
            value,
            expires_at: None,
        }
    }
}

impl Version {
    fn is_alive(&self, now: u64) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

/// A key and its new version; `None` if it was removed.
pub type Write = (Vec<u8>, Option<Version>);

/// As [`Pairs`], with those that have expired.
type Versions = BTreeMap<Vec<u8>, Version>;

#[derive(Clone, Debug)]
struct Commit {
    writes: Vec<Write>,
    /// Where the record of the disk was when it began.
    begun: usize,
}

/// A state that a store may be in.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    versions: &'a Versions,
    now: u64,
}

impl<'a> State<'a> {
    /// What is to be seen under `key`.
    pub fn get(&self, key: &[u8]) -> Option<&'a [u8]> {
        let version = self.versions.get(key)?;
        version.is_alive(self.now).then_some(&version.value[..])
    }

    /// True if exactly these pairs are to be seen, with when they expire.
    pub fn shows(&self, pairs: &Pairs) -> bool {
        visible(self.versions, self.now) == *pairs
    }
}

/// The commits, what was promised of them, what is in doubt.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// State before the first commit; durable.
    base: Versions,
    commits: Vec<Commit>,
    /// Unix milliseconds.
    now: u64,
    /// Hash of what is to be seen now of the state after the first i commits.
    states: Vec<u64>,
    newest: Versions,
    /// What is to be seen of it now.
    visible: Pairs,
    /// From this place in the record of the disk on, that many commits are durable.
    promises: Vec<(usize, usize)>,
    /// Commits that have to be durable before others of level `Interval` are acknowledged: from when
    /// on, and how many.
    owed: Vec<(Duration, usize)>,
    /// Commits that failed behind the last good one. At most one of them is there.
    doubtful: Vec<Commit>,
    /// Hashes of all pairs ever written.
    written: HashSet<u64>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self::new()
    }
}

fn hash_of(key: &[u8], what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, what).hash(&mut hasher);
    hasher.finish()
}

/// A hash of a whole state, which can be kept up to date: the order of the pairs does not matter.
fn hash_all(pairs: &Pairs) -> u64 {
    pairs.iter().fold(0u64, |sum, (key, value)| {
        sum.wrapping_add(hash_of(key, value))
    })
}

fn apply(versions: &mut Versions, writes: &[Write]) {
    for (key, version) in writes {
        match version {
            Some(version) => versions.insert(key.clone(), version.clone()),
            None => versions.remove(key),
        };
    }
}

fn visible(versions: &Versions, now: u64) -> Pairs {
    let alive = versions.iter().filter(|(_, version)| version.is_alive(now));
    alive
        .map(|(key, version)| (key.clone(), version.clone()))
        .collect()
}

impl Oracle {
    /// Of an empty store.
    pub fn new() -> Self {
        Self {
            base: Versions::new(),
            commits: Vec::new(),
            now: 0,
            states: vec![0],
            newest: Versions::new(),
            visible: Pairs::new(),
            promises: vec![(0, 0)],
            owed: Vec::new(),
            doubtful: Vec::new(),
            written: HashSet::new(),
        }
    }

    /// What the store must show.
    pub fn current(&self) -> &Pairs {
        &self.visible
    }

    /// When a key expires; `None` if it must not show.
    pub fn expiry(&self, key: &[u8]) -> Option<Option<u64>> {
        let version = self.newest.get(key)?;
        version.is_alive(self.now).then_some(version.expires_at)
    }

    /// It is this Unix millisecond now, in all states there ever were.
    pub fn set_now(&mut self, now: u64) {
        if now == self.now {
            return;
        }
        let span = self.now.min(now) + 1..=self.now.max(now);
        self.now = now;
        let commits = self.commits.iter().flat_map(|commit| &commit.writes);
        let versions = commits.filter_map(|(_, version)| version.as_ref());
        let times = versions.chain(self.base.values());
        let mut times = times.filter_map(|version| version.expires_at);
        if !times.any(|at| span.contains(&at)) {
            return;
        }
        self.visible = visible(&self.newest, now);
        let mut state = self.base.clone();
        self.states = vec![hash_all(&visible(&state, now))];
        let mut hash = self.states[0];
        for commit in &self.commits {
            for (key, version) in &commit.writes {
                let old = match version {
                    Some(version) => state.insert(key.clone(), version.clone()),
                    None => state.remove(key),
                };
                for old in old.iter().filter(|old| old.is_alive(now)) {
                    hash = hash.wrapping_sub(hash_of(key, old));
                }
                for new in version.iter().filter(|new| new.is_alive(now)) {
                    hash = hash.wrapping_add(hash_of(key, new));
                }
            }
            self.states.push(hash);
        }
    }

    /// How many commits there are.
    pub fn commits(&self) -> usize {
        self.commits.len()
    }

    /// Takes note of a commit that was acknowledged, and began when the disk had recorded `begun`
    /// operations. What failed before it is not there: its LSN would be above.
    pub fn commit(&mut self, begun: usize, writes: Vec<Write>) {
        self.doubtful.clear();
        let mut hash = self.states.last().copied().unwrap_or(0);
        for (key, version) in &writes {
            if let Some(old) = self.visible.remove(key) {
                hash = hash.wrapping_sub(hash_of(key, &old));
            }
            let Some(version) = version else { continue };
            self.written.insert(hash_of(key, &version.value[..]));
            if version.is_alive(self.now) {
                hash = hash.wrapping_add(hash_of(key, version));
                self.visible.insert(key.clone(), version.clone());
            }
        }
        apply(&mut self.newest, &writes);
        self.states.push(hash);
        self.commits.push(Commit { writes, begun });
    }

    /// Takes note of a commit that failed with its outcome unknown.
    pub fn doubt(&mut self, begun: usize, writes: Vec<Write>) {
        for (key, version) in &writes {
            if let Some(version) = version {
                self.written.insert(hash_of(key, &version.value[..]));
            }
        }
        self.doubtful.push(Commit { writes, begun });
    }

    /// Everything so far is durable, if the disk is cut behind its first `at` operations or later.
    pub fn promise(&mut self, at: usize) {
        if kvs::testing::oracle_forgets() {
            return;
        }
        self.promises.push((at, self.commits.len()));
    }

    /// A write of level `Interval` was acknowledged at the time `now`, when the disk had recorded `at`
    /// operations: so every earlier one that is as old as its interval is durable. Called before the
    /// write itself, if it wrote anything, is a commit.
    pub fn keep_bound(&mut self, now: Duration, at: usize) {
        let due = self.owed.iter().filter(|(deadline, _)| *deadline <= now);
        if let Some(n) = due.map(|(_, n)| *n).max() {
            self.promises.push((at, n));
            self.owed.retain(|(_, owed)| *owed > n);
        }
    }

    /// The last commit has to be durable before others of its level are acknowledged from `deadline` on.
    pub fn owe(&mut self, deadline: Duration) {
        self.owed.push((deadline, self.commits.len()));
    }

    /// How many commits may have survived a cut behind the first `cut` operations.
    pub fn survivors(&self, cut: usize) -> RangeInclusive<usize> {
        let promised = self.promises.iter().filter(|(at, _)| *at <= cut);
        let least = promised.map(|(_, n)| *n).max().unwrap_or(0);
        let most = self.commits.partition_point(|commit| commit.begun < cut);
        least..=most.max(least)
    }

    /// How many commits of those that may have survived the cut make up exactly `found`: the most,
    /// if there is a choice.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn survived(&self, cut: usize, found: &Pairs) -> Result<usize, String> {
        let range = self.survivors(cut);
        let hash = hash_all(found);
        if *range.end() == self.commits.len() && self.doubted(cut, hash) {
            return Ok(self.commits.len() + 1);
        }
        let Some(n) = range.clone().rev().find(|n| self.states[*n] == hash) else {
            return Err(self.explain(range, found));
        };
        Ok(n)
    }

    /// True if `hash` is that of all commits and one of the doubtful ones.
    fn doubted(&self, cut: usize, hash: u64) -> bool {
        self.doubt_that_gives(cut, hash).is_some()
    }

    fn doubt_that_gives(&self, cut: usize, hash: u64) -> Option<&Commit> {
        self.doubtful.iter().find(|commit| {
            let mut versions = self.newest.clone();
            apply(&mut versions, &commit.writes);
            commit.begun < cut && hash_all(&visible(&versions, self.now)) == hash
        })
    }

    /// The store was opened again without a cut: it must show everything acknowledged, and of what
    /// failed at most one whole operation. All of that is durable from the place `at` on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reopened(&mut self, found: &Pairs, at: usize) -> Result<(), String> {
        if *found != self.visible {
            let Some(commit) = self.doubt_that_gives(usize::MAX, hash_all(found)).cloned() else {
                let n = self.commits.len();
                return Err(self.explain(n..=n, found));
            };
            self.commit(commit.begun, commit.writes);
        }
        self.doubtful.clear();
        self.promise(at);
        Ok(())
    }

    /// The store was opened on what a cut left, which is `found`, the state after `n` commits, as
    /// [`Oracle::survived`] says: that is where everything goes on, with a new record of the disk.
    pub fn restarted(&mut self, n: usize, found: &Pairs) {
        let versions = match n <= self.commits.len() {
            true => self.versions(n),
            false => {
                let mut versions = self.newest.clone();
                let doubt = self.doubt_that_gives(usize::MAX, hash_all(found));
                if let Some(commit) = doubt {
                    apply(&mut versions, &commit.writes);
                }
                versions
            }
        };
        self.restart(versions);
    }

    /// A store that was found like this, and whose past is not known.
    pub fn found(found: &Pairs) -> Self {
        let mut oracle = Self::new();
        oracle.restart(found.clone());
        oracle
    }

    fn restart(&mut self, versions: Versions) {
        self.visible = visible(&versions, self.now);
        self.states = vec![hash_all(&self.visible)];
        self.base = versions.clone();
        self.newest = versions;
        self.commits.clear();
        self.owed.clear();
        self.promises = vec![(0, 0)];
        self.doubtful.clear();
    }

    /// After how many commits the newest state is that `fits`: after at least `least` of them, or
    /// after all and one that is in doubt.
    pub fn newest_state(&self, least: usize, fits: impl Fn(State<'_>) -> bool) -> Option<usize> {
        let now = self.now;
        let of = |versions: &Versions| fits(State { versions, now });
        let all = self.commits.len();
        if of(&self.newest) {
            return Some(all);
        }
        for commit in &self.doubtful {
            let mut versions = self.newest.clone();
            apply(&mut versions, &commit.writes);
            if of(&versions) {
                return Some(all + 1);
            }
        }
        let mut state = self.base.clone();
        let mut found = None;
        for n in 0..all {
            if n >= least && of(&state) {
                found = Some(n);
            }
            apply(&mut state, &self.commits[n].writes);
        }
        found
    }

    /// True if this value was once written to this key.
    pub fn was_written(&self, key: &[u8], value: &[u8]) -> bool {
        self.written.contains(&hash_of(key, value))
    }

    fn versions(&self, n: usize) -> Versions {
        let mut versions = self.base.clone();
        for commit in &self.commits[..n] {
            apply(&mut versions, &commit.writes);
        }
        versions
    }

    /// What is to be seen now of the state after the first `n` commits.
    pub fn state(&self, n: usize) -> Pairs {
        visible(&self.versions(n), self.now)
    }

    fn explain(&self, range: RangeInclusive<usize>, found: &Pairs) -> String {
        let mut text = format!(
            "the state is none of those after {} to {} of {} commits",
            range.start(),
            range.end(),
            self.commits.len()
        );
        let hash = hash_all(found);
        if let Some(n) = self.states.iter().rposition(|state| *state == hash) {
            text += &format!("; it is that after {n}");
        }
        let nearest = range.min_by_key(|n| differences(&self.state(*n), found).len());
        if let Some(n) = nearest {
            text += &format!("; compared with that after {n}:");
            for line in differences(&self.state(n), found).iter().take(12) {
                text += &format!("\n    {line}");
            }
        }
        text
    }
}

/// What differs, one line per key.
pub(crate) fn differences(expected: &Pairs, found: &Pairs) -> Vec<String> {
    let show = |pairs: &Pairs, key: &[u8]| match pairs.get(key) {
        None => "nothing".to_owned(),
        Some(Version { value, expires_at }) => format!(
            "{} bytes starting {:02x?}, expiring {expires_at:?}",
            value.len(),
            &value[..value.len().min(8)]
        ),
    };
    let mut keys: Vec<&Vec<u8>> = expected.keys().chain(found.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|key| expected.get(*key) != found.get(*key))
        .map(|key| {
            let name = String::from_utf8_lossy(&key[..key.len().min(16)]).into_owned();
            let (expected, found) = (show(expected, key), show(found, key));
            format!("{name:?}: expected {expected}, found {found}")
        })
        .collect()
}
