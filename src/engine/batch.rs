//! Several sets and removes that happen all or not at all.

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
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds "`key` gets `value`".
    pub fn set(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        self.push(key.as_ref(), Some(value))
    }

    /// Adds "`key` is removed".
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.push(key.as_ref(), None)
    }

    fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> &mut Self {
        self.operations.push(Operation {
            start: self.bytes.len(),
            key: key.len(),
            value: value.map(<[u8]>::len),
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
        self.operations.iter().map(|operation| {
            let (key, rest) = self.bytes[operation.start..].split_at(operation.key);
            (key, operation.value.map(|len| &rest[..len]))
        })
    }
}
