//! The store as one burst of one connection sees it: what the engine has, under what the burst has
//! changed so far.
//!
//! Changes are kept here and given to the engine together, as one batch, so that a burst of durable
//! writes waits for the disk once. A burst that writes holds the stripes of all keys it names until
//! they are appended, so nobody else changes them in between; it reads what others have appended, also
//! what is not durable yet, and then must wait for that too before it answers. A burst that holds no
//! stripe reads what is durable.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engines::{Engine, EngineResult, Operation, SetOptions, Ticket};
use crate::{Batch, Expiry};

/// A value that was read.
pub enum Found<V> {
    /// In the engine.
    Stored(V),
    /// In the burst, not yet in the engine.
    Changed(Vec<u8>),
}

impl<V: AsRef<[u8]>> Found<V> {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Stored(value) => value.as_ref(),
            Self::Changed(value) => value,
        }
    }

    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Stored(value) => value.as_ref().to_vec(),
            Self::Changed(value) => value,
        }
    }
}

/// A value of the burst, and when it ends in milliseconds since 1970.
#[derive(Clone)]
struct Changed {
    value: Vec<u8>,
    ends: Option<u64>,
}

/// A value, and when it ends (`None`: never).
type Ending<V> = (Found<V>, Option<u64>);

/// See the head of this file.
pub struct View<'a, E> {
    pub engine: &'a E,
    /// Reads see what is appended and not durable yet.
    deep: bool,
    changes: HashMap<Vec<u8>, Option<Changed>>,
    /// Changes that nobody has asked about yet: all of them, or none if there are others. A burst that
    /// sets and does not look needs no more.
    blind: Batch,
    /// Changes and their bytes that there will probably be.
    expected: (usize, usize),
    /// What the answers since this was last asked rest on.
    rests: Rests,
    /// The last of what must be waited for.
    ticket: Option<Ticket>,
    /// The server has ended.
    over: &'a AtomicBool,
}

/// What an answer rests on besides what is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rests {
    /// Changes of this burst that are not appended yet.
    pub on_changes: bool,
    /// What somebody, or an earlier part of this burst, has appended.
    pub on_appended: bool,
}

impl<'a, E: Engine> View<'a, E> {
    /// `deep`: reads see what others have appended; the stripes of all keys are held. A walk over all
    /// keys breaks off when the server is `over`.
    pub fn new(engine: &'a E, deep: bool, over: &'a AtomicBool) -> Self {
        Self {
            engine,
            deep,
            changes: HashMap::new(),
            blind: Batch::new(),
            expected: (0, 0),
            rests: Rests::default(),
            ticket: None,
            over,
        }
    }

    /// There will probably be so many changes, of so many bytes together.
    pub fn expect(&mut self, changes: usize, bytes: usize) {
        self.expected = (changes, bytes);
    }

    /// What the answers since the last call rest on.
    pub fn take_rests(&mut self) -> Rests {
        std::mem::take(&mut self.rests)
    }

    /// What must be waited for before any of it is told.
    pub fn ticket(&self) -> Option<Ticket> {
        self.ticket
    }

    /// What `get` shows: of the engine alone.
    fn stored(&mut self, key: &[u8]) -> EngineResult<Option<E::Value>> {
        if !self.deep {
            return self.engine.get(key);
        }
        let newest = self.engine.newest(key)?;
        self.rest_on(newest.ticket);
        Ok(newest.value)
    }

    /// What was read must be waited for.
    fn rest_on(&mut self, ticket: Option<Ticket>) {
        if ticket.is_some() {
            self.rests.on_appended = true;
            self.ticket = self.ticket.max(ticket);
        }
    }

    /// Waits until all that was read is durable: from then on the engine shows it to everybody.
    fn settle(&self) -> EngineResult<()> {
        match self.ticket {
            Some(ticket) => self.engine.wait(ticket),
            None => Ok(()),
        }
    }

    /// How many changes there are, at most one of each key that somebody has looked at.
    pub fn changed(&self) -> usize {
        self.changes.len() + self.blind.len()
    }

    pub fn changed_keys(&self) -> impl Iterator<Item = &[u8]> {
        let blind = self.blind.operations().map(|(key, _)| key);
        self.changes.keys().map(Vec::as_slice).chain(blind)
    }

