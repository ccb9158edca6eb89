//! The stores this process has open, by directory, whatever path leads there.
//!
//! `flock` keeps other processes out; within one, a second open with equal options gets another
//! handle of the same store, and one that comes while the last handle is being dropped waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::engine::error::{Error, Result};
use crate::engine::options::Options;
use crate::engine::store::Handle;
use crate::storage::real::DirectoryId;

struct Entry {
    handle: Weak<Handle>,
    options: Options,
}

static OPEN: Mutex<Option<HashMap<DirectoryId, Entry>>> = Mutex::new(None);
static GONE: Condvar = Condvar::new();

/// The open store of this directory, or the one that `open` makes.
///
/// # Errors
/// [`Error::OptionsDiffer`] if it is open with other options; what `open` returns.
pub(crate) fn share(
    id: DirectoryId,
    options: &Options,
    path: &std::path::Path,
    open: impl FnOnce() -> Result<Arc<Handle>>,
) -> Result<Arc<Handle>> {
    let mut table = OPEN.lock();
    while let Some(entry) = table.get_or_insert_default().get(&id) {
        if let Some(handle) = entry.handle.upgrade() {
            return match entry.options == *options {
                true => Ok(handle),
                false => Err(Error::OptionsDiffer {
                    path: path.to_path_buf(),
                }),
            };
        }
        // The last handle is on its way out: the lock will be free when it is gone.
        GONE.wait(&mut table);
    }
    // Opening under the table's lock: two threads that open the same directory get one store.
    let handle = open()?;
    table.get_or_insert_default().insert(
        id,
        Entry {
            handle: Arc::downgrade(&handle),
            options: options.clone(),
        },
    );
    Ok(handle)
}

/// The last handle has closed its store and given up the lock.
pub(crate) fn gone(id: DirectoryId) {
    OPEN.lock().get_or_insert_default().remove(&id);
    GONE.notify_all();
}
