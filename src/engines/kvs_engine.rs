//! The course's engine trait: strings in, strings out, shared by threads; and any such engine seen as
//! an engine of bytes.

use parking_lot::Mutex;

use crate::engines::engine::{Engine, EngineError, EngineResult, Operation, SetOptions};
use crate::{Error, Result};

/// A store of strings that a server can be generic over.
///
/// A clone is another handle of the same store: writes through one are seen through all others.
/// Methods take `&self`; implementations do their own locking.
pub trait KvsEngine: Clone + Send + 'static {
    /// Stores `value` under `key`, replacing an older one.
    ///
    /// # Errors
    /// Whatever keeps the engine from storing it.
    fn set(&self, key: String, value: String) -> Result<()>;

    /// The newest value under `key`; `None` if it was never set or was removed.
    ///
    /// # Errors
    /// Whatever keeps the engine from reading it; [`crate::Error::NotUtf8`] if it is no text.
    fn get(&self, key: String) -> Result<Option<String>>;

    /// Removes `key`.
    ///
    /// # Errors
    /// [`crate::Error::KeyNotFound`] if there was nothing to remove; whatever keeps the engine from
    /// removing it.
    fn remove(&self, key: String) -> Result<()>;

    /// Shows itself to `visitor` as an engine of bytes.
    ///
    /// The default goes through [`StringEngine`]; who has bytes underneath shows those instead.
    fn visit<V: EngineVisitor>(self, visitor: V) -> V::Output {
        visitor.visit(StringEngine::new(self))
    }
}

/// Something to be done with an engine of bytes, whichever type it has.
pub trait EngineVisitor {
    /// What comes of it.
    type Output;

    /// Does it.
    fn visit<E: Engine>(self, engine: E) -> Self::Output;
}

/// Serves a foreign [`KvsEngine`]: keys and values that are no text are refused.
pub struct StringEngine<E> {
    // The course's engines are `Send`, not `Sync`: each call takes a handle of its own out.
    engine: Mutex<E>,
}

impl<E: KvsEngine> StringEngine<E> {
    /// The bytes' face of `engine`.
    #[must_use]
    pub fn new(engine: E) -> Self {
        Self {
            engine: Mutex::new(engine),
        }
    }

    fn handle(&self) -> E {
        self.engine.lock().clone()
    }
}

impl<E: KvsEngine> Clone for StringEngine<E> {
    fn clone(&self) -> Self {
        Self::new(self.handle())
    }
}

fn text(bytes: &[u8]) -> Result<String> {
    Ok(String::from_utf8(bytes.to_vec())?)
}

impl<E: KvsEngine> Engine for StringEngine<E> {
    type Value = Vec<u8>;

    fn name(&self) -> &'static str {
        "strings"
    }

    fn supports(&self, _: Operation) -> bool {
        false
    }

    fn get(&self, key: &[u8]) -> EngineResult<Option<Vec<u8>>> {
        // What is no text was never stored.
        let Ok(key) = text(key) else {
            return Ok(None);
        };
        Ok(self.handle().get(key)?.map(String::into_bytes))
    }

    fn set(&self, key: &[u8], value: &[u8], options: SetOptions) -> EngineResult<()> {
        if options.expires_at_ms.is_some() {
            let operation = Operation::Expiry;
            return Err(EngineError::Unsupported { operation });
        }
        Ok(self.handle().set(text(key)?, text(value)?)?)
    }

    fn remove(&self, key: &[u8]) -> EngineResult<bool> {
        let Ok(key) = text(key) else {
            return Ok(false);
        };
        match self.handle().remove(key) {
            Ok(()) => Ok(true),
            Err(Error::KeyNotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Does nothing: the course asks every `set` to be as good as the engine can make it.
    fn flush(&self) -> EngineResult<()> {
        Ok(())
    }
}
