//! All `unsafe` of the comparison: a mapped file, LMDB's opening, and the C interfaces of RocksDB
//! (`rocksdb/c.h`) and Tkrzw (`tkrzw_langc.h`), behind types that are safe to use.
//!
//! Both C interfaces say of their handles that every call but closing may be made by several threads at
//! once; a handle is closed by `Drop`, when nobody can hold a reference to it any more.

#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};

#[cfg(has_rocksdb)]
pub use rocksdb::{RocksBatch, RocksDb, RocksSettings};
#[cfg(has_tkrzw)]
pub use tkrzw::{Dbm, version as tkrzw_version};

/// Maps a file that this process has just made, to write to it.
///
/// # Errors
///
/// What the system says if it cannot be mapped.
pub fn map_file(file: &File) -> std::io::Result<memmap2::MmapMut> {
    // SAFETY: nobody else may change or truncate the file while it is mapped. It lies in a directory that
    // was made for this run, and this process touches it through the map alone.
    unsafe { memmap2::MmapMut::map_mut(file) }
}

/// When LMDB gives bytes to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LmdbFlags {
    /// At every commit.
    Sync,
    /// When the system likes.
    NoSync,
    /// The same, written through the map.
    WriteMap,
}

/// Opens LMDB in `dir`.
///
/// # Errors
///
/// What LMDB says.
pub fn open_lmdb(dir: &Path, map: usize, flags: LmdbFlags) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map).max_readers(64);
    let flags = match flags {
        LmdbFlags::Sync => EnvFlags::empty(),
        LmdbFlags::NoSync => EnvFlags::NO_SYNC,
        LmdbFlags::WriteMap => EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP,
    };
    // SAFETY: these flags give up safety after a power cut or a stray write, and no run counts on it:
    // directories are thrown away, and no run writes through a wild pointer.
    unsafe { options.flags(flags) };
    // SAFETY: nobody else may change the files while they are mapped. The directory was made for this run,
    // on a local file system, and runs that share one come one after the other.
    unsafe { options.open(dir) }
}

