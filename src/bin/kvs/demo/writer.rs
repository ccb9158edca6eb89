//! The child that is killed, and what must be true of its writes afterwards.
//!
//! Operation `i` is a function of `i` alone: parent and child need to agree on nothing but how many
//! operations were acknowledged. The child acknowledges `i` after its `set` or `remove` returned
//! and before it begins `i + 1`; so at the kill at most one operation is on its way, and of that one
//! both outcomes are right.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvs::{Durability, Options, Store};

use super::{DemoError, Killed};
use crate::exit::{Answer, Failure};

/// Few enough that most writes replace a value, many enough to fill several segments.
const KEYS: u64 = 5_000;

/// The child is killed when it has run this long and acknowledged this many.
const FLIGHT_TIME: Duration = Duration::from_millis(300);
const FLIGHT_WRITES: u64 = 1_000;
/// On a machine too slow for that many, one acknowledgement is enough.
const FLIGHT_TIME_MAX: Duration = Duration::from_secs(5);

/// SIGKILL, on every Linux.
const SIGKILL: i32 = 9;

/// Operation `i`: the key it writes, and the value; `None` removes.
fn operation(i: u64) -> (Vec<u8>, Option<Vec<u8>>) {
    // The finalizer of SplitMix64: any `i` to well-mixed bits.
    let mut bits = i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    // The zero byte keeps these keys apart from imported paths.
    let key = format!("\0writer {:05}", bits % KEYS).into_bytes();
    if (bits >> 32).is_multiple_of(8) {
        return (key, None);
    }
    let bytes = 8 + (bits >> 40) as usize % 300;
    let value = i.to_le_bytes().into_iter().cycle().take(bytes).collect();
    (key, Some(value))
}

/// The child: writes and acknowledges until it is killed, or nobody listens any more.
pub fn child(dir: &Path) -> Result<Answer, Failure> {
    let store = Options::new().durability(Durability::Os).open(dir)?;
    // Past the buffer of `io::stdout`: an acknowledgement must not wait for the next one.
    let pipe = io::stdout().as_fd().try_clone_to_owned();
    let mut pipe = File::from(pipe.map_err(Failure::Output)?);
    for i in 0u64.. {
        let (key, value) = operation(i);
        match value {
            Some(value) => store.set(key, value)?,
            None => {
                store.remove(key)?;
            }
        }
        pipe.write_all(&i.to_le_bytes()).map_err(Failure::Output)?;
    }
    Ok(Answer::Yes)
}

/// Lets a child write into the store in `dir`, kills it by SIGKILL, and returns how many of its
/// operations it has acknowledged.
pub fn kill_in_flight(dir: &Path) -> Result<u64, DemoError> {
    let executable = std::env::current_exe().map_err(DemoError::io("finding myself"))?;
    let child = Command::new(executable)
        .arg("--dir")
        .arg(dir)
        .arg("demo-writer")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(DemoError::io("starting a child"))?;
    let mut child = Killed(child);
    let Some(pipe) = child.0.stdout.take() else {
        return Err(DemoError::Child("has no pipe"));
    };
    let acknowledged = AtomicU64::new(0);
    let (status, count) = thread::scope(|scope| {
        let reader = scope.spawn(|| count_acknowledgements(pipe, &acknowledged));
        let begin = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(1));
            let elapsed = begin.elapsed();
            let count = acknowledged.load(Ordering::Relaxed);
            let enough = elapsed >= FLIGHT_TIME && count >= FLIGHT_WRITES;
            let late = elapsed >= FLIGHT_TIME_MAX && (count > 0 || elapsed >= 2 * FLIGHT_TIME_MAX);
            if enough || late || reader.is_finished() {
                break;
            }
        }
        // Fails only if the child has ended by itself, which its status tells.
        let _ = child.0.kill();
        let status = child.0.wait();
        let count = reader
            .join()
            .unwrap_or(Err(DemoError::Child("was misheard")));
        (status, count)
    });
    let status = status.map_err(DemoError::io("waiting for a child"))?;
    match count? {
        _ if status.signal() != Some(SIGKILL) => {
            Err(DemoError::Child("ended before it was killed"))
        }
        0 => Err(DemoError::Child("acknowledged nothing")),
        count => Ok(count),
    }
}

