//! After a failed sync nobody may be told that all is well, whoever asks second.
//!
//! The kernel reports a failed write-back once per open file: the next sync of the same descriptor
//! succeeds, while the pages are clean and not on disk. Method: the simulated file system does the
//! same; one sync of a segment fails, everything else works.

use kvs::testing::sim::{Call, Errno, Fault, SimFs};
use kvs::testing::{self, Fs};
use kvs::{Durability, Error, Options, Update};

fn options() -> Options {
    Options::new().segment_bytes(64 << 10).shard_bits(2)
}

#[test]
fn a_failed_seal_is_not_made_good_by_the_sync_that_close_asks_for() {
    let fs = SimFs::new();
    let store = testing::open(fs.clone(), &options(), 1).unwrap();
    store.set(b"durable", b"1").unwrap();
    store.flush().unwrap();
    let durable = store.stats().durable_lsn;
    store.set(b"lost", b"2").unwrap();
    // Creating the next segment syncs it once, appending ADD syncs the manifest: the third is the seal.
    fs.fail_call(Call::SyncData, 2, Fault::once(Errno::IO));
    assert!(matches!(store.rotate_now(), Err(Error::Io { .. })));
    assert_eq!(fs.fired(), 1);
    assert!(
        store.close().is_err(),
        "what was lost must not be called closed"
    );
    assert!(
        store.stats().durable_lsn <= durable,
        "nothing became durable since"
    );
    assert!(matches!(
        store.set(b"more", b"3"),
        Err(Error::Closed | Error::Poisoned)
    ));
    assert!(matches!(store.get(b"lost"), Err(Error::Poisoned)));
    assert_eq!(store.get(b"durable").unwrap().unwrap(), b"1");
    assert!(store.pairs().is_err());

    // A power cut takes what the failed sync left behind; the rest opens, as a prefix.
    let image = fs.image(fs.log_len(), testing::sim::Survive::SyncedOnly);
    let store = testing::open(SimFs::from_image(&image), &options(), 2).unwrap();
    assert_eq!(store.get(b"durable").unwrap().unwrap(), b"1");
    assert!(store.get(b"lost").unwrap().is_none());
    assert_eq!(fs.path().to_str(), Some("/sim"));
}

#[test]
fn reads_refuse_undurable_keys_even_if_nobody_writes_after_the_failure() {
    let fs = SimFs::new();
    let store = testing::open(fs.clone(), &options(), 1).unwrap();
    store.set(b"old", b"1").unwrap();
    store.flush().unwrap();
    store.set(b"new", b"2").unwrap();
    fs.fail_call(Call::SyncData, 0, Fault::once(Errno::IO));
    let error = store.flush().unwrap_err();
    assert!(
        matches!(&error, Error::Io { op: "sync the segment", source, .. } if source.raw_os_error() == Some(5)),
        "the error is the one the sync gave: {error:?}"
    );
    assert!(matches!(store.get(b"new"), Err(Error::Poisoned)));
    assert_eq!(store.get(b"old").unwrap().unwrap(), b"1");
    // So does every other way of reading.
    let (reader, mut copy) = (store.reader(), Vec::new());
    assert!(matches!(reader.get(b"new"), Err(Error::Poisoned)));
    assert_eq!(reader.get(b"old").unwrap().unwrap(), b"1");
    assert!(matches!(
        store.get_many(&["old", "new"]),
        Err(Error::Poisoned)
    ));
    assert_eq!(store.get_many(&["old"]).unwrap().len(), 1);
    assert!(matches!(store.contains_key(b"new"), Err(Error::Poisoned)));
    assert!(matches!(
        store.get_into(b"new", &mut copy),
        Err(Error::Poisoned)
    ));
    let keep = |_: Option<&[u8]>| Update::Keep;
    assert!(matches!(
        store.fetch_update(Durability::Os, b"new", keep),
        Err(Error::Poisoned)
    ));
    assert!(matches!(store.flush(), Err(Error::Poisoned)));
}

#[test]
fn a_batch_over_a_damaged_value_is_refused_before_anything_is_written() {
    let fs = SimFs::new();
    let store = testing::open(fs.clone(), &options(), 1).unwrap();
    store.set(b"key", &[7; 100]).unwrap();
    store.set(b"other", b"1").unwrap();
    let last = store.stats().last_lsn;
    // The key length of the first data record: LINK stands before it.
    fs.edit("0000000000000001.seg", |bytes| bytes[4096 + 48 + 18] ^= 1);
    let mut batch = kvs::Batch::new();
    batch.set("other", "2").set("key", "3");
    assert!(matches!(store.write(&batch), Err(Error::Corrupt { .. })));
    assert!(matches!(
        store.set(b"key", b"3"),
        Err(Error::Corrupt { .. })
    ));
    assert_eq!(store.stats().last_lsn, last, "nothing was written");
    store.set(b"other", b"2").unwrap();
    assert_eq!(
        store.get(b"other").unwrap().unwrap(),
        b"2",
        "the store goes on"
    );
}

#[test]
fn iterators_refuse_what_is_undurable_as_gets_do_even_if_nobody_else_comes_by() {
    let fs = SimFs::new();
    let store = testing::open(fs.clone(), &options(), 1).unwrap();
    store.set(b"lost", b"2").unwrap();
    // As in the background: the sync of the seal fails, and nobody has entered the section since.
    fs.fail_call(Call::SyncData, 2, Fault::once(Errno::IO));
    assert!(store.rotate_now().is_err());
    assert!(matches!(store.pairs().err(), Some(Error::Poisoned)));
    assert!(matches!(store.get(b"lost"), Err(Error::Poisoned)));
}

/// Whoever is told of a failed sync and tries again at once must be refused, at every level.
#[test]
fn nobody_who_was_told_of_a_failed_sync_gets_another_write_in() {
    const THREADS: u64 = 4;
    for round in 0..400 {
        let fs = SimFs::new();
        let store = testing::open(fs.clone(), &options(), 1).unwrap();
        store.set(b"first", b"1").unwrap();
        fs.fail_call(Call::SyncData, round % 7, Fault::once(Errno::IO));
        std::thread::scope(|scope| {
            for t in 0..THREADS {
                let store = &store;
                scope.spawn(move || {
                    let key = [t as u8];
                    let told = std::iter::repeat_with(|| {
                        store.set_at(Durability::Os, &key, b"1").unwrap_or_default();
                        store.set_at(Durability::Sync, &key, b"2")
                    });
                    let told = told.take(1000).find_map(Result::err).unwrap();
                    let again = store.set_at(Durability::Os, &key, b"3");
                    assert!(matches!(again, Err(Error::Poisoned)), "{again:?}");
                    match told {
                        // Certainly not applied: what was there may be durable.
                        Error::Poisoned => {}
                        Error::Io { op, .. } => {
                            assert_eq!(op, "sync the segment", "everybody is told the cause");
                            let read = store.get(&key);
                            assert!(matches!(read, Err(Error::Poisoned)), "{read:?}");
                        }
                        other => panic!("{other:?}"),
                    }
                });
            }
        });
    }
}
