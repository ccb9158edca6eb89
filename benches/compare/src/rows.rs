//! The rows: what is run for each, in which order, at which size, and which numbers its table shows.
//!
//! A scenario is a directory and the processes that work on it one after the other; most of them make
//! one row. Rows that only read share a directory: nothing changes it between them.

use crate::data::Shape;
use crate::engines::Known;
use crate::job::{Stored, Work};

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Operations a second, in thousands.
    Rate,
    /// Nanoseconds, written as ns, µs or ms.
    Time,
    /// Milliseconds.
    Milliseconds,
    /// Times something else.
    Factor,
    /// Bytes.
    Bytes,
    /// Mebibytes.
    Mebibytes,
    /// Of a hundred.
    Percent,
    /// As it is.
    Plain,
}

/// A column of a row's table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Name of the number.
    pub metric: &'static str,
    /// Head of the column.
    pub head: &'static str,
    /// How it is written.
    pub unit: Unit,
}

const fn column(metric: &'static str, head: &'static str, unit: Unit) -> Column {
    Column { metric, head, unit }
}

const RATE: Column = column("ops_per_s", "k/s", Unit::Rate);
const P50: Column = column("p50_ns", "p50", Unit::Time);
const P99: Column = column("p99_ns", "p99", Unit::Time);
const P999: Column = column("p999_ns", "p99.9", Unit::Time);
const MAX: Column = column("max_ns", "max", Unit::Time);
const CPU: Column = column("cpu_ns", "CPU an operation", Unit::Time);
const PRIVATE: Column = column("private_mib", "private MiB", Unit::Mebibytes);
const DISK: Column = column("disk_factor", "disk / data", Unit::Factor);
const WRITTEN: Column = column("written_factor", "written / data", Unit::Factor);

const FILL: &[Column] = &[RATE, CPU, PRIVATE, DISK, WRITTEN];
/// How often the threads that were timed lost the processor to others: the slowest operations of a busy
/// machine are these.
const SWITCHED: Column = column("interruptions", "interrupted", Unit::Plain);

const LATENCY: &[Column] = &[RATE, P50, P99, P999, MAX, SWITCHED, CPU];
const BESIDE: &[Column] = &[
    RATE,
    P50,
    P99,
    P999,
    MAX,
    SWITCHED,
    column("beside_per_s", "k/s of the other thread", Unit::Rate),
];
const SHAPE: &[Column] = &[
    column("ops_per_s", "fill k/s", Unit::Rate),
    column("get_per_s", "get k/s", Unit::Rate),
    column("get_p50_ns", "get p50", Unit::Time),
    column("get_p99_ns", "get p99", Unit::Time),
    DISK,
    WRITTEN,
];
const OPEN: &[Column] = &[
    column("open_ms", "ms to the first get", Unit::Milliseconds),
    column("ready_ms", "ms to `open` returning", Unit::Milliseconds),
    column("private_mib", "private MiB", Unit::Mebibytes),
    column("p50_ns", "then gets: p50", Unit::Time),
    column("p99_ns", "p99", Unit::Time),
    column("max_ns", "max", Unit::Time),
];

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name on the command line.
    pub id: &'static str,
    /// What is done.
    pub title: &'static str,
    /// What its table shows.
    pub columns: &'static [Column],
}

