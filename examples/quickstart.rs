//! The store in a few lines: `cargo run --example quickstart`.

use kvs::{Durability, Options};

fn main() -> kvs::Result<()> {
    let dir = std::env::temp_dir().join(format!("kvs-quickstart-{}", std::process::id()));
    let store = Options::new().durability(Durability::Sync).open(&dir)?;

    store.set("greeting", "hello")?; // on disk when it returns
    let value = store.get("greeting")?.expect("just stored");
    assert_eq!(&*value, b"hello"); // borrowed from the mapped file, not copied

    assert!(store.remove("greeting")?);
    assert!(store.get("greeting")?.is_none());
    assert_eq!(&*value, b"hello"); // outlives removal, compaction and the store itself

    store.close()?;
    Ok(std::fs::remove_dir_all(dir)?)
}
