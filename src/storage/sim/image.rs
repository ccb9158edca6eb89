//! What is in a directory at one moment: names and bytes, nothing pending.
//!
//! A test makes very many of these, most of them nearly equal, of files that are mostly zero. So
//! bytes are shared between images and kept without the zeros at their end, and a digest is computed
//! once per content, however many images share it.
//!
//! Invariants
//! - `bytes` never ends with a zero and is never longer than the file: equal files have equal bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// The bytes of one file. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    len: u64,
    data: Arc<Data>,
}

#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    digest: OnceLock<u64>,
}

/// What the disk writes as a whole.
pub const SECTOR_BYTES: usize = 512;

/// Page size of the simulated files: they are compared and written in runs of it.
pub(super) const PAGE: usize = 4096;
const ZERO_PAGE: [u8; PAGE] = [0; PAGE];

/// True if there is nothing but zeros.
pub(super) fn all_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(PAGE)
        .all(|chunk| *chunk == ZERO_PAGE[..chunk.len()])
}

impl Content {
    /// A file of exactly these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u64;
        Self::with_len(bytes, len)
    }

    /// A file that starts with `bytes`, is cut at or filled with zeros up to `len`.
    pub fn with_len(mut bytes: Vec<u8>, len: u64) -> Self {
        if (bytes.len() as u64) > len {
            bytes.truncate(len as usize);
        }
        // Whole pages first: comparing pages is many times faster than looking at each byte.
        while let Some(from) = bytes.len().checked_sub(PAGE)
            && bytes[from..] == ZERO_PAGE
        {
            bytes.truncate(from);
        }
        let end = bytes.iter().rposition(|byte| *byte != 0);
        bytes.truncate(end.map_or(0, |last| last + 1));
        let digest = OnceLock::new();
        Self {
            len,
            data: Arc::new(Data { bytes, digest }),
        }
    }

    /// Length of the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes up to the last one that is not zero.
    pub fn bytes(&self) -> &[u8] {
        &self.data.bytes
    }

    /// All its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.data.bytes.clone();
        bytes.resize(self.len as usize, 0);
        bytes
    }

    fn digest(&self) -> u64 {
        *self.data.digest.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.data.bytes.hash(&mut hasher);
            hasher.finish()
        })
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && (Arc::ptr_eq(&self.data, &other.data)
                || (self.digest() == other.digest() && self.data.bytes == other.data.bytes))
    }
}

impl Eq for Content {}

impl Hash for Content {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.len.hash(state);
        self.digest().hash(state);
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, digest) = (self.len, self.digest());
        write!(f, "{len} bytes (digest {digest:016x})")
    }
}

/// Everything in a directory. Cheap to clone; equal if names, lengths and bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Image(BTreeMap<Arc<str>, Content>);

impl Image {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().map(|name| name.to_string()).collect()
    }

    /// Its names and files, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Content)> {
        self.0.iter().map(|(name, content)| (&**name, content))
    }

    /// The file called `name`.
    pub fn get(&self, name: &str) -> Option<&Content> {
        self.0.get(name)
    }

    /// All bytes of the file called `name`.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.get(name).map(Content::to_vec)
    }

    /// Creates or replaces a file.
    pub fn put(&mut self, name: &str, content: Content) {
        self.0.insert(name.into(), content);
    }

    /// Removes a file; `None` if there was none.
    pub fn remove(&mut self, name: &str) -> Option<Content> {
        self.0.remove(name)
    }

    /// Changes the bytes of a file.
    ///
    /// # Panics
    /// If there is none called `name`.
    #[track_caller]
    pub fn edit(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let Some(content) = self.0.get_mut(name) else {
            panic!("no file {name} in the image");
        };
        let mut bytes = content.to_vec();
        change(&mut bytes);
        *content = Content::new(bytes);
    }

    /// What the directory called `name` holds, under the names the files have in it.
    #[must_use]
    pub fn subdirectory(&self, name: &str) -> Self {
        let inside = |(path, content): (&Arc<str>, &Content)| {
            let file = path.strip_prefix(name)?.strip_prefix('/')?;
            Some((file.into(), content.clone()))
        };
        Self(self.0.iter().filter_map(inside).collect())
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there are no files.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// 64 bits that are equal for equal images: what a test remembers to skip what it has seen,
    /// since keeping the images themselves would fill the memory.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn insert(&mut self, name: Arc<str>, content: Content) {
        self.0.insert(name, content);
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Arc<str>, &Content)> {
        self.0.iter()
    }
}
