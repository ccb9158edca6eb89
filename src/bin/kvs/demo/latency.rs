//! Latencies of one step, and their row in the table.

use std::fmt;
use std::time::Duration;

use crate::exit::Failure;
use crate::output::Output;
use crate::people::size;

/// How long each call took, and the bytes of values it moved.
pub struct Latencies {
    nanos: Vec<u64>,
    bytes: u64,
}

pub fn header(out: &mut Output) -> Result<(), Failure> {
    if out.json {
        return Ok(());
    }
    row(
        out,
        "step",
        ["pairs", "values", "p50", "p99", "p99.9", "slowest"].map(String::from),
    )
}

fn row(out: &mut Output, name: &str, cells: [String; 6]) -> Result<(), Failure> {
    let [pairs, bytes, p50, p99, p999, max] = cells;
    out.line(format_args!(
        "{name:<16}{pairs:>9}{bytes:>12}{p50:>12}{p99:>12}{p999:>12}{max:>12}"
    ))?;
    out.flush()
}

impl Latencies {
    pub fn new() -> Self {
        Self {
            nanos: Vec::new(),
            bytes: 0,
        }
    }

    pub fn add(&mut self, elapsed: Duration, bytes: usize) {
        self.nanos
            .push(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        self.bytes += bytes as u64;
    }

    pub fn count(&self) -> usize {
        self.nanos.len()
    }

    /// Prints count, bytes and percentiles.
    pub fn row(mut self, name: &str, out: &mut Output) -> Result<(), Failure> {
        self.nanos.sort_unstable();
        let [p50, p99, p999, max] = [500, 990, 999, 1000].map(|part| self.percentile(part));
        if out.json {
            let json = |nanos: Option<u64>| nanos.map_or("null".to_owned(), |n| n.to_string());
            out.object(|o| {
                o.text("step", name)
                    .plain("pairs", self.nanos.len())
                    .plain("value_bytes", self.bytes)
                    .plain("p50_ns", json(p50))
                    .plain("p99_ns", json(p99))
                    .plain("p999_ns", json(p999))
                    .plain("max_ns", json(max));
            })?;
            return out.flush();
        }
        let people = |nanos: Option<u64>| nanos.map_or("-".to_owned(), |n| Nanos(n).to_string());
        row(
            out,
            name,
            [
                self.nanos.len().to_string(),
                size(self.bytes),
                people(p50),
                people(p99),
                people(p999),
                people(max),
            ],
        )
    }

    /// The shortest time that `per_mille` of the calls did not exceed.
    fn percentile(&self, per_mille: usize) -> Option<u64> {
        let rank = (self.nanos.len() * per_mille).div_ceil(1000).max(1);
        self.nanos.get(rank - 1).copied()
    }
}

/// Nanoseconds for people.
struct Nanos(u64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0 as f64 / 1e3;
        if micros < 1000.0 {
            write!(f, "{micros:.2} µs")
        } else {
            write!(f, "{:.2} ms", micros / 1e3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_calls_that_happened() {
        let mut latencies = Latencies::new();
        for micros in 1..=1000 {
            latencies.add(Duration::from_micros(micros), 1);
        }
        assert_eq!(latencies.percentile(500), Some(500_000));
        assert_eq!(latencies.percentile(990), Some(990_000));
        assert_eq!(latencies.percentile(999), Some(999_000));
        assert_eq!(latencies.percentile(1000), Some(1_000_000));
        assert_eq!(Latencies::new().percentile(500), None);
        assert_eq!(Nanos(999_000).to_string(), "999.00 µs");
        assert_eq!(Nanos(1_000_000).to_string(), "1.00 ms");
    }
}
