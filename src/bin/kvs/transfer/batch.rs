//! `batch`: operations as lines of JSON, applied all at once or in pieces that are each all or nothing.
//!
//! One thread reads and gathers, the import's writer applies: so the store is open only while there is
//! something to write, and a signal ends it between two batches.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use kvs::{Batch, Expiry};
use kvs_format::record::{Kind, size_of_record};
use kvs_format::segment::PAGE_BYTES;
use kvs_format::system::{BATCH_HEAD_RECORD_BYTES, CLOSING_BYTES};
use kvs_format::{KEY_BYTES_MAX, SEGMENT_BYTES_MAX, VALUE_BYTES_MAX};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::args::duration;
use crate::exit::{Answer, Failure};
use crate::open::Place;
use crate::output::Output;
use crate::people::{number, size};
use crate::transfer::import::{Counted, Gone, Message, Stream, now_ms, pump};
use crate::transfer::lines::Lines;
use crate::transfer::ndjson::{Bytes, Text, bytes, object};
use crate::transfer::progress;

/// Most bytes of records that one batch may have: it fits one segment.
const BATCH_BYTES_MAX: u64 =
    SEGMENT_BYTES_MAX - PAGE_BYTES - BATCH_HEAD_RECORD_BYTES - CLOSING_BYTES;

/// What to apply, and in how large pieces.
pub struct Pieces {
    /// Standard input without.
    pub from: Option<PathBuf>,
    /// Operations of a batch; all without.
    pub every: Option<u64>,
    pub quiet: bool,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with `set` and `value`, or with `remove`"
)]
struct Line<'a> {
    #[serde(borrow)]
    set: Option<Text<'a>>,
    #[serde(borrow)]
    set_b64: Option<Text<'a>>,
    #[serde(borrow)]
    remove: Option<Text<'a>>,
    #[serde(borrow)]
    remove_b64: Option<Text<'a>>,
    #[serde(borrow)]
    value: Option<Text<'a>>,
    #[serde(borrow)]
    value_b64: Option<Text<'a>>,
    ttl: Option<Ttl>,
    expires_at: Option<u64>,
}

/// What `set --ttl` takes, as a string, or a number of seconds.
struct Ttl(Duration);

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Ttl;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of seconds, or a string like `90s`, `15m` or `2h`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ttl, E> {
                duration(text).map(Ttl).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Ttl, E> {
                Ok(Ttl(Duration::from_secs(seconds)))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Ttl, E> {
                let ttl = Duration::try_from_secs_f64(seconds);
                ttl.map(Ttl).map_err(|_| {
                    E::custom(match seconds < 0.0 {
                        true => "a negative number of seconds",
                        false => "a number of seconds that is too large",
                    })
                })
            }
        }
        from.deserialize_any(Either)
    }
}

/// When a value expires that says so.
#[derive(Debug, PartialEq)]
enum Ends {
    In(Duration),
    /// Milliseconds since 1970.
    At(u64),
}

/// A set with when it expires, or a remove without a value.
type Operation<'a> = (Bytes<'a>, Option<Bytes<'a>>, Option<Ends>);

/// The operation of a line; `None` for a blank one.
///
/// # Errors
/// What is wrong with it, for a person.
fn parse(line: &[u8]) -> Result<Option<Operation<'_>>, String> {
    let Some(line) = object::<Line<'_>>(line)? else {
        return Ok(None);
    };
    let sets = line.set.is_some() || line.set_b64.is_some();
    let removes = line.remove.is_some() || line.remove_b64.is_some();
    let has_value = line.value.is_some() || line.value_b64.is_some();
    let ends = match (line.ttl, line.expires_at) {
        (Some(_), Some(_)) => return Err("both `ttl` and `expires_at`".to_owned()),
        (Some(Ttl(ttl)), None) => Some(Ends::In(ttl)),
        (None, Some(ms)) => Some(Ends::At(ms)),
        (None, None) => None,
    };
    let (key, value) = match (sets, removes) {
        (true, true) => return Err("both a set and a remove".to_owned()),
        (false, false) => return Err("neither `set` nor `remove`".to_owned()),
        (true, false) => (
            bytes("set", line.set, line.set_b64)?,
            Some(bytes("value", line.value, line.value_b64)?),
        ),
        (false, true) if has_value => return Err("a remove has no value".to_owned()),
        (false, true) if ends.is_some() => return Err("a remove does not expire".to_owned()),
        (false, true) => (bytes("remove", line.remove, line.remove_b64)?, None),
    };
    let value_len = value.as_ref().map_or(0, |value| value.len());
    for (what, len, max) in [
        ("key", key.len(), KEY_BYTES_MAX),
        ("value", value_len, VALUE_BYTES_MAX),
    ] {
        if len > max {
            return Err(format!("{what} of {len} bytes, at most {max} are allowed"));
        }
    }
    Ok(Some((key, value, ends)))
}