    /// Makes changes that can be looked at of those that could not.
    fn look(&mut self) {
        if self.blind.is_empty() {
            return;
        }
        for (key, value, expiry) in std::mem::take(&mut self.blind).entries() {
            let ends = match expiry {
                Some(Expiry::At(ms)) => Some(ms),
                Some(Expiry::Never) | None => None,
            };
            let changed = value.map(|value| Changed {
                value: value.to_vec(),
                ends,
            });
            self.changes.insert(key.to_vec(), changed);
        }
    }

    pub fn get(&mut self, key: &[u8]) -> EngineResult<Option<Found<E::Value>>> {
        self.look();
        if !self.changes.is_empty()
            && let Some(change) = self.changes.get(key)
        {
            self.rests.on_changes = true;
            return Ok(change.clone().map(|changed| Found::Changed(changed.value)));
        }
        Ok(self.stored(key)?.map(Found::Stored))
    }

    pub fn contains(&mut self, key: &[u8]) -> EngineResult<bool> {
        self.look();
        if !self.changes.is_empty()
            && let Some(change) = self.changes.get(key)
        {
            self.rests.on_changes = true;
            return Ok(change.is_some());
        }
        Ok(self.stored(key)?.is_some())
    }

    /// Stores a value that lives as long as values do of which nothing is said.
    pub fn set(&mut self, key: &[u8], value: impl Into<Vec<u8>> + AsRef<[u8]>) -> EngineResult<()> {
        let ttl = self.engine.default_ttl_ms();
        let ends = ttl.map(|ttl| self.engine.now_ms().saturating_add(ttl));
        self.set_ending(key, value, ends)
    }

    /// As [`View::get`], with when the value ends (`None`: never), from one look: between two of them
    /// time may pass.
    pub fn get_ending(&mut self, key: &[u8]) -> EngineResult<Option<Ending<E::Value>>> {
        self.look();
        if let Some(change) = self.changes.get(key) {
            self.rests.on_changes = true;
            let found = |changed: Changed| (Found::Changed(changed.value), changed.ends);
            return Ok(change.clone().map(found));
        }
        let newest = self.engine.newest(key)?;
        self.rest_on(newest.ticket);
        let ends = newest.expires_at_ms;
        Ok(newest.value.map(|value| (Found::Stored(value), ends)))
    }

    /// Stores a value in the place of one that was seen to end then (`None`: there was none).
    pub fn set_in_place(
        &mut self,
        key: &[u8],
        value: impl Into<Vec<u8>> + AsRef<[u8]>,
        seen: Option<Option<u64>>,
    ) -> EngineResult<()> {
        match seen {
            Some(ends) => self.set_ending(key, value, ends),
            None => self.set(key, value),
        }
    }

    /// Stores a value that ends when the one before did.
    pub fn set_keeping(&mut self, key: &[u8], value: &[u8]) -> EngineResult<()> {
        let ends = self.ends(key)?;
        self.set_in_place(key, value, ends)
    }

    /// When the value of `key` ends: `None` if it has none, `Some(None)` if it never does.
    pub fn ends(&mut self, key: &[u8]) -> EngineResult<Option<Option<u64>>> {
        self.look();
        if let Some(change) = self.changes.get(key) {
            self.rests.on_changes = true;
            return Ok(change.as_ref().map(|changed| changed.ends));
        }
        if !self.engine.supports(Operation::Expiry) {
            return Ok(self.stored(key)?.map(|_| None));
        }
        if !self.deep {
            return self.engine.expires_at(key);
        }
        let newest = self.engine.newest(key)?;
        self.rest_on(newest.ticket);
        Ok(newest.value.map(|_| newest.expires_at_ms))
    }

    /// Stores a value that ends at this millisecond since 1970 (`None`: never); one that is over is
    /// removed.
    pub fn set_ending(
        &mut self,
        key: &[u8],
        value: impl Into<Vec<u8>> + AsRef<[u8]>,
        ends: Option<u64>,
    ) -> EngineResult<()> {
        let max = self.engine.key_bytes_max();
        if key.len() > max {
            // Here, so that one key does not spoil the batch.
            let len = key.len();
            return Err(crate::Error::KeyTooLong { len, max }.into());
        }
        self.rests.on_changes = true;
        if ends.is_some_and(|ends| ends <= self.engine.now_ms()) {
            self.remove(key)?;
            return Ok(());
        }
        if self.changes.is_empty() && self.engine.supports(Operation::Batch) {
            if self.blind.is_empty() {
                let (changes, bytes) = std::mem::take(&mut self.expected);
                self.blind.reserve(changes, bytes);
            }
            let expiry = ends.map_or(Expiry::Never, Expiry::At);
            self.blind.set_with_expiry(key, value, expiry);
            return Ok(());
        }
        let value = value.into();
        self.changes
            .insert(key.to_vec(), Some(Changed { value, ends }));
        Ok(())
    }

