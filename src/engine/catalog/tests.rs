//! Edits and what they add up to: contradictions are refused, rewriting loses nothing, and a writer whose file
//! fails leaves what was there. Whole manifests go through the decoder; files are on the simulated disk.

use super::*;
use crate::storage::sim::SimFs;
use crate::storage::sim::{Call, Effect, Errno, Fault, Mode};

fn ids(list: &[u64]) -> Vec<U64> {
    list.iter().map(|id| U64::new(*id)).collect()
}

fn add(id: u64) -> Edit<'static> {
    Edit::Add(AddBody {
        id: U64::new(id),
        salt: [id as u8; 16],
        allocated: U64::new(1 << 16),
    })
}

fn seal(id: u64, end_lsn: u64) -> Edit<'static> {
    Edit::Seal(seal_body(
        id,
        &End {
            length: 8192,
            end_lsn,
            min_lsn: 2,
            max_lsn: end_lsn - 1,
            records: 3,
            cut: None,
        },
    ))
}

fn catalog(edits: &[Edit<'_>]) -> Catalog {
    let mut catalog = Catalog::new(StoreBody {
        hash_key: [7; 16],
        next_id: U64::new(1),
        next_lsn: U64::new(1),
        shard_bits: 2,
        zero: [0; 7],
    });
    for edit in edits {
        catalog.apply(edit).unwrap();
    }
    catalog
}

fn rewritten(catalog: &Catalog) -> Catalog {
    let header = ManifestHeader {
        store_id: [1; 16],
        salt: [2; 16],
    };
    let (bytes, next_seq) = encode_whole(&header, 41, catalog);
    let read = replay(&bytes).unwrap();
    assert_eq!(read.next_seq, next_seq);
    read.catalog
}

fn assert_says_the_same(a: &Catalog, b: &Catalog) {
    assert_eq!(a.live, b.live);
    assert_eq!(a.retired, b.retired);
    assert_eq!(a.log_end, b.log_end);
    assert_eq!(a.next_id, b.next_id);
    assert_eq!(a.clean, b.clean);
    assert_eq!(a.last_clean, b.last_clean);
}

#[test]
fn a_rewritten_manifest_says_what_the_old_one_said() {
    let merged = MergedBody {
        id: U64::new(4),
        salt: [4; 16],
        length: U64::new(5000),
        min_lsn: U64::new(2),
        max_lsn: U64::new(9),
        records: U64::new(2),
    };
    let (one, both) = (ids(&[1]), ids(&[1, 2]));
    let cut = Edit::Cut {
        cut: cut_body(
            3,
            &End {
                length: 4096,
                end_lsn: 20,
                min_lsn: 0,
                max_lsn: 0,
                records: 0,
                cut: None,
            },
            25,
        ),
        dropped: &[],
    };
    let clean = Edit::Clean(CleanBody {
        id: U64::new(5),
        length: U64::new(4400),
        lsn: U64::new(30),
    });
    let opened = Edit::Opened(OpenedBody {
        id: U64::new(5),
        allocated: U64::new(1 << 20),
    });
    let compact = Edit::Compact {
        outputs: std::slice::from_ref(&merged),
        inputs: &both,
    };
    let edits = [
        add(1),
        seal(1, 10),
        add(2),
        seal(2, 20),
        compact,
        Edit::Forget { ids: &one },
        add(3),
        cut,
        add(5),
        clean,
        opened,
        add(6),
    ];
    // After every edit: rewriting then loses nothing, whatever the moment. By then the files of
    // retired segments are gone.
    for n in 0..=edits.len() {
        let mut catalog = catalog(&edits[..n]);
        catalog.retired.clear();
        assert_says_the_same(&catalog, &rewritten(&catalog));
    }
}

#[test]
fn the_end_of_the_log_is_remembered_when_its_segment_is_gone() {
    let one = ids(&[1]);
    let retired = [
        add(1),
        seal(1, 10),
        Edit::Compact {
            outputs: &[],
            inputs: &one,
        },
    ];
    let mut after = catalog(&retired);
    after.apply(&Edit::Forget { ids: &one }).unwrap();
    assert_says_the_same(&after, &rewritten(&after));
    assert_eq!(after.log_end.next_lsn, 11);
}

#[test]
fn edits_that_contradict_the_ones_before_them_are_refused() {
    let one = ids(&[1]);
    let bad: [&[Edit<'_>]; 7] = [
        &[seal(1, 10)],
        &[add(1), add(1)],
        &[add(1), seal(1, 10), seal(1, 10)],
        &[
            add(1),
            Edit::Compact {
                outputs: &[],
                inputs: &one,
            },
        ],
        &[
            add(1),
            Edit::Clean(CleanBody {
                id: U64::new(0),
                length: U64::new(0),
                lsn: U64::new(0),
            }),
        ],
        &[Edit::Opened(OpenedBody {
            id: U64::new(1),
            allocated: U64::new(0),
        })],
        &[add(0)],
    ];
    for edits in bad {
        let (last, before) = edits.split_last().unwrap();
        assert!(catalog(before).apply(last).is_err(), "{last:?}");
    }
}

/// The bytes of a manifest of these edits, numbered from `first_seq` on.
fn manifest_of(edits: &[Edit<'_>], first_seq: u64) -> (ManifestHeader, Vec<u8>) {
    let header = ManifestHeader {
        store_id: [1; 16],
        salt: [2; 16],
    };
    let mut bytes = header.encode().to_vec();
    for (edit, seq) in edits.iter().zip(first_seq..) {
        let offset = bytes.len();
        bytes.resize(offset + edit.encoded_bytes(), 0);
        let key = header.place_key();
        edit.encode_into(&mut bytes[offset..], &key, offset as u64, seq)
            .unwrap();
    }
    (header, bytes)
}

fn store_body() -> StoreBody {
    catalog(&[]).store
}

#[test]
fn no_edit_takes_a_number_away_from_the_store() {
    let clean = |id, length, lsn| {
        Edit::Clean(CleanBody {
            id: U64::new(id),
            length: U64::new(length),
            lsn: U64::new(lsn),
        })
    };
    let ended = |length, end_lsn, cut| End {
        length,
        end_lsn,
        min_lsn: 0,
        max_lsn: 0,
        records: 0,
        cut,
    };
    let sealed = |length, end_lsn| Edit::Seal(seal_body(1, &ended(length, end_lsn, None)));
    let output = |id, length, max_lsn| {
        [MergedBody {
            id: U64::new(id),
            salt: [4; 16],
            length: U64::new(length),
            min_lsn: U64::new(1),
            max_lsn: U64::new(max_lsn),
            records: U64::new(1),
        }]
    };
    let (short, late) = (
        output(3, PAGE_BYTES - 1, 9),
        output(3, 5000, NUMBER_MAX + 1),
    );
    let (used, high) = (output(1, 5000, 9), output(ID_MAX + 1, 5000, 9));
    let compact = |outputs| Edit::Compact {
        outputs,
        inputs: &[],
    };
    let one = ids(&[1]);
    let opened = Edit::Opened(OpenedBody {
        id: U64::new(1),
        allocated: U64::new(1 << 16),
    });
    let cut = |id, end_lsn, next_lsn, dropped| Edit::Cut {
        cut: cut_body(id, &ended(5000, end_lsn, None), next_lsn),
        dropped,
    };
    let bad: [&[Edit<'_>]; 17] = [
        &[Edit::Store(store_body())],
        &[add(ID_MAX + 1)],
        &[compact(&short)],
        &[compact(&late)],
        &[compact(&high)],
        &[add(1), compact(&used)],
        &[Edit::Compact {
            outputs: &[],
            inputs: &one,
        }],
        &[add(1), seal(1, 10), opened],
        &[add(1), clean(1, PAGE_BYTES - 1, 5)],
        &[add(1), clean(1, 5000, NUMBER_MAX + 1)],
        &[add(1), clean(2, 5000, 5)],
        &[add(1), sealed(PAGE_BYTES - 1, 5)],
        &[add(1), sealed(5000, NUMBER_MAX)],
        // LSNs that were seen would be given out again.
        &[add(1), cut(1, 10, 10, &[])],
        &[add(1), cut(1, 10, NUMBER_MAX + 1, &[])],
        // What is given up must be there, and without an end.
        &[add(2), cut(2, 10, 11, &one)],
        &[add(1), seal(1, 5), add(2), cut(2, 10, 11, &one)],
    ];
    for edits in bad {
        let (last, before) = edits.split_last().unwrap();
        assert!(catalog(before).apply(last).is_err(), "{last:?}");
        // Read from a file, it is refused at its place.
        let whole: Vec<Edit<'_>> = [Edit::Store(store_body())]
            .into_iter()
            .chain(edits.iter().copied())
            .collect();
        let (_, bytes) = manifest_of(&whole, 1);
        let at = bytes.len() - last.encoded_bytes();
        let refused = replay(&bytes).map(|read| read.catalog);
        let refused = refused.expect_err("it contradicts what was before");
        assert_eq!(refused, (at as u64, DecodeError::WrongIdentity), "{last:?}");
    }
}

#[test]
fn a_manifest_begins_with_a_store_whose_numbers_can_be_believed() {
    let store = |id, lsn| {
        Edit::Store(StoreBody {
            next_id: U64::new(id),
            next_lsn: U64::new(lsn),
            ..store_body()
        })
    };
    let at = HEADER_BYTES as u64;
    let refused = |edits: &[Edit<'_>], first_seq| {
        let (_, bytes) = manifest_of(edits, first_seq);
        replay(&bytes).map(|read| read.end).expect_err("refused")
    };
    let wrong = (at, DecodeError::WrongIdentity);
    for bad in [store(ID_MAX + 1, 1), store(1, 0), store(1, NUMBER_MAX + 1)] {
        assert_eq!(refused(&[bad], 1), wrong, "{bad:?}");
    }
    assert_eq!(refused(&[store(1, 1)], NUMBER_MAX), wrong);
    let third = at + (store(1, 1).encoded_bytes() + add(1).encoded_bytes()) as u64;
    assert_eq!(
        refused(&[store(1, 1), add(1), add(2)], NUMBER_MAX - 1).0,
        third,
        "a number beyond all is refused at its edit"
    );
    // No crash explains a manifest without one: it was synced before it got its name.
    let truncated = (at, DecodeError::Truncated { need: 1, have: 0 });
    assert_eq!(refused(&[], 1), truncated);
    assert_eq!(refused(&[add(1)], 1), truncated);
    let (_, mut damaged) = manifest_of(&[store(1, 1), add(1)], 1);
    damaged[HEADER_BYTES + 30] ^= 1;
    let (offset, reason) = replay(&damaged).map(|read| read.end).unwrap_err();
    assert_eq!(offset, at);
    assert!(matches!(reason, DecodeError::BadCrc { .. }), "{reason:?}");
}

#[test]
fn a_store_that_was_closed_without_a_segment_is_closed_after_rewriting() {
    let one = ids(&[1]);
    let closed = catalog(&[
        add(1),
        seal(1, 10),
        Edit::Compact {
            outputs: &[],
            inputs: &one,
        },
        Edit::Forget { ids: &one },
        Edit::Clean(CleanBody {
            id: U64::ZERO,
            length: U64::ZERO,
            lsn: U64::new(10),
        }),
    ]);
    assert!(closed.clean.is_some());
    assert_says_the_same(&closed, &rewritten(&closed));
}

#[test]
fn segment_ids_come_to_an_end() {
    let store = StoreBody {
        next_id: U64::new(ID_MAX),
        ..store_body()
    };
    let header = ManifestHeader {
        store_id: [1; 16],
        salt: [2; 16],
    };
    let fs = SimFs::new();
    let mut manifest = Manifest::write_whole(&fs, header, 1, Catalog::new(store)).unwrap();
    assert_eq!(manifest.take_id(), Some(ID_MAX));
    assert_eq!(manifest.take_id(), None);
    assert_eq!(manifest.take_id(), None, "and stay there");
}

const FULL: Fault = Fault {
    errno: Errno::NOSPC,
    mode: Mode::Once,
    effect: Effect::Half,
};
const BROKEN: Fault = Fault {
    errno: Errno::IO,
    mode: Mode::Once,
    effect: Effect::None,
};

/// A manifest on the simulated disk, with one segment.
fn written(fs: &SimFs) -> Manifest<SimFs> {
    let mut manifest = Manifest::create(fs, [1; 16], [2; 16], [7; 16], 2).unwrap();
    manifest.append(fs, &add(1)).unwrap();
    manifest
}

#[test]
fn a_file_that_is_too_long_for_a_manifest_is_refused_and_not_read() {
    let fs = SimFs::new();
    drop(written(&fs));
    let file = fs.open(name::MANIFEST, Access::ReadWrite).unwrap();
    file.set_len(MANIFEST_BYTES_MAX + 1).unwrap();
    // A read would be told.
    fs.fail_call(Call::ReadAt, 0, BROKEN);
    let found = MANIFEST_BYTES_MAX + 1;
    let error = read(&fs).unwrap_err();
    let StorageError::Corrupt {
        path,
        offset,
        reason,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((path, offset), (fs.path_of(name::MANIFEST), 0));
    let allowed = MANIFEST_BYTES_MAX;
    assert_eq!(reason, DecodeError::BadLength { found, allowed });
}

#[test]
fn an_unreadable_manifest_is_an_error_that_names_it() {
    for call in [Call::Open, Call::Len, Call::ReadAt] {
        let fs = SimFs::new();
        drop(written(&fs));
        fs.fail_call(call, 0, BROKEN);
        let error = read(&fs).unwrap_err();
        assert!(
            matches!(&error, StorageError::Io { path, .. } if *path == fs.path_of(name::MANIFEST)),
            "{call:?}: {error:?}"
        );
    }
}

/// Opening is on the way to making room, so what was kept for it is used.
#[test]
fn on_a_full_disk_the_reserve_makes_room_for_the_manifest() {
    for reserved in [true, false] {
        for call in [Call::CreateOrTruncate, Call::WriteAt] {
            let fs = SimFs::new();
            drop(written(&fs));
            if reserved {
                fs.put(name::RESERVE, &[0; 512]);
            }
            let found = read(&fs).unwrap();
            let before = fs.snapshot().read(name::MANIFEST);
            fs.fail_call(call, 0, FULL);
            let resumed = Manifest::resume(&fs, found);
            assert_eq!(fs.fired(), 1);
            let names = fs.snapshot().names();
            let there = |name: &str| names.iter().any(|there| there == name);
            assert!(
                !there(name::RESERVE) && !there(name::MANIFEST_TMP),
                "{names:?}"
            );
            match reserved {
                true => {
                    let mut resumed = resumed.unwrap();
                    resumed.append(&fs, &seal(1, 10)).unwrap();
                    let catalog = read(&fs).unwrap().catalog;
                    assert_says_the_same(&catalog, &resumed.catalog);
                }
                false => {
                    assert!(resumed.err().unwrap().is_disk_full(), "{call:?}");
                    assert_eq!(fs.snapshot().read(name::MANIFEST), before);
                }
            }
        }
    }
}

#[test]
fn after_a_failed_write_nothing_more_is_appended() {
    for (call, effect) in [
        (Call::WriteAt, Effect::None),
        (Call::WriteAt, Effect::Half),
        (Call::WriteAt, Effect::Whole),
        (Call::SyncData, Effect::None),
    ] {
        let fs = SimFs::new();
        let mut manifest = written(&fs);
        let before = manifest.catalog.clone();
        fs.fail_call(call, 0, Fault { effect, ..BROKEN });
        let error = manifest.append(&fs, &seal(1, 10)).unwrap_err();
        assert!(matches!(error, StorageError::Io { .. }), "{error:?}");
        assert!(manifest.has_failed());
        assert_says_the_same(&manifest.catalog, &before);
        // The disk is well again, and yet: what the edits before left is not known.
        let shown = fs.snapshot().read(name::MANIFEST);
        assert!(manifest.append(&fs, &add(2)).is_err());
        assert!(manifest.confirm(&fs).is_err());
        manifest.append_poison(&fs, 3);
        assert_eq!(
            fs.snapshot().read(name::MANIFEST),
            shown,
            "{call:?}, {effect:?}"
        );
        // Whatever of it is there, the edits before are.
        let found = read(&fs).unwrap().catalog;
        assert!(found.live.contains_key(&1) && !found.live.contains_key(&2));
    }
}

#[test]
fn poison_is_the_last_word_of_a_life() {
    let fs = SimFs::new();
    let mut manifest = written(&fs);
    manifest.append_poison(&fs, 3);
    assert!(manifest.has_failed());
    assert!(manifest.append(&fs, &add(2)).is_err());
    let read = read(&fs).unwrap();
    assert!(read.catalog.poisoned && read.catalog.durable_lsn == 3);
    let resumed = Manifest::resume(&fs, read).unwrap();
    assert!(!resumed.catalog.poisoned && !resumed.has_failed());
}

/// A manifest that is long enough to be rewritten: it has forgotten segments that it never knew.
fn long(fs: &SimFs) -> Manifest<SimFs> {
    let mut manifest = written(fs);
    let many = vec![U64::new(1 << 40); REWRITE_BYTES as usize / 8];
    assert!(!manifest.wants_rewrite());
    manifest.append(fs, &Edit::Forget { ids: &many }).unwrap();
    manifest
}

#[test]
fn a_long_manifest_is_rewritten_and_says_the_same() {
    let fs = SimFs::new();
    let mut manifest = long(&fs);
    assert!(manifest.wants_rewrite());
    let before = read(&fs).unwrap();
    manifest.rewrite(&fs, [3; 16]).unwrap();
    assert!(!manifest.wants_rewrite() && !manifest.has_failed());
    let after = read(&fs).unwrap();
    assert!(after.end < 1024 && before.end > REWRITE_BYTES);
    assert_eq!(after.header.store_id, before.header.store_id);
    assert_eq!(after.header.salt, [3; 16]);
    assert!(after.next_seq > before.next_seq, "numbers go on");
    assert_says_the_same(&after.catalog, &before.catalog);
    manifest.append(&fs, &seal(1, 10)).unwrap();
    assert_says_the_same(&read(&fs).unwrap().catalog, &manifest.catalog);
}

/// A retired segment whose file may exist is remembered by its COMPACT alone.
#[test]
fn what_remembers_a_file_that_is_still_there_is_not_rewritten() {
    let fs = SimFs::new();
    let mut manifest = long(&fs);
    let one = ids(&[1]);
    manifest.append(&fs, &seal(1, 10)).unwrap();
    let compact = Edit::Compact {
        outputs: &[],
        inputs: &one,
    };
    manifest.append(&fs, &compact).unwrap();
    assert!(!manifest.wants_rewrite());
    manifest.append(&fs, &Edit::Forget { ids: &one }).unwrap();
    assert!(manifest.wants_rewrite());
}

#[test]
fn of_a_rewrite_that_fails_the_old_manifest_is_left() {
    for (call, goes_on) in [
        (Call::CreateOrTruncate, true),
        (Call::WriteAt, true),
        (Call::SyncData, false),
        (Call::Rename, false),
        (Call::SyncDir, false),
    ] {
        let fs = SimFs::new();
        let mut manifest = long(&fs);
        let before = manifest.catalog.clone();
        fs.fail_call(call, 0, BROKEN);
        manifest.rewrite(&fs, [3; 16]).unwrap_err();
        assert_eq!(manifest.has_failed(), !goes_on, "{call:?}");
        assert_says_the_same(&read(&fs).unwrap().catalog, &before);
        match manifest.append(&fs, &seal(1, 10)) {
            Ok(()) => {
                assert!(goes_on, "{call:?}");
                assert_says_the_same(&read(&fs).unwrap().catalog, &manifest.catalog);
            }
            Err(_) => assert!(!goes_on, "{call:?}"),
        }
    }
}

#[test]
fn room_for_edits_is_kept_ahead_and_asked_for_once() {
    let fs = SimFs::new();
    let mut manifest = written(&fs);
    fs.fail_call(Call::Allocate, 0, FULL);
    let refused = manifest.reserve(&fs, 100).unwrap_err();
    assert!(refused.is_disk_full() && !manifest.has_failed());
    manifest.reserve(&fs, 100).unwrap();
    let calls = fs.calls();
    manifest.reserve(&fs, 100).unwrap();
    assert_eq!(fs.calls(), calls, "there is room already");
    manifest.append(&fs, &seal(1, 10)).unwrap();
    // The zeros behind the last edit are no edit.
    assert_says_the_same(&read(&fs).unwrap().catalog, &manifest.catalog);
}
