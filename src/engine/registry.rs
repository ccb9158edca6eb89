//! What this process has open, by directory, whatever path leads there.
//!
//! `flock` keeps other processes out; within one, a second open with equal options gets another
//! handle of the same store, and one that comes while the last handle is being dropped waits for it.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::engine::error::{Error, Result};
use crate::engine::options::Options;
use crate::storage::real::DirectoryId;

enum Entry {
    /// Somebody is opening it.
    Opening,
    /// It is open, or its last handle is on its way out.
    Open {
        handle: Weak<dyn Any + Send + Sync>,
        options: Options,
    },
}

static TABLE: Mutex<Option<HashMap<DirectoryId, Entry>>> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

/// Directories whose store once ended badly in this process.
static TAINTED: Mutex<Vec<DirectoryId>> = Mutex::new(Vec::new());

/// A life of this directory's store ended badly.
pub(crate) fn taint(id: DirectoryId) {
    let mut tainted = TAINTED.lock();
    if !tainted.contains(&id) {
        tainted.push(id);
    }
}

/// Whether one did.
pub(crate) fn is_tainted(id: DirectoryId) -> bool {
    TAINTED.lock().contains(&id)
}

/// Takes the claim back if opening did not get to the end.
struct Claim(Option<DirectoryId>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            gone(id);
        }
    }
}

/// The open store of this directory, or the one that `open` makes. Opens of other directories go on
/// meanwhile.
///
/// # Errors
/// [`Error::OptionsDiffer`] if it is open with other options; what `open` returns.
pub(crate) fn share<T: Any + Send + Sync>(
    id: DirectoryId,
    options: &Options,
    path: &std::path::Path,
    open: impl FnOnce() -> Result<Arc<T>>,
) -> Result<Arc<T>> {
    let mut table = TABLE.lock();
    while let Some(entry) = table.get_or_insert_default().get(&id) {
        if let Entry::Open {
            handle,
            options: others,
        } = entry
            && let Some(handle) = handle.upgrade()
            && let Ok(handle) = handle.downcast()
        {
            return match others == options {
                true => Ok(handle),
                false => {
                    // The handle may be the last one by now: it is dropped without the table's lock.
                    drop(table);
                    Err(Error::OptionsDiffer {
                        path: path.to_path_buf(),
                    })
                }
            };
        }
        CHANGED.wait(&mut table);
    }
    table.get_or_insert_default().insert(id, Entry::Opening);
    drop(table);
    let mut claim = Claim(Some(id));
    let handle = open()?;
    claim.0 = None;
    let entry = Entry::Open {
        handle: Arc::downgrade(&handle) as Weak<dyn Any + Send + Sync>,
        options: options.clone(),
    };
    TABLE.lock().get_or_insert_default().insert(id, entry);
    CHANGED.notify_all();
    Ok(handle)
}

/// The last handle has closed its store and given up the lock.
pub(crate) fn gone(id: DirectoryId) {
    TABLE.lock().get_or_insert_default().remove(&id);
    CHANGED.notify_all();
}