    pub fn remove(&mut self, key: &[u8]) -> EngineResult<bool> {
        let there = self.contains(key)?;
        if there {
            self.rests.on_changes = true;
            self.changes.insert(key.to_vec(), None);
        }
        Ok(there)
    }

    pub fn len(&mut self) -> EngineResult<u64> {
        self.look();
        self.settle()?;
        let mut len = self.engine.len()?;
        for (key, change) in &self.changes {
            self.rests.on_changes = true;
            match (self.engine.get(key)?.is_some(), change) {
                (false, Some(_)) => len += 1,
                (true, None) => len = len.saturating_sub(1),
                _ => {}
            }
        }
        Ok(len)
    }

    /// Shows all keys until `visit` breaks off.
    ///
    /// # Errors
    /// What the engine says, and [`crate::Error::Closed`] if the server has ended meanwhile.
    pub fn keys(
        &mut self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> EngineResult<()> {
        self.look();
        self.settle()?;
        let mut go_on = ControlFlow::Continue(());
        let changes = &self.changes;
        // One that has cursors walks in no order of the keys: a prefix would save it nothing, and keep it
        // from being broken off where no key has it.
        let asked = match self.engine.supports(Operation::Cursor) {
            true => &[],
            false => prefix,
        };
        self.engine.scan(asked, &mut |key, _| {
            if self.over.load(Ordering::Relaxed) {
                go_on = ControlFlow::Break(());
                return go_on;
            }
            if !key.starts_with(prefix) {
                return ControlFlow::Continue(());
            }
            if changes.contains_key(key) {
                return ControlFlow::Continue(());
            }
            go_on = visit(key);
            go_on
        })?;
        if self.over.load(Ordering::Relaxed) {
            return Err(crate::Error::Closed.into());
        }
        self.rests.on_changes |= !changes.is_empty();
        let new = changes.iter().filter(|(_, change)| change.is_some());
        for (key, _) in new.filter(|(key, _)| key.starts_with(prefix)) {
            if go_on.is_break() {
                break;
            }
            go_on = visit(key);
        }
        Ok(())
    }

    /// Shows about `count` keys from `cursor` on, and returns the next cursor: see [`Engine::scan_from`].
    ///
    /// What the burst has added has no place in the order of the engine yet: it comes with the first
    /// call of a walk, and may come again when it is in the engine.
    pub fn scan_from(
        &mut self,
        cursor: u64,
        count: u64,
        visit: &mut dyn FnMut(&[u8]),
    ) -> EngineResult<u64> {
        self.look();
        self.settle()?;
        let changes = &self.changes;
        let next = self.engine.scan_from(cursor, count, &mut |key| {
            if !matches!(changes.get(key), Some(None)) {
                visit(key);
            }
        })?;
        self.rests.on_changes |= !changes.is_empty();
        let new = changes.iter().filter(|(_, change)| change.is_some());
        for (key, _) in new.filter(|_| cursor == 0) {
            if self.engine.get(key)?.is_none() {
                visit(key);
            }
        }
        Ok(next)
    }

    /// Gives the changes to the engine: all or none if it has batches, else one by one. True if they
    /// must be waited for.
    pub fn append(&mut self) -> EngineResult<bool> {
        let changes = &self.changes;
        if !self.engine.supports(Operation::Batch) {
            for (key, change) in changes {
                match change {
                    Some(Changed { value, ends }) => {
                        let options = SetOptions {
                            expires_at_ms: *ends,
                        };
                        self.engine.set(key, value, options)?;
                    }
                    None => drop(self.engine.remove(key)?),
                }
            }
            return Ok(false);
        }
        let ticket = if !self.blind.is_empty() {
            self.engine.append(&self.blind)?
        } else if !changes.is_empty() {
            let mut batch = Batch::new();
            for (key, change) in changes {
                match change {
                    Some(Changed { value, ends }) => {
                        let expiry = ends.map_or(Expiry::Never, Expiry::At);
                        batch.set_with_expiry(key, value, expiry)
                    }
                    None => batch.remove(key),
                };
            }
            self.engine.append(&batch)?
        } else {
            return Ok(false);
        };
        self.ticket = self.ticket.max(ticket);
        Ok(ticket.is_some())
    }

    /// Forgets the changes.
    pub fn clear(&mut self) {
        self.changes.clear();
        self.blind = Batch::new();
    }
}
