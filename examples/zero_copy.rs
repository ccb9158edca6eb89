//! A value without a copy, and how long it lives: `cargo run --example zero_copy`.

use std::sync::mpsc::channel;
use std::thread;

use kvs::{Store, Value};

fn main() -> kvs::Result<()> {
    let dir = std::env::temp_dir().join(format!("kvs-zero-copy-{}", std::process::id()));
    let store = Store::open(&dir)?;
    let picture = vec![7u8; 4 << 20];
    store.set("picture", &picture)?;

    // Two reads are two borrows of the same bytes in the mapped file.
    let value = store.get("picture")?.expect("just stored");
    let again = store.get("picture")?.expect("just stored");
    assert!(std::ptr::eq(value.as_ptr(), again.as_ptr()));
    drop(again);

    // It is `Send + 'static`: another thread takes it over, whatever happens to the store meanwhile.
    let (send, receive) = channel::<Value>();
    let (say, hear) = channel::<()>();
    let worker = thread::spawn(move || {
        let value = receive.recv().expect("a value");
        hear.recv().expect("a word");
        value.iter().map(|byte| u64::from(*byte)).sum::<u64>()
    });
    send.send(value).expect("the worker waits");

    store.set("picture", "another")?; // overwritten,
    store.compact()?; // its segment rewritten without it and removed,
    assert!(store.stats().pinned_bytes >= picture.len() as u64); // but kept for the worker,
    store.close()?; // the store closed,
    std::fs::remove_dir_all(&dir)?; // and its directory gone.
    say.send(()).expect("the worker waits");
    assert_eq!(worker.join().expect("the worker"), 7 * picture.len() as u64);
    Ok(())
}
