//! A whole directory: damaged, opened read-only and for writing, read, changed, opened again.

use std::sync::Arc;

use kvs::testing::sim::{Content, Image, SimFs};
use kvs::testing::{Engine, open, repair_by};
use kvs::{Error, Options};

use crate::edit::{self, Files};
use crate::forge;
use crate::input::Input;
use crate::workload::{Bases, Contents, Oracle, bases, options};

type Store = Arc<Engine<SimFs>>;

/// A key that no history has.
const OURS: &[u8] = b"written by the fuzzer";

/// Opening and reading a damaged store.
///
/// Whatever the damage: no panic, no hang, nothing read outside the files; a refused or read-only
/// open changes no byte. As long as no checksum was written anew or chosen: what is read are values
/// that were once written under their key; a store that opens for writing and can be read holds what
/// it held at some moment of its history; it takes a write, and still holds the same after a kill, a
/// compaction and a close.
///
/// Input: which store (2 bytes), flags (bits 0-2: checks anew in segments, manifests, hints), edits.
pub fn recovery(input: &[u8]) {
    let (files, honest) = damaged(input);
    check(&files, honest.then(|| &bases().oracle));
}

/// The files that an input asks for; whether no checksum was written anew or chosen.
fn damaged(input: &[u8]) -> (Files, bool) {
    let Bases { images, .. } = bases();
    let mut input = Input(input);
    let base = usize::from(input.u16());
    let flags = input.u8();
    let mut files = images[base % images.len()].clone();
    let honest = edit::apply(&mut files, &mut input) && flags & 7 == 0;
    for (bit, part) in [(1, ".seg"), (2, "MANIFEST"), (4, ".hint")] {
        for (name, bytes) in files.iter_mut().filter(|(name, _)| name.contains(part)) {
            if flags & bit != 0 {
                forge::file(name, bytes);
            }
        }
    }
    (files, honest)
}

/// Repairing a damaged store.
///
/// Whatever the damage: no panic, no hang, no byte of the source changed, and a new store that is clean
/// and holds as many keys as the report says. As long as no checksum was written anew or chosen: every
/// value in it was once written under its key, and a store that opens whole is repaired into what it
/// shows, unless the report says that something is lost.
///
/// Input: as [`recovery`].
pub fn repair(input: &[u8]) {
    let (files, honest) = damaged(input);
    let oracle = honest.then(|| &bases().oracle);
    let image = image(&files);
    let (fs, to) = (quiet(&image), SimFs::new());
    let repaired = repair_by(&fs, Some(to.clone()));
    assert_eq!(fs.snapshot(), image, "repairing changed a byte");
    let report = match repaired {
        Ok(report) => report,
        Err(Error::Missing { .. }) => return,
        Err(error) => panic!("there is room, and there are no I/O errors here: {error}"),
    };
    assert_eq!(report.incomplete, !report.lost.is_empty());
    let store = open_with(&to, &options()).expect("a store that was just made opens");
    assert!(store.recovery().clean);
    let contents = read(&store, oracle).expect("all of it is whole");
    assert!(contents.len() == 1 << 16 || contents.len() as u64 == report.keys);
    let shown = open_with(&quiet(&image), &options()).ok();
    let shown = shown.filter(|_| !report.incomplete).zip(oracle);
    if let Some((shown, oracle)) = shown
        && let Some(shown) = read(&shown, Some(oracle))
    {
        assert_eq!(shown, contents, "nothing lost, and not the same");
    }
}

fn image(files: &Files) -> Image {
    let mut image = Image::new();
    for (name, bytes) in files {
        image.put(name, Content::new(bytes.clone()));
    }
    image
}