#[cfg(has_rocksdb)]
mod rocksdb {
    use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_void};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr;

    /// Any of RocksDB's objects: only ever behind a pointer.
    #[repr(C)]
    pub struct Opaque {
        _nothing: [u8; 0],
    }

    type Error = *mut *mut c_char;

    // SAFETY: names, arguments and results are those of `rocksdb/c.h` of RocksDB 7.8; `size_t` is `usize`
    // on every machine that this builds on.
    unsafe extern "C" {
        fn rocksdb_options_create() -> *mut Opaque;
        fn rocksdb_options_destroy(options: *mut Opaque);
        fn rocksdb_options_set_create_if_missing(options: *mut Opaque, yes: c_uchar);
        fn rocksdb_options_set_compression(options: *mut Opaque, kind: c_int);
        fn rocksdb_options_set_max_background_jobs(options: *mut Opaque, jobs: c_int);
        fn rocksdb_options_set_enable_pipelined_write(options: *mut Opaque, yes: c_uchar);
        fn rocksdb_options_optimize_for_point_lookup(options: *mut Opaque, cache_mib: u64);
        fn rocksdb_open(options: *const Opaque, name: *const c_char, error: Error) -> *mut Opaque;
        fn rocksdb_close(base: *mut Opaque);
        fn rocksdb_writeoptions_create() -> *mut Opaque;
        fn rocksdb_writeoptions_destroy(options: *mut Opaque);
        fn rocksdb_writeoptions_set_sync(options: *mut Opaque, yes: c_uchar);
        fn rocksdb_readoptions_create() -> *mut Opaque;
        fn rocksdb_readoptions_destroy(options: *mut Opaque);
        fn rocksdb_put(
            base: *mut Opaque,
            options: *const Opaque,
            key: *const c_char,
            key_len: usize,
            value: *const c_char,
            value_len: usize,
            error: Error,
        );
        fn rocksdb_writebatch_create() -> *mut Opaque;
        fn rocksdb_writebatch_destroy(batch: *mut Opaque);
        fn rocksdb_writebatch_put(
            batch: *mut Opaque,
            key: *const c_char,
            key_len: usize,
            value: *const c_char,
            value_len: usize,
        );
        fn rocksdb_write(
            base: *mut Opaque,
            options: *const Opaque,
            batch: *mut Opaque,
            error: Error,
        );
        fn rocksdb_flush_wal(base: *mut Opaque, sync: c_uchar, error: Error);
        fn rocksdb_get_pinned(
            base: *mut Opaque,
            options: *const Opaque,
            key: *const c_char,
            key_len: usize,
            error: Error,
        ) -> *mut Opaque;
        fn rocksdb_pinnableslice_value(slice: *const Opaque, len: *mut usize) -> *const c_char;
        fn rocksdb_pinnableslice_destroy(slice: *mut Opaque);
        fn rocksdb_free(block: *mut c_void);
    }

    /// `rocksdb_no_compression`.
    const NO_COMPRESSION: c_int = 0;

    /// How it is opened.
    pub struct RocksSettings {
        /// Bytes of its block cache.
        pub cache: usize,
        /// Whether a write waits for the device.
        pub sync: bool,
        /// Threads that flush and compact.
        pub jobs: i32,
    }

    /// A database, open.
    pub struct RocksDb {
        base: *mut Opaque,
        write: *mut Opaque,
        read: *mut Opaque,
    }

    // SAFETY: the handle may be used and closed by any thread: RocksDB ties nothing to the one that opened.
    unsafe impl Send for RocksDb {}
    // SAFETY: `rocksdb/c.h`: all calls but `rocksdb_close` may come from several threads without locks; the
    // options of reads and writes are not changed once this is made.
    unsafe impl Sync for RocksDb {}

    /// The message, if there is one, freed.
    fn told(error: *mut c_char) -> Result<(), String> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: where RocksDB sets the error, it is a string that ends with a zero, ours to free.
        let text = unsafe { CStr::from_ptr(error) };
        let text = text.to_string_lossy().into_owned();
        // SAFETY: 1. It came from RocksDB's allocator. 2. `text` is a copy: nobody looks at it again.
        unsafe { rocksdb_free(error.cast()) };
        Err(text)
    }

    impl RocksDb {
        /// Opens what is in `dir`, or makes it.
        pub fn open(dir: &Path, settings: &RocksSettings) -> Result<Self, String> {
            let name = CString::new(dir.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
            let mut error = ptr::null_mut();
            // SAFETY: 1. Every setter gets options that were created here and not destroyed yet.
            // 2. `name` ends with a zero and lives until the call returns, as the options do: RocksDB copies
            // both. 3. `error` is null, as the interface asks for.
            let base = unsafe {
                let options = rocksdb_options_create();
                rocksdb_options_set_create_if_missing(options, 1);
                rocksdb_options_set_compression(options, NO_COMPRESSION);
                rocksdb_options_set_max_background_jobs(options, settings.jobs);
                rocksdb_options_set_enable_pipelined_write(options, 1);
                let mib = (settings.cache >> 20).max(8) as u64;
                rocksdb_options_optimize_for_point_lookup(options, mib);
                let base = rocksdb_open(options, name.as_ptr(), &mut error);
                rocksdb_options_destroy(options);
                base
            };
            told(error)?;
            if base.is_null() {
                return Err("RocksDB returned nothing".to_owned());
            }
            // SAFETY: nothing is asked for; the one setter gets what was just created.
            let (write, read) = unsafe {
                let write = rocksdb_writeoptions_create();
                rocksdb_writeoptions_set_sync(write, settings.sync.into());
                (write, rocksdb_readoptions_create())
            };
            Ok(Self { base, write, read })
        }

        /// Stores a value.
        pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
            let mut error = ptr::null_mut();
            // SAFETY: 1. Base and options live as long as `self`. 2. Pointers and lengths are of slices that
            // live until the call returns, and RocksDB copies them. 3. `error` is null.
            unsafe {
                rocksdb_put(
                    self.base,
                    self.write,
                    key.as_ptr().cast(),
                    key.len(),
                    value.as_ptr().cast(),
                    value.len(),
                    &mut error,
                );
            }
            told(error)
        }

        /// Stores all of a batch.
        pub fn write(&self, batch: RocksBatch) -> Result<(), String> {
            let mut error = ptr::null_mut();
            // SAFETY: 1. Base and options live as long as `self`, the batch until its end of scope. 2. `error`
            // is null.
            unsafe { rocksdb_write(self.base, self.write, batch.batch, &mut error) };
            told(error)
        }

        /// Shows the value to `see`, where RocksDB has pinned it.
        pub fn get<R>(
            &self,
            key: &[u8],
            see: impl FnOnce(&[u8]) -> R,
        ) -> Result<Option<R>, String> {
            let mut error = ptr::null_mut();
            // SAFETY: 1. Base and options live as long as `self`. 2. The key lives until the call returns.
            // 3. `error` is null.
            let slice = unsafe {
                rocksdb_get_pinned(
                    self.base,
                    self.read,
                    key.as_ptr().cast(),
                    key.len(),
                    &mut error,
                )
            };
            told(error)?;
            if slice.is_null() {
                return Ok(None);
            }
            let mut len = 0;
            // SAFETY: the slice is not null and not destroyed yet; the length has room.
            let start = unsafe { rocksdb_pinnableslice_value(slice, &mut len) };
            let value: &[u8] = match len {
                0 => &[],
                // SAFETY: RocksDB says that as many bytes lie there; they do not change, and stay until the
                // slice is destroyed, below, after the last use of `value`.
                len => unsafe { std::slice::from_raw_parts(start.cast(), len) },
            };
            let seen = see(value);
            // SAFETY: it came from `rocksdb_get_pinned`, is destroyed once, and nothing borrows it any more:
            // `see` could not keep what it was shown.
            unsafe { rocksdb_pinnableslice_destroy(slice) };
            Ok(Some(seen))
        }

        /// Returns when its log is on the device.
        pub fn sync(&self) -> Result<(), String> {
            let mut error = ptr::null_mut();
            // SAFETY: the base lives as long as `self`, `error` is null.
            unsafe { rocksdb_flush_wal(self.base, 1, &mut error) };
            told(error)
        }
    }

    impl Drop for RocksDb {
        fn drop(&mut self) {
            // SAFETY: all three were created by `open`, are not null, and are let go of once: nobody else
            // has a copy of the pointers. The base goes first, since it may use the others.
            unsafe {
                rocksdb_close(self.base);
                rocksdb_writeoptions_destroy(self.write);
                rocksdb_readoptions_destroy(self.read);
            }
        }
    }

    /// Writes that are done together.
    pub struct RocksBatch {
        batch: *mut Opaque,
    }

    impl RocksBatch {
        /// None yet.
        pub fn new() -> Self {
            // SAFETY: nothing is asked for.
            let batch = unsafe { rocksdb_writebatch_create() };
            Self { batch }
        }

        /// One more.
        pub fn put(&mut self, key: &[u8], value: &[u8]) {
            // SAFETY: 1. The batch lives as long as `self`. 2. Pointers and lengths are of slices that live
            // until the call returns, and RocksDB copies them.
            unsafe {
                rocksdb_writebatch_put(
                    self.batch,
                    key.as_ptr().cast(),
                    key.len(),
                    value.as_ptr().cast(),
                    value.len(),
                );
            }
        }
    }

    impl Drop for RocksBatch {
        fn drop(&mut self) {
            // SAFETY: created by `new`, let go of once, and nobody has a copy of the pointer.
            unsafe { rocksdb_writebatch_destroy(self.batch) };
        }
    }
}

