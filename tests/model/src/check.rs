//! Questions to a store, and between two ways of opening it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kvs::testing::sim::{Image, SimFs};
use kvs::testing::{Engine, open, replay};
use kvs::{Expiry, Options, Snapshot};

use crate::op::{KEYS, key};
use crate::oracle::{Version, differences};

/// All pairs of a store, or of what it should be, with when they expire.
pub type Pairs = BTreeMap<Vec<u8>, Version>;

/// All pairs of a store, by its iterator.
///
/// # Errors
/// The first error of the iterator, or a key that came twice.
pub fn pairs(engine: &Arc<Engine<SimFs>>) -> Result<Pairs, String> {
    let mut all = Pairs::new();
    for pair in engine.pairs().map_err(|e| format!("iterating: {e}"))? {
        let (key, value) = pair.map_err(|e| format!("iterating: {e}"))?;
        let expiry = engine.expires_at(&key);
        let expires_at = match expiry.map_err(|e| format!("expires_at: {e}"))? {
            Some(Expiry::Never) => None,
            Some(Expiry::At(ms)) => Some(ms),
            None => return Err(format!("the iterator gave {key:?}, which is not there")),
        };
        let value = value.to_vec();
        let version = Version { value, expires_at };
        if all.insert(key.to_vec(), version).is_some() {
            return Err(format!("the iterator gave {key:?} twice"));
        }
    }
    Ok(all)
}

/// Every way of reading says `expected`, key by key, and every record is whole.
///
/// # Errors
/// What does not.
pub fn universe_holds(engine: &Arc<Engine<SimFs>>, expected: &Pairs) -> Result<(), String> {
    let found = pairs(engine)?;
    if found != *expected {
        return Err(differences(expected, &found).join("\n    "));
    }
    let mut copy = Vec::new();
    for id in 0..KEYS {
        let key = key(id);
        let want = expected.get(&key).map(|version| &version.value);
        let got = engine.get(&key).map_err(|e| format!("key {id}: {e}"))?;
        if got.as_deref() != want.map(Vec::as_slice) {
            return Err(format!("get of key {id} is not what iterating says"));
        }
        let there = engine
            .get_into(&key, &mut copy)
            .map_err(|e| e.to_string())?;
        if there.then_some(&copy) != want {
            return Err(format!("get_into of key {id} is not what get says"));
        }
    }
    views_hold(engine, expected).map_err(|e| e.to_string())??;
    if engine.len() < expected.len() as u64 {
        return Err(format!("len() is {} of {}", engine.len(), expected.len()));
    }
    let report = engine.verify().map_err(|e| format!("verify: {e}"))?;
    match report.damage.is_empty() {
        true => Ok(()),
        false => Err(format!("verify found {:?}", report.damage)),
    }
}

/// Reads that copy nothing say `expected`, key by key. Inside: what does not.
///
/// # Errors
/// What the store answered instead.
pub fn views_hold(
    engine: &Arc<Engine<SimFs>>,
    expected: &Pairs,
) -> kvs::Result<Result<(), String>> {
    // Some keys twice, and more than are looked up together.
    let keys: Vec<Vec<u8>> = (0..KEYS).chain(5..20).map(key).collect();
    let together = engine.get_many(&keys)?;
    // Whatever is asked for ahead, what is read is the same.
    engine.prefetch(&keys);
    let reader = engine.reader();
    for (i, key) in keys.iter().enumerate() {
        let want = expected.get(key).map(|version| &version.value[..]);
        let views = [
            ("get", engine.get(key)?.as_deref() == want),
            ("get_many", together[i].as_deref() == want),
            ("the reader", reader.get(key)? == want),
            ("contains_key", engine.contains_key(key)? == want.is_some()),
        ];
        if let Some((how, _)) = views.iter().find(|(_, holds)| !holds) {
            return Ok(Err(format!("{how} says something else of key {i}")));
        }
    }
    Ok(Ok(()))
}

