//! The store as one burst of one connection sees it: what the engine has, under what the burst has
//! changed so far.
//!
//! Changes are kept here and given to the engine together, as one batch, so that a burst of durable
//! writes waits for the disk once. The stripes of all keys that are written are held meanwhile, so
//! nobody else changes them in between.

use std::collections::HashMap;
use std::ops::ControlFlow;

use crate::Batch;
use crate::engines::{Engine, EngineResult, Operation, SetOptions};

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

/// See the head of this file.
pub struct View<'a, E> {
    pub engine: &'a E,
    changes: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Something was changed, or read from what was changed, since this was last asked.
    depends: bool,
}

impl<'a, E: Engine> View<'a, E> {
    pub fn new(engine: &'a E) -> Self {
        Self {
            engine,
            changes: HashMap::new(),
            depends: false,
        }
    }

    /// Whether what ran since the last call is true only if the commit succeeds.
    pub fn take_depends(&mut self) -> bool {
        std::mem::take(&mut self.depends)
    }

    /// How many keys are changed.
    pub fn changed(&self) -> usize {
        self.changes.len()
    }

    pub fn changed_keys(&self) -> impl Iterator<Item = &[u8]> {
        self.changes.keys().map(Vec::as_slice)
    }

    pub fn get(&mut self, key: &[u8]) -> EngineResult<Option<Found<E::Value>>> {
        if !self.changes.is_empty()
            && let Some(change) = self.changes.get(key)
        {
            self.depends = true;
            return Ok(change.clone().map(Found::Changed));
        }
        Ok(self.engine.get(key)?.map(Found::Stored))
    }

    pub fn contains(&mut self, key: &[u8]) -> EngineResult<bool> {
        if !self.changes.is_empty()
            && let Some(change) = self.changes.get(key)
        {
            self.depends = true;
            return Ok(change.is_some());
        }
        Ok(self.engine.get(key)?.is_some())
    }

    pub fn set(&mut self, key: &[u8], value: Vec<u8>) -> EngineResult<()> {
        let max = self.engine.key_bytes_max();
        if key.len() > max {
            // Here, so that one key does not spoil the batch.
            let len = key.len();
            return Err(crate::Error::KeyTooLong { len, max }.into());
        }
        self.depends = true;
        self.changes.insert(key.to_vec(), Some(value));
        Ok(())
    }

    pub fn remove(&mut self, key: &[u8]) -> EngineResult<bool> {
        let there = self.contains(key)?;
        if there {
            self.depends = true;
            self.changes.insert(key.to_vec(), None);
        }
        Ok(there)
    }

    pub fn len(&mut self) -> EngineResult<u64> {
        let mut len = self.engine.len()?;
        for (key, change) in &self.changes {
            self.depends = true;
            match (self.engine.get(key)?.is_some(), change) {
                (false, Some(_)) => len += 1,
                (true, None) => len = len.saturating_sub(1),
                _ => {}
            }
        }
        Ok(len)
    }

    /// Shows all keys until `visit` breaks off.
    pub fn keys(
        &mut self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> EngineResult<()> {
        let mut go_on = ControlFlow::Continue(());
        let changes = &self.changes;
        self.engine.scan(prefix, &mut |key, _| {
            if changes.contains_key(key) {
                return ControlFlow::Continue(());
            }
            go_on = visit(key);
            go_on
        })?;
        self.depends |= !changes.is_empty();
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
        let changes = &self.changes;
        let next = self.engine.scan_from(cursor, count, &mut |key| {
            if !matches!(changes.get(key), Some(None)) {
                visit(key);
            }
        })?;
        self.depends |= !changes.is_empty();
        let new = changes.iter().filter(|(_, change)| change.is_some());
        for (key, _) in new.filter(|_| cursor == 0) {
            if self.engine.get(key)?.is_none() {
                visit(key);
            }
        }
        Ok(next)
    }

    /// Gives the changes to the engine and returns when they are as durable as it makes them: all or
    /// none if it has batches, else one by one.
    pub fn commit(&mut self) -> EngineResult<()> {
        let changes = &self.changes;
        if changes.len() == 1 || !self.engine.supports(Operation::Batch) {
            for (key, change) in changes {
                match change {
                    Some(value) => self.engine.set(key, value, SetOptions::default())?,
                    None => drop(self.engine.remove(key)?),
                }
            }
            return Ok(());
        }
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for (key, change) in changes {
            match change {
                Some(value) => batch.set(key, value),
                None => batch.remove(key),
            };
        }
        self.engine.write(&batch)
    }

    /// Forgets the changes.
    pub fn clear(&mut self) {
        self.changes.clear();
    }
}