/// What the tables show, in their order. The first column of each is also shown in the summary.
pub const ROWS: &[Row] = &[
    row("fill", "Fill, one put a call, random order", FILL),
    row("fill-batch", "Fill, batches of 1000", FILL),
    row("get", "Random get, 1 thread", LATENCY),
    row("get-2t", "Random get, 2 threads", LATENCY),
    row("miss", "Get of a missing key, 1 thread", LATENCY),
    row("ycsb-c", "YCSB C: reads, Zipf 0.99, 2 threads", LATENCY),
    row(
        "ycsb-b",
        "YCSB B: 95 % reads, Zipf 0.99, 2 threads",
        LATENCY,
    ),
    row(
        "ycsb-a",
        "YCSB A: 50 % reads, Zipf 0.99, 2 threads",
        LATENCY,
    ),
    row(
        "durable-1",
        "Durable put, 1 thread",
        &[
            RATE,
            P50,
            P99,
            P999,
            MAX,
            column("syncs_a_put", "syncs a put (strace)", Unit::Factor),
            WRITTEN,
        ],
    ),
    row(
        "durable-8",
        "Durable put, 8 threads",
        &[RATE, P50, P99, P999, MAX, WRITTEN],
    ),
    row(
        "durable-32",
        "Durable put, 32 threads",
        &[RATE, P50, P99, P999, MAX, WRITTEN],
    ),
    row(
        "overwrite",
        "Overwrite 5 N at random, with compaction",
        &[
            RATE,
            CPU,
            column("peak_factor", "highest disk / data", Unit::Factor),
            column("disk_factor", "disk / data after close", Unit::Factor),
            WRITTEN,
            column("close_ms", "ms to close", Unit::Milliseconds),
        ],
    ),
    row("put-latency", "Put while filling: latency", LATENCY),
    row(
        "get-beside",
        "Get beside 100 k overwrites a second, compaction and a sync every 1000: latency",
        BESIDE,
    ),
    row("put-beside", "Put beside a loop of syncs: latency", BESIDE),
    row("value-8", "Values of 8 B", SHAPE),
    row("value-1k", "Values of 1 KiB", SHAPE),
    row("value-4k", "Values of 4 KiB", SHAPE),
    row("value-64k", "Values of 64 KiB", SHAPE),
    row("key-8", "Keys of 8 B", SHAPE),
    row("key-64", "Keys of 64 B", SHAPE),
    row("key-256", "Keys of 256 B", SHAPE),
    row(
        "large",
        "Ten times the keys: load in batches of 1000",
        &[
            RATE,
            column("private_a_key", "private bytes a key", Unit::Bytes),
            DISK,
            WRITTEN,
            column("close_ms", "ms to close", Unit::Milliseconds),
            column("done", "keys", Unit::Plain),
        ],
    ),
    row(
        "large-get",
        "Ten times the keys: random get, 1 thread",
        LATENCY,
    ),
    row(
        "open-clean",
        "Ten times the keys: open after a clean close",
        OPEN,
    ),
    row(
        "open-cold",
        "Ten times the keys: open with a cold page cache",
        OPEN,
    ),
    row(
        "open-killed",
        "Ten times the keys: open after 5 % more and kill -9",
        &[
            column("open_ms", "ms to the first get", Unit::Milliseconds),
            column("ready_ms", "ms to `open` returning", Unit::Milliseconds),
            column("private_mib", "private MiB", Unit::Mebibytes),
            column(
                "survived",
                "% of the acknowledged puts that are there",
                Unit::Percent,
            ),
        ],
    ),
    row(
        "short",
        "Data four times the memory: gets by 2 threads, overwrites by 1",
        &[
            column("ops_per_s", "get k/s", Unit::Rate),
            P50,
            P99,
            column("put_per_s", "put k/s", Unit::Rate),
            column("put_p99_ns", "put p99", Unit::Time),
            column("put_max_ns", "put max", Unit::Time),
        ],
    ),
];

const fn row(id: &'static str, title: &'static str, columns: &'static [Column]) -> Row {
    Row { id, title, columns }
}

/// The row of that name.
pub fn known(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The published table.
    Full,
    /// Fewer keys, fewer rows, one round: rough numbers.
    Quick,
    /// Hardly any keys, every row: only to see that it runs.
    Test,
}

/// Numbers that follow from the size.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The size.
    pub size: Size,
    /// Keys of most rows.
    pub keys: u64,
    /// Longest stretch that is measured, in seconds.
    pub seconds: f64,
    /// Longest load, in seconds.
    pub load_seconds: f64,
    /// Most bytes of a shape's keys and values.
    pub shape_bytes: u64,
    /// Durable puts of one thread.
    pub durable: u64,
    /// Rounds, unless the command line says otherwise.
    pub rounds: usize,
}

impl Scale {
    /// Of a size; `keys` from the command line.
    pub fn new(size: Size, keys: Option<u64>) -> Self {
        let mut scale = match size {
            Size::Full => Self {
                size,
                keys: 1_000_000,
                seconds: 5.0,
                load_seconds: 120.0,
                shape_bytes: 512 << 20,
                durable: 3000,
                rounds: 3,
            },
            Size::Quick => Self {
                size,
                keys: 100_000,
                seconds: 1.0,
                load_seconds: 10.0,
                shape_bytes: 64 << 20,
                durable: 500,
                rounds: 1,
            },
            Size::Test => Self {
                size,
                keys: 2_000,
                seconds: 0.2,
                load_seconds: 1.0,
                shape_bytes: 1 << 20,
                durable: 50,
                rounds: 1,
            },
        };
        scale.keys = keys.unwrap_or(scale.keys);
        scale
    }
}

/// What memory is like while a stage runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// As it is.
    Warm,
    /// Nothing of the directory is in the page cache.
    Cold,
    /// As cold, and only this many bytes may be used.
    Short(u64),
}

/// A process of a scenario.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Row that its numbers belong to.
    pub row: Option<&'static str>,
    /// What it does.
    pub work: Work,
    /// What memory is like.
    pub memory: Memory,
    /// Whether what it stored is read back by another process.
    pub verify: Option<Stored>,
}

