//! A disk whose power can go at any moment, under a file system of the real kernel.
//!
//! A daemon ([`daemon`], the program `kvs-disk`) serves one file by FUSE. The file is the disk: a loop
//! device on it carries ext4, xfs or btrfs ([`lab`]). The daemon sees every block that the kernel
//! writes and every flush, keeps all of them in order ([`log`]), and can make what the disk would
//! hold if power had gone at any of them; it can fail, delay and forget too ([`control`]).
//!
//! Mounting needs root and changes the machine. Who uses this asks first: see `tests/kernel.rs`.

pub mod control;
pub mod daemon;
pub mod lab;
pub mod log;
