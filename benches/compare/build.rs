//! Which native engines are here: those whose shared library the C compiler finds are linked, the others
//! are left out and the tables say `not here`. `KVS_COMPARE_NATIVE=0` leaves out all.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=KVS_COMPARE_NATIVE");
    if std::env::var("KVS_COMPARE_NATIVE").is_ok_and(|wanted| wanted == "0") {
        return;
    }
    for name in ["rocksdb", "tkrzw"] {
        let Some(library) = found(name) else { continue };
        println!("cargo::rerun-if-changed={}", library.display());
        println!("cargo::rustc-cfg=has_{name}");
        println!("cargo::rustc-link-lib=dylib={name}");
        // RocksDB's C interface has no function that tells its version: the file's name does.
        let file = library.canonicalize().unwrap_or(library);
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        let version = file.split(".so.").nth(1).unwrap_or("unknown version");
        println!("cargo::rustc-env={}_VERSION={version}", name.to_uppercase());
    }
}

/// Where the linker would take the library from; the compiler answers with the bare name if nowhere.
fn found(name: &str) -> Option<PathBuf> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let asked = format!("-print-file-name=lib{name}.so");
    let answer = Command::new(compiler).arg(asked).output().ok()?;
    let path = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}