/// What was sent to the writer.
#[derive(Debug, Default)]
struct Sent {
    sets: AtomicU64,
    removes: AtomicU64,
    batches: AtomicU64,
}

pub fn batch(place: &Place, pieces: Pieces, out: &mut Output) -> Result<Answer, Failure> {
    let begin = Instant::now();
    let seen = progress::is_seen() && !pieces.quiet;
    let standard = pieces.from.as_deref().is_none_or(|p| p == Path::new("-"));
    let name = match pieces.from {
        Some(name) if !standard => name,
        _ => "standard input".into(),
    };
    let (file, total) = match standard {
        true => (None, None),
        false => {
            let file = File::open(&name).map_err(Failure::file("read", &name))?;
            let metadata = file.metadata().map_err(Failure::file("read", &name))?;
            if metadata.is_dir() {
                let error = io::Error::from(io::ErrorKind::IsADirectory);
                return Err(Failure::file("read", &name)(error));
            }
            let total = metadata.is_file().then_some(metadata.len());
            (Some(file), total)
        }
    };
    let sent = Arc::<Sent>::default();
    let (tally, ended) = {
        let sent = Arc::clone(&sent);
        pump(place, seen, false, total, move |to, read| {
            let from = match file {
                Some(file) => Stream::File(file),
                None => Stream::Stdin(io::stdin().lock()),
            };
            let lines = Lines::new(Counted { from, read });
            let _ = Gather::new(&name, pieces.every, &sent, to).all(lines);
        })
    };
    ended.map_err(|failure| match failure {
        Failure::Interrupted { signal, .. } => Failure::Interrupted {
            signal,
            done: format!("{} operations are applied", tally.pairs),
        },
        failure => failure,
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    if out.json {
        out.object(|o| {
            o.plain("operations", tally.pairs)
                .plain("sets", count(&sent.sets))
                .plain("removes", count(&sent.removes))
                .plain("batches", count(&sent.batches))
                .plain("bytes", tally.bytes)
                .plain("seconds", seconds);
        })?;
    } else if seen {
        progress::say(&format!(
            "applied {} operations in {} batches, {} in {seconds:.1} s",
            number(tally.pairs),
            number(count(&sent.batches)),
            size(tally.bytes)
        ));
    }
    Ok(Answer::Yes)
}

/// Gathers operations and sends them batch by batch.
struct Gather<'a> {
    name: &'a Path,
    every: Option<u64>,
    sent: &'a Sent,
    to: SyncSender<Message>,
    batch: Batch,
    /// Of keys and values.
    bytes: u64,
    /// Of records.
    record_bytes: u64,
}

impl<'a> Gather<'a> {
    fn new(name: &'a Path, every: Option<u64>, sent: &'a Sent, to: SyncSender<Message>) -> Self {
        Self {
            name,
            every,
            sent,
            to,
            batch: Batch::new(),
            bytes: 0,
            record_bytes: 0,
        }
    }

    fn all(&mut self, mut lines: Lines<impl io::Read>) -> Result<(), Gone> {
        loop {
            let (number, line) = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => return self.send(),
                Err(error) => return self.fail(Failure::file("read", self.name)(error)),
            };
            match parse(line) {
                Ok(None) => {}
                Ok(Some((key, value, ends))) => {
                    self.add(number, &key, value.as_deref(), ends)?;
                }
                Err(reason) => {
                    let failure = Failure::Operation {
                        place: format!("{}:{number}", self.name.display()),
                        reason,
                        applied: 0,
                    };
                    return self.fail(failure);
                }
            }
        }
    }

    fn add(
        &mut self,
        number: u64,
        key: &[u8],
        value: Option<&[u8]>,
        ends: Option<Ends>,
    ) -> Result<(), Gone> {
        let (kind, len) = match (value, &ends) {
            (Some(value), None) => (Kind::Set, value.len()),
            (Some(value), Some(_)) => (Kind::SetExpiring, value.len()),
            (None, _) => (Kind::Tombstone, 0),
        };
        self.record_bytes += size_of_record(kind, key.len(), len);
        if self.record_bytes > BATCH_BYTES_MAX {
            let text = format!(
                "{}:{number}: with this one the batch has {} bytes, at most {BATCH_BYTES_MAX} fit a \
                 segment; none of it was applied: choose smaller ones with --every",
                self.name.display(),
                self.record_bytes
            );
            return self.fail(Failure::Usage(text));
        }
        match value {
            Some(value) => {
                let at = ends.map(|ends| match ends {
                    Ends::In(ttl) => {
                        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                        now_ms().saturating_add(ttl)
                    }
                    Ends::At(ms) => ms,
                });
                match at {
                    Some(ms) => self.batch.set_with_expiry(key, value, Expiry::At(ms)),
                    None => self.batch.set(key, value),
                };
                self.sent.sets.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                self.batch.remove(key);
                self.sent.removes.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.bytes += (key.len() + len) as u64;
        match self.every == Some(self.batch.len() as u64) {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn send(&mut self) -> Result<(), Gone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.record_bytes = 0;
        self.sent.batches.fetch_add(1, Ordering::Relaxed);
        let batch = std::mem::take(&mut self.batch);
        let bytes = std::mem::take(&mut self.bytes);
        let sent = self.to.send(Message::Batch { batch, bytes });
        sent.map_err(|_| Gone)
    }

    fn fail(&self, failure: Failure) -> Result<(), Gone> {
        let _ = self.to.send(Message::Failed(failure));
        Err(Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Vec<u8>, Option<Vec<u8>>), String> {
        let (key, value, ends) = parse(line.as_bytes())?.expect("not blank");
        assert_eq!(ends, None);
        Ok((key.into_owned(), value.map(|value| value.into_owned())))
    }

    #[test]
    fn a_set_may_say_when_it_expires() {
        for (member, wanted) in [
            (r#""ttl":"15m""#, Ends::In(Duration::from_secs(900))),
            (r#""ttl":"0.25""#, Ends::In(Duration::from_millis(250))),
            (r#""ttl":2"#, Ends::In(Duration::from_secs(2))),
            (r#""ttl":1.5"#, Ends::In(Duration::from_millis(1500))),
            (r#""ttl":0"#, Ends::In(Duration::ZERO)),
            (
                r#""ttl":18446744073709551615"#,
                Ends::In(Duration::from_secs(u64::MAX)),
            ),
            (r#""expires_at":123"#, Ends::At(123)),
        ] {
            let line = format!(r#"{{"set":"k",{member},"value":"v"}}"#);
            let (_, _, ends) = parse(line.as_bytes()).unwrap().unwrap();
            assert_eq!(ends, Some(wanted), "{line}");
        }
        let line = r#"{"set":"k","value":"v","ttl":null,"expires_at":null}"#;
        assert_eq!(parse(line.as_bytes()).unwrap().unwrap().2, None);
    }

    #[test]
    fn operations_are_sets_and_removes_of_any_bytes() {
        assert_eq!(
            parsed(r#"{"set":"k","value":"v\n"}"#),
            Ok((b"k".to_vec(), Some(b"v\n".to_vec())))
        );
        assert_eq!(
            parsed(r#" {"value_b64":"/wA=","set_b64":""}"#),
            Ok((vec![], Some(vec![255, 0])))
        );
        assert_eq!(parsed(r#"{"remove":"k"}"#), Ok((b"k".to_vec(), None)));
        assert_eq!(parsed(r#"{"remove_b64":"/w=="}"#), Ok((vec![255], None)));
        assert_eq!(parse(b" \t"), Ok(None));
    }

    #[test]
    fn a_batch_that_no_segment_could_hold_is_refused_where_it_grows_beyond_that() {
        let sent = Sent::default();
        let (to, from) = std::sync::mpsc::sync_channel(4);
        let mut gather = Gather::new(Path::new("f"), Some(2), &sent, to);
        assert!(gather.add(1, b"a", Some(b"1"), None).is_ok());
        gather.record_bytes = BATCH_BYTES_MAX - 32;
        // 24 bytes and one, aligned: it fits to the byte.
        assert!(gather.add(2, b"b", None, None).is_ok());
        assert!(matches!(from.recv(), Ok(Message::Batch { batch, bytes: 3 }) if batch.len() == 2));
        // What expires is 8 bytes longer.
        gather.record_bytes = BATCH_BYTES_MAX - 32;
        let at = Some(Ends::At(u64::MAX));
        assert!(gather.add(3, b"c", Some(b""), at).is_err());
        assert!(matches!(
            from.recv(),
            Ok(Message::Failed(Failure::Usage(_)))
        ));
        gather.record_bytes = BATCH_BYTES_MAX - 31;
        assert!(gather.add(3, b"c", None, None).is_err());
        let Ok(Message::Failed(Failure::Usage(text))) = from.recv() else {
            panic!("it is refused");
        };
        assert!(
            text.starts_with("f:3: ") && text.contains("--every"),
            "{text}"
        );
        assert!(from.try_recv().is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let long = "x".repeat(65_536);
        for (line, reason) in [
            ("{}", "neither `set` nor `remove`"),
            (r#"{"set":"k"}"#, "neither `value` nor `value_b64`"),
            (r#"{"set":"k","remove":"k"}"#, "both a set and a remove"),
            (r#"{"remove":"k","value":"v"}"#, "a remove has no value"),
            (r#"{"remove":"k","ttl":1}"#, "a remove does not expire"),
            (
                r#"{"remove":"k","expires_at":1}"#,
                "a remove does not expire",
            ),
            (
                r#"{"set":"k","value":"v","ttl":1,"expires_at":1}"#,
                "both `ttl` and `expires_at`",
            ),
            (
                r#"{"set":"k","value":"v","ttl":"1w"}"#,
                "not a number of seconds, or a number and `ms`, `s`, `m`, `h` or `d`",
            ),
            (
                r#"{"set":"k","value":"v","ttl":-1}"#,
                "integer `-1`, expected a number of seconds",
            ),
            (r#"{"set":"k","value":"v","ttl":-1.5}"#, "negative"),
            (r#"{"set":"k","value":"v","ttl":1e300}"#, "too large"),
            (
                r#"{"set":"k","value":"v","ttl":true}"#,
                "or a string like `90s`",
            ),
            (
                r#"{"set":"k","value":"v","expires_at":"1"}"#,
                "expected u64",
            ),
            (
                r#"{"remove":"k","remove_b64":""}"#,
                "both `remove` and `remove_b64`",
            ),
            (
                r#"{"set":"k","set_b64":"aw==","value":""}"#,
                "both `set` and `set_b64`",
            ),
            (r#"{"set_b64":"a","value":""}"#, "`set_b64` is not base64: "),
            (r#"{"key":"k","value":"v"}"#, "unknown field `key`"),
            (r#"{"set":1,"value":"v"}"#, "column 8: invalid type"),
            ("[]", "an object is expected"),
            ("1", "an object with `set` and `value`, or with `remove`"),
            ("{", "column 1: EOF"),
            (
                &format!(r#"{{"remove":"{long}"}}"#),
                "key of 65536 bytes, at most 65535 are allowed",
            ),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
