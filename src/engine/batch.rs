//! Several sets and removes that happen all or not at all.

use crate::engine::expiry::Expiry;

/// Sets and removes to be applied together by [`crate::Store::write`].
///
/// Atomic for readers and after any crash. Of a key that stands in it twice, the last one counts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    operations: Vec<Operation>,
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    start: usize,
    key: usize,
    /// `None` for a remove.
    value: Option<usize>,
    /// `None`: as the store says.
    expiry: Option<Expiry>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds "`key` gets `value`".
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.push(key.as_ref(), Some(value.as_ref()), None)
    }

    /// Adds "`key` gets `value`, which expires then", whatever [`crate::Options::default_ttl`] says.
    /// A value that has expired when the batch is written removes the key.
    pub fn set_with_expiry(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> &mut Self {
        self.push(key.as_ref(), Some(value.as_ref()), Some(expiry))
    }

    /// Adds "`key` is removed".
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(key.as_ref(), None, None)
    }

    /// Room for so many more operations, of so many bytes of keys and values together.
    pub(crate) fn reserve(&mut self, operations: usize, bytes: usize) {
        self.operations.reserve(operations);
        self.bytes.reserve(bytes);
    }

    fn push(&mut self, key: &[u8], value: Option<&[u8]>, expiry: Option<Expiry>) -> &mut Self {
        self.operations.push(Operation {
            start: self.bytes.len(),
            key: key.len(),
            value: value.map(<[u8]>::len),
            expiry,
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or(&[]));
        self
    }

    /// How many operations it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// True if it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Its operations in order: key, and the value or `None` for a remove.
    pub fn operations(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.entries().map(|(key, value, _)| (key, value))
    }

    /// As [`Batch::operations`], with when the value expires; `None`: as the store says.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>, Option<Expiry>)> {
        self.operations.iter().map(|operation| {
            let (key, rest) = self.bytes[operation.start..].split_at(operation.key);
            let value = operation.value.map(|len| &rest[..len]);
            (key, value, operation.expiry)
        })
    }
}