#[cfg(has_tkrzw)]
mod tkrzw {
    use std::ffi::{CStr, CString, c_char, c_void};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr;

    /// `TkrzwDBM`: only ever behind a pointer.
    #[repr(C)]
    pub struct Opaque {
        _nothing: [u8; 0],
    }

    /// `TkrzwKeyValuePair`.
    #[repr(C)]
    struct Pair {
        key: *const c_char,
        key_len: i32,
        value: *const c_char,
        value_len: i32,
    }

    type Processor = extern "C" fn(
        arg: *mut c_void,
        key: *const c_char,
        key_len: i32,
        value: *const c_char,
        value_len: i32,
        new_len: *mut i32,
    ) -> *const c_char;

    // SAFETY: names, arguments and results are those of `tkrzw_langc.h` of Tkrzw 1.0; `bool` is one byte
    // in both languages.
    unsafe extern "C" {
        static TKRZW_PACKAGE_VERSION: *const c_char;
        static TKRZW_REC_PROC_NOOP: *const c_char;
        fn tkrzw_get_last_status_message() -> *const c_char;
        fn tkrzw_dbm_open(
            path: *const c_char,
            writable: bool,
            params: *const c_char,
        ) -> *mut Opaque;
        fn tkrzw_dbm_close(base: *mut Opaque) -> bool;
        fn tkrzw_dbm_process(
            base: *mut Opaque,
            key: *const c_char,
            key_len: i32,
            processor: Processor,
            arg: *mut c_void,
            writable: bool,
        ) -> bool;
        fn tkrzw_dbm_set(
            base: *mut Opaque,
            key: *const c_char,
            key_len: i32,
            value: *const c_char,
            value_len: i32,
            overwrite: bool,
        ) -> bool;
        fn tkrzw_dbm_set_multi(
            base: *mut Opaque,
            pairs: *const Pair,
            count: i32,
            overwrite: bool,
        ) -> bool;
        fn tkrzw_dbm_synchronize(
            base: *mut Opaque,
            hard: bool,
            processor: *const c_void,
            arg: *mut c_void,
            params: *const c_char,
        ) -> bool;
    }