/// A directory and what is done to it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, for progress.
    pub name: &'static str,
    /// How much of what.
    pub shape: Shape,
    /// One after the other.
    pub stages: Vec<Stage>,
    /// Longest stretch, in seconds.
    pub seconds: f64,
    /// Run in every round; else only in the first.
    pub repeated: bool,
    /// Part of a quick run.
    pub quick: bool,
}

impl Scenario {
    /// Whether an engine is run in it at all: not if it could do nothing of it, nor if it would only repeat
    /// another.
    pub fn fits(&self, known: &Known) -> bool {
        let any = |is: fn(&Work) -> bool| self.stages.iter().any(|stage| is(&stage.work));
        let gets = any(|work| matches!(work, Work::Get { .. }));
        if known.can.only_reads
            && !(gets && (self.name == "reads" || known.name == "kvs:bare-reader"))
        {
            return false;
        }
        let fills = ["fill", "fill-batch", "overwrite", "put-latency", "value-4k"];
        if known.can.only_writes && !fills.contains(&self.name) {
            return false;
        }
        let rows = self.stages.iter().filter(|stage| stage.row.is_some());
        let all_but_gets = |stage: &Stage| !matches!(stage.work, Work::Get { .. });
        match known.can.reads {
            true => rows.clone().any(|stage| self.stage_fits(known, stage)),
            // A log has no keys to overwrite and gives no space back.
            false => rows
                .clone()
                .filter(|s| all_but_gets(s))
                .any(|s| self.stage_fits(known, s)),
        }
    }

    /// Whether an engine can do a stage.
    pub fn stage_fits(&self, known: &Known, stage: &Stage) -> bool {
        let can = known.can;
        match stage.work {
            Work::Load => can.reads,
            Work::Fill { .. } => true,
            Work::Get { .. } | Work::Ycsb { .. } | Work::Overwrite => can.reads,
            Work::Durable { .. } => can.durable,
            Work::GetBeside | Work::PutBeside => can.durable && can.reads,
            Work::Open { .. } | Work::Kill { .. } | Work::Short => can.files && can.reads,
            Work::Verify { .. } => can.files && can.reads,
        }
    }
}

fn stage(row: Option<&'static str>, work: Work) -> Stage {
    Stage {
        row,
        work,
        memory: Memory::Warm,
        verify: None,
    }
}

fn verified(row: &'static str, work: Work, stored: Stored) -> Stage {
    Stage {
        verify: Some(stored),
        ..stage(Some(row), work)
    }
}

const fn fill(batch: usize, each: bool) -> Work {
    Work::Fill { batch, each }
}

const fn get(threads: usize) -> Work {
    Work::Get {
        threads,
        missing: false,
    }
}

/// Bytes of a value in most rows.
const VALUE_BYTES: usize = 100;

/// Bytes of a key in most rows.
const KEY_BYTES: usize = 16;