/// Every way of reading a snapshot says `expected`. Inside: what does not.
///
/// # Errors
/// What the snapshot answered instead.
pub fn snapshot_holds(
    snapshot: &Snapshot<SimFs>,
    expected: &Pairs,
) -> kvs::Result<Result<(), String>> {
    let mut all = Pairs::new();
    for pair in snapshot.iter() {
        let (key, value) = pair?;
        let version = Version {
            value: value.to_vec(),
            // When it expires is asked of the store, not of its snapshots.
            expires_at: expected
                .get(&key[..])
                .and_then(|version| version.expires_at),
        };
        if all.insert(key.to_vec(), version).is_some() {
            return Ok(Err(format!("the iterator gave {key:?} twice")));
        }
    }
    if all != *expected {
        return Ok(Err(differences(expected, &all).join("\n    ")));
    }
    let keys: kvs::Result<Vec<_>> = snapshot.keys().collect();
    let keys: BTreeSet<Vec<u8>> = keys?.into_iter().map(Vec::from).collect();
    let with: kvs::Result<Vec<_>> = snapshot.prefix("key-1").collect();
    let with: BTreeSet<Vec<u8>> = with?.into_iter().map(|(key, _)| key.into()).collect();
    let begin = expected.keys().filter(|key| key.starts_with(b"key-1"));
    if !keys.iter().eq(expected.keys()) || !with.iter().eq(begin) {
        return Ok(Err("keys or prefix say something else".to_owned()));
    }
    let keys: Vec<Vec<u8>> = (0..KEYS).chain(5..20).map(key).collect();
    let together = snapshot.get_many(&keys)?;
    for (i, key) in keys.iter().enumerate() {
        let want = expected.get(key).map(|version| &version.value[..]);
        let views = [
            ("get", snapshot.get(key)?.as_deref() == want),
            ("get_many", together[i].as_deref() == want),
            (
                "contains_key",
                snapshot.contains_key(key)? == want.is_some(),
            ),
        ];
        if let Some((how, _)) = views.iter().find(|(_, holds)| !holds) {
            return Ok(Err(format!("{how} says something else of key {i}")));
        }
    }
    match snapshot.len() >= expected.len() as u64 {
        true => Ok(Ok(())),
        false => Ok(Err(format!(
            "len() is {} of {}",
            snapshot.len(),
            expected.len()
        ))),
    }
}

/// O8, and that reading only changes nothing: opened read-only, with its hints and without, the image
/// gives the same index and shows `expected`.
///
/// # Errors
/// What differs.
pub fn images_agree(image: &Image, options: &Options, expected: &Pairs) -> Result<(), String> {
    let options = options.clone().read_only(true);
    let mut bare = image.clone();
    for name in image.names().iter().filter(|name| is_hint(name)) {
        bare.remove(name);
    }
    let mut indexes = Vec::new();
    for (image, how) in [(image, "with hints"), (&bare, "without hints")] {
        let fs = SimFs::from_image(image);
        let engine = open(fs.clone(), &options, 1).map_err(|e| format!("read-only, {how}: {e}"))?;
        let found = pairs(&engine)?;
        if found != *expected {
            let what = differences(expected, &found).join("\n    ");
            return Err(format!("read-only, {how}: {what}"));
        }
        let expiring = engine.expiring().into_iter();
        let expiring: Vec<_> = expiring
            .map(|(id, all, live)| (id, all.total(), live))
            .collect();
        let index = engine.index_entries().map_err(|e| e.to_string())?;
        indexes.push((index, expiring));
        drop(engine);
        if fs.log_len() > 0 {
            return Err(format!("read-only, {how}: it wrote {:?}", fs.log_lines()));
        }
    }
    match indexes[0] == indexes[1] {
        true => Ok(()),
        false => Err("the index from hints is not the index from a scan".to_owned()),
    }
}

/// True for the name of a hint file.
pub(crate) fn is_hint(name: &str) -> bool {
    name.ends_with(".hint")
}

/// O11: files that the manifest does not know.
///
/// # Errors
/// If the manifest cannot be read.
pub fn strays(fs: &SimFs) -> Result<Vec<String>, String> {
    let names = fs.names();
    let mut known: BTreeSet<String> = BTreeSet::from(["MANIFEST".to_owned(), "RESERVE".to_owned()]);
    let read = replay(&fs.read("MANIFEST")).map_err(|e| format!("MANIFEST: {e:?}"))?;
    for id in read.catalog.live.keys() {
        known.extend(names_of(*id));
    }
    Ok(names
        .into_iter()
        .filter(|name| !known.contains(name))
        .collect())
}

/// The names of a segment's files.
pub(crate) fn names_of(id: u64) -> [String; 2] {
    [format!("{id:016x}.seg"), format!("{id:016x}.hint")]
}