    /// Version of the package.
    pub fn version() -> String {
        // SAFETY: it is set when the library is loaded, never changes, and ends with a zero.
        let text = unsafe { CStr::from_ptr(TKRZW_PACKAGE_VERSION) };
        text.to_string_lossy().into_owned()
    }

    /// A database, open.
    pub struct Dbm {
        base: *mut Opaque,
    }

    // SAFETY: the handle may be used and closed by any thread: nothing is tied to the one that opened.
    unsafe impl Send for Dbm {}
    // SAFETY: Tkrzw says of its databases that all operations but opening and closing may come from several
    // threads at once; the status of the last call, which errors are told by, is kept for each thread.
    unsafe impl Sync for Dbm {}

    fn told(good: bool) -> Result<(), String> {
        if good {
            return Ok(());
        }
        // SAFETY: it is never null, ends with a zero, and is good until this thread's next call.
        let text = unsafe { CStr::from_ptr(tkrzw_get_last_status_message()) };
        Err(text.to_string_lossy().into_owned())
    }

    fn len(bytes: &[u8]) -> i32 {
        // A negative length would mean a string that ends with a zero.
        i32::try_from(bytes.len()).expect("keys and values are short")
    }

    struct Seeing<F, R> {
        see: Option<F>,
        seen: Option<R>,
    }

    extern "C" fn show<F: FnOnce(&[u8]) -> R, R>(
        arg: *mut c_void,
        _: *const c_char,
        _: i32,
        value: *const c_char,
        value_len: i32,
        _: *mut i32,
    ) -> *const c_char {
        // SAFETY: `get` passes a pointer to its own `Seeing<F, R>`, of the same types, which nobody else
        // touches until `tkrzw_dbm_process` returns.
        let seeing = unsafe { &mut *arg.cast::<Seeing<F, R>>() };
        if !value.is_null()
            && let Some(see) = seeing.see.take()
        {
            // SAFETY: Tkrzw gives a value's place and length, which is not negative then, and holds the
            // record's lock until this returns; `see` cannot keep what it is shown.
            let bytes = unsafe { std::slice::from_raw_parts(value.cast(), value_len as usize) };
            seeing.seen = Some(see(bytes));
        }
        // SAFETY: it is set when the library is loaded and never changes.
        unsafe { TKRZW_REC_PROC_NOOP }
    }

