//! A store inside a program: a cache of results that outlives the process and stays within a budget.
//! `cargo run --example embed_cache`.

use std::path::Path;

use kvs::{Batch, Result, Store, Value};

/// Results of a slow function, by its input.
struct Cache {
    store: Store,
    bytes_max: u64,
}

impl Cache {
    fn open(dir: &Path, bytes_max: u64) -> Result<Self> {
        // The default level: a killed process loses nothing, a power cut the newest results, which can
        // be had again.
        let store = Store::open(dir)?;
        Ok(Self { store, bytes_max })
    }

    /// The result for `input`, from the cache or from `compute`.
    fn get_or_compute(&self, input: &str, compute: impl FnOnce(&str) -> Vec<u8>) -> Result<Value> {
        // The version of what is stored is part of the key: a new program does not read old results.
        let key = format!("v1/{input}");
        if let Some(value) = self.store.get(&key)? {
            return Ok(value);
        }
        let result = compute(input);
        self.make_room()?;
        self.store.set(&key, &result)?;
        // Borrowed from the mapped file: it lives on even if it is removed again.
        Ok(self.store.get(&key)?.expect("just stored"))
    }

    /// Removes results, any, until three quarters of the budget are used; all at once for readers.
    fn make_room(&self) -> Result<()> {
        let mut live = self.store.stats().live_bytes;
        if live <= self.bytes_max / 10 * 9 {
            return Ok(());
        }
        let mut batch = Batch::new();
        for pair in self.store.iter()? {
            let (key, value) = pair?;
            if live <= self.bytes_max / 4 * 3 {
                break;
            }
            live = live.saturating_sub((key.len() + value.len()) as u64);
            batch.remove(&key);
        }
        // Compaction gives the space back, by itself, when more than half is garbage.
        self.store.write(&batch)
    }
}

/// Stands for something that takes long.
fn slow_reverse(input: &str) -> Vec<u8> {
    input.bytes().rev().collect()
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("kvs-embed-cache-{}", std::process::id()));
    let inputs: Vec<String> = (0..1000).map(|i| format!("input {i}")).collect();

    let mut computed = 0;
    let cache = Cache::open(&dir, 1 << 20)?;
    for input in &inputs {
        let result = cache.get_or_compute(input, |input| {
            computed += 1;
            slow_reverse(input)
        })?;
        assert_eq!(&*result, slow_reverse(input));
    }
    assert_eq!(computed, inputs.len());
    cache.store.close()?;

    // The next run of the program computes nothing.
    let cache = Cache::open(&dir, 1 << 20)?;
    for input in &inputs {
        let result = cache.get_or_compute(input, |_| unreachable!("it is in the cache"))?;
        assert_eq!(&*result, slow_reverse(input));
    }

    // A smaller budget is kept, and what is missing is computed again.
    let cache = Cache {
        bytes_max: 20_000,
        ..cache
    };
    for i in 0..2000 {
        cache.get_or_compute(&format!("more {i}"), slow_reverse)?;
        assert!(cache.store.stats().live_bytes <= 20_000);
    }
    assert!(!cache.store.is_empty());
    cache.store.close()?;
    Ok(std::fs::remove_dir_all(dir)?)
}