/// Reads acknowledgements to the end of the pipe, also those the child left in it.
fn count_acknowledgements(mut pipe: impl Read, shown: &AtomicU64) -> Result<u64, DemoError> {
    let mut buffer = [0u8; 1 << 13];
    let mut filled = 0;
    let mut count = 0u64;
    loop {
        let read = pipe
            .read(&mut buffer[filled..])
            .map_err(DemoError::io("hearing from a child"))?;
        if read == 0 {
            return Ok(count);
        }
        filled += read;
        let (words, _) = buffer[..filled].as_chunks::<8>();
        for word in words {
            if u64::from_le_bytes(*word) != count {
                return Err(DemoError::Child("skipped an operation"));
            }
            count += 1;
        }
        let used = words.len() * 8;
        buffer.copy_within(used..filled, 0);
        filled -= used;
        shown.store(count, Ordering::Relaxed);
    }
}

/// Compares every key of the child with its first `acknowledged` operations, and returns how many
/// of its keys are there.
pub fn check(store: &Store, acknowledged: u64) -> Result<u64, Failure> {
    let mut expected: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::new();
    for i in 0..acknowledged {
        let (key, value) = operation(i);
        expected.insert(key, value);
    }
    let (open_key, open_value) = operation(acknowledged);
    let mut there = 0;
    for k in 0..KEYS {
        let key = format!("\0writer {k:05}").into_bytes();
        let found = store.get(&key)?;
        there += u64::from(found.is_some());
        let before = expected.get(&key).and_then(Option::as_deref);
        let as_before = found.as_deref() == before;
        let as_after = key == open_key && found.as_deref() == open_value.as_deref();
        if !as_before && !as_after {
            let when = "after the kill";
            return Err(DemoError::Wrong { key, when }.into());
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(store: &Store, i: u64) {
        match operation(i) {
            (key, Some(value)) => store.set(key, value).unwrap(),
            (key, None) => drop(store.remove(key).unwrap()),
        }
    }

    /// A store with the first `count` operations.
    fn store(count: u64) -> Store {
        let store = Options::new().open_in_memory().unwrap();
        (0..count).for_each(|i| apply(&store, i));
        store
    }

    const COUNT: u64 = 3_000;

    #[test]
    fn the_operation_in_flight_may_have_happened_or_not() {
        for done in [COUNT, COUNT + 1] {
            let store = store(done);
            assert_eq!(check(&store, COUNT).unwrap(), store.len());
        }
    }

    #[test]
    fn an_acknowledged_write_that_is_missing_is_found() {
        let is_newest_of_its_key = |&i: &u64| {
            let key = operation(i).0;
            (i + 1..=COUNT).all(|later| operation(later).0 != key)
        };
        for lost in (0..COUNT).rev().filter(is_newest_of_its_key).take(20) {
            let store = Options::new().open_in_memory().unwrap();
            let done = (0..COUNT).filter(|&i| i != lost);
            done.for_each(|i| apply(&store, i));
            let (key, value) = operation(lost);
            // Removing what was not there leaves no trace to miss.
            if value.is_some() || store.contains_key(&key).unwrap() {
                assert!(check(&store, COUNT).is_err(), "operation {lost}");
            }
        }
    }

    #[test]
    fn a_write_out_of_order_is_found() {
        let store = store(COUNT);
        let later = (COUNT + 1..).find(|&i| operation(i).1.is_some()).unwrap();
        apply(&store, later);
        assert!(check(&store, COUNT).is_err());
    }

    #[test]
    fn an_acknowledgement_out_of_order_is_found() {
        let bytes =
            |numbers: &[u64]| -> Vec<u8> { numbers.iter().flat_map(|i| i.to_le_bytes()).collect() };
        let count = |bytes: &[u8]| count_acknowledgements(bytes, &AtomicU64::new(0));
        assert_eq!(count(&bytes(&[0, 1, 2])).unwrap(), 3);
        assert_eq!(count(&bytes(&[0, 1, 2])[..20]).unwrap(), 2);
        assert_eq!(count(&bytes(&Vec::from_iter(0..5000))).unwrap(), 5000);
        assert!(count(&bytes(&[0, 2])).is_err());
    }
}