/// Everything, in order.
pub fn scenarios(scale: &Scale) -> Vec<Scenario> {
    let usual = Shape {
        keys: scale.keys,
        key_len: KEY_BYTES,
        value_len: VALUE_BYTES,
    };
    let base = Scenario {
        name: "",
        shape: usual,
        stages: Vec::new(),
        seconds: scale.seconds,
        repeated: true,
        quick: true,
    };
    let of = |name, stages| Scenario {
        name,
        stages,
        ..base.clone()
    };
    let missing = Work::Get {
        threads: 1,
        missing: true,
    };
    let ycsb = |reads| Work::Ycsb { reads };
    let mut all = vec![
        of(
            "fill",
            vec![verified("fill", fill(1, false), Stored::Shuffled)],
        ),
        of(
            "fill-batch",
            vec![verified("fill-batch", fill(1000, false), Stored::Shuffled)],
        ),
        of(
            "reads",
            vec![
                stage(None, Work::Load),
                stage(Some("get"), get(1)),
                stage(Some("get-2t"), get(2)),
                stage(Some("miss"), missing),
                stage(Some("ycsb-c"), ycsb(100)),
            ],
        ),
        of(
            "mixed",
            vec![
                stage(None, Work::Load),
                stage(Some("ycsb-b"), ycsb(95)),
                stage(Some("ycsb-a"), ycsb(50)),
            ],
        ),
    ];
    for (row, threads) in [("durable-1", 1), ("durable-8", 8), ("durable-32", 32)] {
        all.push(Scenario {
            name: row,
            shape: Shape {
                keys: scale.durable * threads.min(8) as u64,
                ..usual
            },
            ..of(
                row,
                vec![verified(row, Work::Durable { threads }, Stored::Counted)],
            )
        });
    }
    all.push(Scenario {
        seconds: scale.seconds * 3.0,
        ..of(
            "overwrite",
            vec![verified("overwrite", Work::Overwrite, Stored::Overwritten)],
        )
    });
    all.push(of(
        "put-latency",
        vec![verified("put-latency", fill(1, true), Stored::Shuffled)],
    ));
    for (row, work) in [
        ("get-beside", Work::GetBeside),
        ("put-beside", Work::PutBeside),
    ] {
        all.push(Scenario {
            quick: row == "get-beside",
            ..of(row, vec![stage(None, Work::Load), stage(Some(row), work)])
        });
    }
    let shapes = [
        ("value-8", KEY_BYTES, 8),
        ("value-1k", KEY_BYTES, 1 << 10),
        ("value-4k", KEY_BYTES, 4 << 10),
        ("value-64k", KEY_BYTES, 64 << 10),
        ("key-8", 8, VALUE_BYTES),
        ("key-64", 64, VALUE_BYTES),
        ("key-256", 256, VALUE_BYTES),
    ];
    for (row, key_len, value_len) in shapes {
        let keys = scale
            .keys
            .min(scale.shape_bytes / (key_len + value_len) as u64);
        all.push(Scenario {
            shape: Shape {
                keys,
                key_len,
                value_len,
            },
            quick: row == "value-4k",
            repeated: row == "value-4k",
            ..of(
                row,
                vec![
                    verified(row, fill(1, false), Stored::Shuffled),
                    stage(Some(row), get(1)),
                ],
            )
        });
    }
    let extra = scale.keys / 2;
    let cold = |row, work, memory| Stage {
        memory,
        ..stage(Some(row), work)
    };
    all.push(Scenario {
        shape: Shape {
            keys: scale.keys * 10,
            ..usual
        },
        repeated: false,
        quick: false,
        ..of(
            "large",
            vec![
                stage(Some("large"), Work::Load),
                stage(Some("open-clean"), Work::Open { extra: 0 }),
                stage(Some("large-get"), get(1)),
                cold("open-cold", Work::Open { extra: 0 }, Memory::Cold),
                stage(None, Work::Kill { extra }),
                stage(Some("open-killed"), Work::Open { extra }),
            ],
        )
    });
    // A quarter of the data, but never so little that a process cannot start.
    let shape = Shape {
        value_len: 1 << 10,
        ..usual
    };
    let limit = (shape.payload() / 4).max(64 << 20);
    all.push(Scenario {
        shape,
        repeated: false,
        quick: false,
        ..of(
            "short",
            vec![
                stage(None, Work::Load),
                cold("short", Work::Short, Memory::Short(limit)),
            ],
        )
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::KNOWN;

    #[test]
    fn every_row_comes_from_one_scenario_and_every_scenario_makes_known_rows() {
        let all = scenarios(&Scale::new(Size::Full, None));
        for row in ROWS {
            let makers = all
                .iter()
                .filter(|s| s.stages.iter().any(|stage| stage.row == Some(row.id)));
            assert_eq!(makers.count(), 1, "{}", row.id);
        }
        for stage in all.iter().flat_map(|s| &s.stages) {
            assert!(stage.row.is_none_or(|id| known(id).is_some()), "{stage:?}");
        }
    }

    #[test]
    fn engines_run_where_they_can() {
        let all = scenarios(&Scale::new(Size::Full, None));
        let of = |scenario: &str| -> Vec<&str> {
            let scenario = all.iter().find(|s| s.name == scenario).unwrap();
            let fitting = KNOWN.iter().filter(|known| scenario.fits(known));
            fitting.map(|known| known.name).collect()
        };
        let full = ["redb", "fjall", "sled", "rocksdb"];
        for scenario in all.iter() {
            let there = of(scenario.name);
            assert!(full.iter().all(|name| there.contains(name)), "{there:?}");
            assert!(there.contains(&"kvs") && there.contains(&"kvs:bare"));
        }
        assert!(of("reads").contains(&"kvs:reader"));
        assert!(!of("fill").contains(&"kvs:reader"));
        assert!(of("fill").contains(&"log") && !of("reads").contains(&"log"));
        assert!(of("durable-8").contains(&"log") && !of("durable-8").contains(&"map"));
        assert!(!of("durable-1").contains(&"parity-db"));
        assert!(of("large").contains(&"map") && !of("short").contains(&"map"));
        assert!(
            of("value-4k").contains(&"kvs:bare-reader") && !of("mixed").contains(&"kvs:reader")
        );
        assert!(of("fill").contains(&"lmdb:writemap") && !of("reads").contains(&"lmdb:writemap"));
    }
}