/// Opens, reads, writes and opens again; `oracle` if the files were damaged, not forged.
pub fn check(files: &Files, oracle: Option<&Oracle>) {
    let image = image(files);

    let fs = quiet(&image);
    let read_only = open_with(&fs, &options().read_only(true));
    let mut served = None;
    if let Ok(store) = &read_only {
        let contents = read(store, oracle);
        check_verify(store, oracle);
        assert!(matches!(store.set(b"k", b"v"), Err(Error::ReadOnly)));
        if !store.recovery().incomplete {
            served = contents;
        }
    }
    let incomplete = read_only
        .as_ref()
        .map_or(true, |store| store.recovery().incomplete);
    drop(read_only);
    assert_eq!(fs.snapshot(), image, "reading changed a byte");

    let fs = quiet(&image);
    let Ok(store) = open_with(&fs, &options()) else {
        assert_eq!(fs.snapshot(), image, "a refused open changed a byte");
        assert!(
            oracle.is_none() || incomplete,
            "refused for writing, but whole for reading"
        );
        return;
    };
    let contents = read(&store, oracle);
    check_verify(&store, oracle);
    if let (Some(oracle), Some(contents)) = (oracle, &contents) {
        assert!(
            !incomplete,
            "opened for writing, but incomplete for reading"
        );
        assert!(
            oracle.states.contains(contents),
            "never a state of this store: {contents:?}"
        );
        assert_eq!(
            served.as_ref(),
            Some(contents),
            "reading and writing saw different stores"
        );
    }
    let wrote = store.set(OURS, b"1");
    drop(store);
    let expected = match (oracle, contents) {
        (Some(_), Some(mut contents)) => {
            wrote.expect("a store that opens takes a write");
            contents.insert(OURS.to_vec(), b"1".to_vec());
            Some(contents)
        }
        _ => None,
    };
    go_on(&fs, oracle, expected.as_ref());
}

/// Killed, opened, compacted, closed, opened: always the same contents.
fn go_on(fs: &SimFs, oracle: Option<&Oracle>, expected: Option<&Contents>) {
    let same = |store: &Store, when: &str| {
        if let Some(expected) = expected {
            let now = read(store, oracle).expect("what could be read can still be read");
            assert_eq!(&now, expected, "{when}");
        }
    };
    let store = match open_with(fs, &options()) {
        Ok(store) => store,
        Err(error) => {
            assert!(expected.is_none(), "opened once, then refused: {error}");
            return;
        }
    };
    same(&store, "after a kill");
    // May find damage in records that are long dead.
    let compacted = store.compact();
    same(&store, "after compaction");
    let closed = store.close();
    drop(store);
    if expected.is_some() {
        assert!(
            matches!(compacted, Ok(_) | Err(Error::Corrupt { .. })),
            "{compacted:?}"
        );
        closed.expect("a store that works can be closed");
    }
    let Ok(store) = open_with(fs, &options().read_only(true)) else {
        assert!(expected.is_none(), "refused after a close");
        return;
    };
    same(&store, "after a close");
    assert!(
        expected.is_none() || store.recovery().clean,
        "{}",
        store.recovery()
    );
}

fn quiet(image: &Image) -> SimFs {
    let fs = SimFs::from_image(image);
    fs.set_recording(false);
    fs
}

fn open_with(fs: &SimFs, options: &Options) -> kvs::Result<Store> {
    open(fs.clone(), options, 77)
}

fn check_verify(store: &Store, oracle: Option<&Oracle>) {
    let verified = store.verify();
    if oracle.is_some() {
        verified.expect("there are no I/O errors here");
    }
    let _ = store.stats();
}

/// Everything in the store, by every way of reading it; `None` if part of it is damaged.
fn read(store: &Store, oracle: Option<&Oracle>) -> Option<Contents> {
    let mut contents = Contents::new();
    let mut whole = true;
    let pairs = store.pairs().expect("no sync has failed here");
    // An index word is 8 bytes of memory and came from 24 bytes of a file: this many, and no more.
    for pair in pairs.take(1 << 16) {
        match pair {
            Ok((key, value)) => {
                contents.insert(key.to_vec(), value.to_vec());
            }
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    let known = oracle
        .into_iter()
        .flat_map(|oracle| oracle.values.keys().cloned());
    let keys: Vec<Vec<u8>> = contents.keys().cloned().chain(known).collect();
    let mut copy = Vec::new();
    for key in &keys {
        let got = store.get(key);
        let copied = store.get_into(key, &mut copy);
        let there = store.contains_key(key);
        let Some(oracle) = oracle else { continue };
        match &got {
            Ok(Some(value)) => {
                assert_eq!(value, &copy[..], "the copy is the value");
                let known = oracle
                    .values
                    .get(key)
                    .is_some_and(|all| all.contains(&**value));
                assert!(
                    known || key == OURS,
                    "never written under {key:?}: {value:?}"
                );
            }
            Ok(None) => {}
            Err(Error::Corrupt { .. }) => whole = false,
            Err(error) => panic!("reading {key:?}: {error}"),
        }
        if let (Ok(value), Ok(copied), Ok(there)) = (&got, &copied, &there) {
            assert_eq!(value.is_some(), *copied);
            assert_eq!(value.is_some(), *there);
            assert!(!whole || value.as_deref() == contents.get(key).map(Vec::as_slice));
        } else {
            whole = false;
        }
    }
    whole.then_some(contents)
}
