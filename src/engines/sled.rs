//! The crate `sled` as an engine, to compare with.

use crate::engines::engine::{
    Engine, EngineError, EngineResult, Figures, Operation, SetOptions, Visit,
};
use crate::engines::kvs_engine::KvsEngine;
use crate::{Batch, Error, Result};

/// A [`sled::Db`], for a server to serve.
///
/// A write returns when `sled` has it in memory; sled writes it to disk within half a second, or at
/// [`Engine::flush`].
#[derive(Clone, Debug)]
pub struct SledKvsEngine {
    db: sled::Db,
}

impl SledKvsEngine {
    /// The database `db`.
    #[must_use]
    pub fn new(db: sled::Db) -> Self {
        Self { db }
    }
}

/// What sled said, as an error of the system.
fn failed(error: sled::Error) -> Error {
    Error::from(std::io::Error::from(error))
}

impl KvsEngine for SledKvsEngine {
    fn set(&self, key: String, value: String) -> Result<()> {
        self.db.insert(key, value.into_bytes()).map_err(failed)?;
        Ok(())
    }

    fn get(&self, key: String) -> Result<Option<String>> {
        match self.db.get(key).map_err(failed)? {
            Some(value) => Ok(Some(String::from_utf8(value.to_vec())?)),
            None => Ok(None),
        }
    }

    fn remove(&self, key: String) -> Result<()> {
        match self.db.remove(key).map_err(failed)? {
            Some(_) => Ok(()),
            None => Err(Error::KeyNotFound),
        }
    }

    fn visit<V: crate::engines::EngineVisitor>(self, visitor: V) -> V::Output {
        visitor.visit(self)
    }
}

impl Engine for SledKvsEngine {
    type Value = sled::IVec;

    fn name(&self) -> &'static str {
        "sled"
    }

    fn supports(&self, operation: Operation) -> bool {
        use Operation::{Batch, CompareAndSwap, Len, Scan, Stats};
        matches!(operation, Batch | CompareAndSwap | Len | Scan | Stats)
    }

    fn get(&self, key: &[u8]) -> EngineResult<Option<sled::IVec>> {
        Ok(self.db.get(key).map_err(failed)?)
    }

    fn set(&self, key: &[u8], value: &[u8], options: SetOptions) -> EngineResult<()> {
        if options.expires_at_ms.is_some() {
            let operation = Operation::Expiry;
            return Err(EngineError::Unsupported { operation });
        }
        self.db.insert(key, value).map_err(failed)?;
        Ok(())
    }

    fn remove(&self, key: &[u8]) -> EngineResult<bool> {
        Ok(self.db.remove(key).map_err(failed)?.is_some())
    }

    fn flush(&self) -> EngineResult<()> {
        self.db.flush().map_err(failed)?;
        Ok(())
    }

    fn write(&self, batch: &Batch) -> EngineResult<()> {
        let expires = |expiry| matches!(expiry, Some(crate::Expiry::At(_)));
        if batch.entries().any(|(_, _, expiry)| expires(expiry)) {
            let operation = Operation::Expiry;
            return Err(EngineError::Unsupported { operation });
        }
        let mut theirs = sled::Batch::default();
        for (key, value) in batch.operations() {
            match value {
                Some(value) => theirs.insert(key, value),
                None => theirs.remove(key),
            }
        }
        Ok(self.db.apply_batch(theirs).map_err(failed)?)
    }

    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> EngineResult<()> {
        for pair in self.db.scan_prefix(prefix) {
            let (key, value) = pair.map_err(failed)?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Cost: looks at every key.
    fn len(&self) -> EngineResult<u64> {
        Ok(self.db.len() as u64)
    }

    fn compare_and_swap(
        &self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> EngineResult<bool> {
        let swapped = self.db.compare_and_swap(key, expected, new);
        Ok(swapped.map_err(failed)?.is_ok())
    }

    fn stats(&self) -> EngineResult<Figures> {
        let disk_bytes = self.db.size_on_disk().map_err(failed)?;
        Ok(vec![
            ("keys", self.db.len() as u64),
            ("disk_bytes", disk_bytes),
        ])
    }
}