    impl Dbm {
        /// Opens the file, or makes it. `settings`: `key=value`, with commas between.
        pub fn open(path: &Path, settings: &str) -> Result<Self, String> {
            let path = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
            let settings = CString::new(settings).map_err(|e| e.to_string())?;
            // SAFETY: both strings end with a zero and live until the call returns; Tkrzw copies them.
            let base = unsafe { tkrzw_dbm_open(path.as_ptr(), true, settings.as_ptr()) };
            told(!base.is_null())?;
            Ok(Self { base })
        }

        /// Stores a value.
        pub fn set(&self, key: &[u8], value: &[u8]) -> Result<(), String> {
            // SAFETY: 1. The base lives as long as `self`. 2. Pointers and lengths are of slices that live
            // until the call returns, and Tkrzw copies them.
            told(unsafe {
                tkrzw_dbm_set(
                    self.base,
                    key.as_ptr().cast(),
                    len(key),
                    value.as_ptr().cast(),
                    len(value),
                    true,
                )
            })
        }

        /// Stores several, one after the other.
        pub fn set_many(&self, pairs: &[(&[u8], &[u8])]) -> Result<(), String> {
            let pairs: Vec<Pair> = pairs
                .iter()
                .map(|(key, value)| Pair {
                    key: key.as_ptr().cast(),
                    key_len: len(key),
                    value: value.as_ptr().cast(),
                    value_len: len(value),
                })
                .collect();
            let count = i32::try_from(pairs.len()).expect("batches are short");
            // SAFETY: 1. The base lives as long as `self`. 2. There are `count` pairs, whose slices live
            // until the call returns; Tkrzw copies them.
            told(unsafe { tkrzw_dbm_set_multi(self.base, pairs.as_ptr(), count, true) })
        }

        /// Shows the value to `see`, where it lies.
        pub fn get<R, F: FnOnce(&[u8]) -> R>(
            &self,
            key: &[u8],
            see: F,
        ) -> Result<Option<R>, String> {
            let mut seeing = Seeing {
                see: Some(see),
                seen: None,
            };
            // SAFETY: 1. The base lives as long as `self`. 2. The key and `seeing` live until the call
            // returns. 3. `show` is made for the types of `seeing`. 4. It never asks for a change, so nothing
            // is written for lack of `writable`.
            let good = unsafe {
                tkrzw_dbm_process(
                    self.base,
                    key.as_ptr().cast(),
                    len(key),
                    show::<F, R>,
                    ptr::from_mut(&mut seeing).cast(),
                    false,
                )
            };
            told(good)?;
            Ok(seeing.seen)
        }

        /// Returns when everything is on the device.
        pub fn synchronize(&self) -> Result<(), String> {
            // SAFETY: 1. The base lives as long as `self`. 2. Null stands for no processor. 3. The settings
            // are an empty string that ends with a zero.
            told(unsafe {
                tkrzw_dbm_synchronize(self.base, true, ptr::null(), ptr::null_mut(), c"".as_ptr())
            })
        }
    }

    impl Drop for Dbm {
        fn drop(&mut self) {
            // SAFETY: `open` got it, it is closed once, and nobody has a copy of the pointer.
            let good = unsafe { tkrzw_dbm_close(self.base) };
            if let Err(text) = told(good) {
                // Closing is no part of what is measured, but a store that does not close counts as failed.
                assert!(std::thread::panicking(), "Tkrzw does not close: {text}");
            }
        }
    }
}
