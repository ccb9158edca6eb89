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
        row(
            out,
            name,
            [
                self.nanos.len().to_string(),
                size(self.bytes),
                self.percentile(500),
                self.percentile(990),
                self.percentile(999),
                self.percentile(1000),
            ],
        )
    }

    /// The shortest time that `per_mille` of the calls did not exceed.
    fn percentile(&self, per_mille: usize) -> String {
        let rank = (self.nanos.len() * per_mille).div_ceil(1000).max(1);
        match self.nanos.get(rank - 1) {
            Some(&nanos) => Nanos(nanos).to_string(),
            None => "-".to_owned(),
        }
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
        assert_eq!(latencies.percentile(500), "500.00 µs");
        assert_eq!(latencies.percentile(990), "990.00 µs");
        assert_eq!(latencies.percentile(999), "999.00 µs");
        assert_eq!(latencies.percentile(1000), "1.00 ms");
        assert_eq!(Latencies::new().percentile(500), "-");
    }
}
