//! How much memory this process may use: the machine's, or what its control groups leave of it.

use std::path::Path;

/// Bytes of memory that this process, what it has of the page cache included, may use; `None` if the system
/// does not say. Cost: reads some files of `/proc` and `/sys`.
///
/// Sources: proc(5), "MemTotal"; cgroups(7); the kernel's `cgroup-v2`, "memory.max" and "memory.high", and `cgroup-v1/memory`,
/// "memory.limit_in_bytes". A limit of a group holds for all groups in it.
pub fn usable() -> Option<u64> {
    usable_under(Path::new("/"))
}

fn usable_under(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let total = total_of(&read("proc/meminfo"));
    let groups = read("proc/self/cgroup");
    let limits = groups.lines().filter_map(group_of).flat_map(|group| {
        let (mount, files): (_, &[_]) = match group.unified {
            true => (root.join("sys/fs/cgroup"), &["memory.max", "memory.high"]),
            false => (
                root.join("sys/fs/cgroup/memory"),
                &["memory.limit_in_bytes"],
            ),
        };
        // Seen from within a container the path may be that outside: the mount's own files count then.
        let inner = Path::new(group.path.trim_start_matches('/'));
        let mut limits = Vec::new();
        for dir in inner.ancestors().map(|part| mount.join(part)) {
            let texts = files
                .iter()
                .filter_map(|file| std::fs::read_to_string(dir.join(file)).ok());
            // "max" is no limit.
            limits.extend(texts.filter_map(|text| text.trim().parse::<u64>().ok()));
        }
        limits
    });
    total.into_iter().chain(limits).min()
}

/// A control group that limits memory.
struct Group<'a> {
    /// Of the second version.
    unified: bool,
    path: &'a str,
}

/// A line of `/proc/self/cgroup`: number, controllers, path. Version 2 is number 0 without controllers.
fn group_of(line: &str) -> Option<Group<'_>> {
    let mut fields = line.splitn(3, ':');
    let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let unified = number == "0" && controllers.is_empty();
    let limits_memory = controllers.split(',').any(|name| name == "memory");
    (unified || limits_memory).then_some(Group { unified, path })
}

/// `MemTotal` of `/proc/meminfo`, which is in KiB.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory can be made");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        dir
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemFree:  1 kB\nMemTotal:       2048 kB\nMemAvailable: 3 kB\n",
    );

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let limit = |files: &[(&str, &str)]| usable_under(root(files).path());
        assert_eq!(limit(&[]), None);
        assert_eq!(limit(&[MEMINFO]), Some(2 << 20));
        let unified = ("proc/self/cgroup", "0::/a/b\n");
        let a = ("sys/fs/cgroup/a/memory.max", "1000000\n");
        let b = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(limit(&[MEMINFO, unified, a, b]), Some(1_000_000));
        assert_eq!(limit(&[MEMINFO, unified, b]), Some(2 << 20));
        let high = ("sys/fs/cgroup/a/b/memory.high", "999999\n");
        assert_eq!(limit(&[MEMINFO, unified, a, b, high]), Some(999_999));
        let first = (
            "proc/self/cgroup",
            "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n",
        );
        let of = "sys/fs/cgroup/memory/a/memory.limit_in_bytes";
        let none = (
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(limit(&[MEMINFO, first, none, (of, "77\n")]), Some(77));
        // Not the memory controller's.
        assert_eq!(limit(&[MEMINFO, unified, (of, "77\n")]), Some(2 << 20));
        // The path outside a container; within, the mount shows its limit.
        let own = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n");
        assert_eq!(limit(&[MEMINFO, first, own]), Some(5000));
    }

    #[test]
    fn what_cannot_be_understood_is_no_limit() {
        let cgroup = |text| ("proc/self/cgroup", text);
        for bad in ["", "0", "0:", "x:y", ":::::", "0::/../../etc\n"] {
            let dir = root(&[MEMINFO, cgroup(bad)]);
            assert_eq!(usable_under(dir.path()), Some(2 << 20), "{bad:?}");
        }
        for bad in [
            "MemTotal: 12 MB",
            "MemTotal:kB",
            "MemTotal: 99999999999999999 kB",
        ] {
            let dir = root(&[("proc/meminfo", bad)]);
            assert_eq!(usable_under(dir.path()), None, "{bad:?}");
        }
    }

    #[test]
    fn this_machine_says_how_much_it_has() {
        assert!(usable().is_some_and(|bytes| bytes > 1 << 20));
    }
}
