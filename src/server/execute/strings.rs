//! Commands about values.

use crate::engines::{Engine, EngineError, Operation};
use crate::protocol::command::{Cas, Set, SetIf, Ttl};
use crate::protocol::{CommandError, Reply, float, integer};
use crate::server::execute::answer::{Answer, absolute, needs_expiry, value};
use crate::server::view::View;

/// Longest value that `APPEND` and `SETRANGE` make: the longest that a request can carry.
const VALUE_BYTES_MAX: usize = 64 << 20;

const TOO_LONG: CommandError =
    CommandError::Other("string exceeds maximum allowed size (proto-max-bulk-len)");

pub fn get<E: Engine>(view: &mut View<'_, E>, key: &[u8]) -> Answer<E> {
    Ok(value::<E>(view.get(key)?))
}

pub fn set<E: Engine>(view: &mut View<'_, E>, set: &Set<'_>) -> Answer<E> {
    if matches!(set.ttl, Ttl::Expire(_)) {
        needs_expiry(view)?;
    }
    if set.condition.is_none() && !set.get {
        store(view, set)?;
        return Ok(Reply::OK);
    }
    let old = view.get(set.key)?;
    let holds = match set.condition {
        None => true,
        Some(SetIf::Absent) => old.is_none(),
        Some(SetIf::Present) => old.is_some(),
        Some(SetIf::Equal(wanted)) => old.as_ref().is_some_and(|old| old.bytes() == wanted),
    };
    if holds {
        store(view, set)?;
    }
    Ok(match (set.get, holds) {
        (true, _) => value::<E>(old),
        (false, true) => Reply::OK,
        (false, false) => Reply::Null,
    })
}

fn store<E: Engine>(view: &mut View<'_, E>, set: &Set<'_>) -> Result<(), EngineError> {
    let value = set.value;
    match set.ttl {
        Ttl::Default => view.set(set.key, value),
        Ttl::Keep => view.set_keeping(set.key, value),
        Ttl::Persist => view.set_ending(set.key, value, None),
        Ttl::Expire(expire) => {
            let ends = absolute(expire, view.engine.now_ms());
            view.set_ending(set.key, value, Some(ends))
        }
    }
}

pub fn set_nx<E: Engine>(view: &mut View<'_, E>, key: &[u8], value: &[u8]) -> Answer<E> {
    let absent = !view.contains(key)?;
    if absent {
        view.set(key, value)?;
    }
    Ok(Reply::flag(absent))
}

pub fn get_del<E: Engine>(view: &mut View<'_, E>, key: &[u8]) -> Answer<E> {
    let old = view.get(key)?;
    if old.is_some() {
        view.remove(key)?;
    }
    Ok(value::<E>(old))
}

pub fn get_ex<E: Engine>(view: &mut View<'_, E>, key: &[u8], ttl: Ttl) -> Answer<E> {
    if ttl == Ttl::Default {
        return get(view, key);
    }
    needs_expiry(view)?;
    let Some((found, old)) = view.get_ending(key)? else {
        return Ok(Reply::Null);
    };
    let ends = match ttl {
        Ttl::Default | Ttl::Keep => old,
        Ttl::Persist => None,
        Ttl::Expire(expire) => Some(absolute(expire, view.engine.now_ms())),
    };
    if ends != old {
        view.set_ending(key, found.bytes(), ends)?;
    }
    Ok(value::<E>(Some(found)))
}

pub fn mget<E: Engine>(view: &mut View<'_, E>, keys: &[&[u8]]) -> Answer<E> {
    let mut values = Vec::with_capacity(keys.len());
    for key in keys {
        values.push(value::<E>(view.get(key)?));
    }
    Ok(Reply::Array(values))
}

/// Refuses what has to be all or nothing where the engine has no batches.
fn all_or_nothing<E: Engine>(view: &View<'_, E>) -> Result<(), EngineError> {
    match view.engine.supports(Operation::Batch) {
        true => Ok(()),
        false => Err(EngineError::Unsupported {
            operation: Operation::Batch,
        }),
    }
}

/// All keys are looked at before the first is changed: a key that cannot be is no half of it.
fn set_pairs<E: Engine>(view: &mut View<'_, E>, pairs: &[&[u8]]) -> Result<(), EngineError> {
    all_or_nothing(view)?;
    let max = view.engine.key_bytes_max();
    if let Some(key) = pairs.iter().step_by(2).find(|key| key.len() > max) {
        let len = key.len();
        return Err(crate::Error::KeyTooLong { len, max }.into());
    }
    for pair in pairs.chunks_exact(2) {
        view.set(pair[0], pair[1])?;
    }
    Ok(())
}

pub fn mset<E: Engine>(view: &mut View<'_, E>, pairs: &[&[u8]]) -> Answer<E> {
    set_pairs(view, pairs)?;
    Ok(Reply::OK)
}

pub fn mset_nx<E: Engine>(view: &mut View<'_, E>, pairs: &[&[u8]]) -> Answer<E> {
    for pair in pairs.chunks_exact(2) {
        if view.contains(pair[0])? {
            return Ok(Reply::flag(false));
        }
    }
    set_pairs(view, pairs)?;
    Ok(Reply::flag(true))
}

/// The bytes of the value, none if there is none, and when it ends if there is one.
fn old_bytes<E: Engine>(
    view: &mut View<'_, E>,
    key: &[u8],
) -> Result<(Vec<u8>, Option<Option<u64>>), EngineError> {
    Ok(match view.get_ending(key)? {
        Some((old, ends)) => (old.into_vec(), Some(ends)),
        None => (Vec::new(), None),
    })
}

pub fn append<E: Engine>(view: &mut View<'_, E>, key: &[u8], more: &[u8]) -> Answer<E> {
    let (mut bytes, seen) = old_bytes(view, key)?;
    if bytes.len() + more.len() > VALUE_BYTES_MAX {
        return Err(TOO_LONG.into());
    }
    bytes.extend_from_slice(more);
    let len = bytes.len();
    view.set_in_place(key, bytes, seen)?;
    Ok(Reply::count(len as u64))
}

pub fn strlen<E: Engine>(view: &mut View<'_, E>, key: &[u8]) -> Answer<E> {
    let len = view.get(key)?.map_or(0, |found| found.bytes().len());
    Ok(Reply::count(len as u64))
}

pub fn get_range<E: Engine>(view: &mut View<'_, E>, key: &[u8], start: i64, end: i64) -> Answer<E> {
    let Some(found) = view.get(key)? else {
        return Ok(Reply::bulk(Vec::new()));
    };
    let bytes = found.bytes();
    let len = bytes.len() as i64;
    if start < 0 && end < 0 && start > end {
        return Ok(Reply::bulk(Vec::new()));
    }
    // Negative: from the end, and at most from the first byte, for the end too: so it is in Redis 7.
    let place = |at: i64| match at < 0 {
        true => len.saturating_add(at).max(0),
        false => at,
    };
    let (start, end) = (place(start), place(end).min(len - 1));
    Ok(match start <= end {
        true => Reply::bulk(&bytes[start as usize..=end as usize]),
        false => Reply::bulk(Vec::new()),
    })
}

pub fn set_range<E: Engine>(
    view: &mut View<'_, E>,
    key: &[u8],
    offset: i64,
    new: &[u8],
) -> Answer<E> {
    if new.is_empty() {
        return strlen(view, key);
    }
    let end = usize::try_from(offset)
        .ok()
        .and_then(|at| at.checked_add(new.len()));
    let end = end.filter(|end| *end <= VALUE_BYTES_MAX).ok_or(TOO_LONG)?;
    let (mut bytes, seen) = old_bytes(view, key)?;
    bytes.resize(bytes.len().max(end), 0);
    bytes[end - new.len()..end].copy_from_slice(new);
    let len = bytes.len();
    view.set_in_place(key, bytes, seen)?;
    Ok(Reply::count(len as u64))
}

pub fn increment<E: Engine>(view: &mut View<'_, E>, key: &[u8], by: i64) -> Answer<E> {
    let (old, seen) = match view.get_ending(key)? {
        None => (0, None),
        Some((found, ends)) => {
            let old = integer(found.bytes()).ok_or(CommandError::NotAnInteger)?;
            (old, Some(ends))
        }
    };
    let overflow = CommandError::Other("increment or decrement would overflow");
    let new = old.checked_add(by).ok_or(overflow)?;
    view.set_in_place(key, new.to_string().into_bytes(), seen)?;
    Ok(Reply::Integer(new))
}

pub fn increment_float<E: Engine>(view: &mut View<'_, E>, key: &[u8], by: &[u8]) -> Answer<E> {
    let found = view.get_ending(key)?;
    let seen = found.as_ref().map(|(_, ends)| *ends);
    let old = found.as_ref().map_or(&b"0"[..], |(found, _)| found.bytes());
    let sum = match (decimal(old), decimal(by)) {
        (Some(old), Some(by)) => add(old, by),
        _ => None,
    };
    let sum = match sum {
        Some(sum) => sum,
        None => {
            let (old, by) = (float(old), float(by));
            let (Some(old), Some(by)) = (old, by) else {
                return Err(CommandError::NotAFloat.into());
            };
            let sum = old + by;
            if !sum.is_finite() {
                return Err(CommandError::Other("increment would produce NaN or Infinity").into());
            }
            sum.to_string()
        }
    };
    view.set_in_place(key, sum.clone().into_bytes(), seen)?;
    Ok(Reply::bulk(sum))
}

/// Most digits behind the point that are added exactly, as many as Redis prints.
const FRACTION_MAX: usize = 17;

/// Digits without the point, and how many of them stood behind it; `None` for what is not a plain
/// decimal number of a size that adds exactly.
fn decimal(text: &[u8]) -> Option<(i128, usize)> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty()
        || !all_digits(whole)
        || !all_digits(fraction)
        || whole.len() > 19
        || fraction.len() > FRACTION_MAX
    {
        return None;
    }
    let number: i128 = format!("{whole}{fraction}").parse().ok()?;
    let number = if text.starts_with('-') {
        -number
    } else {
        number
    };
    Some((number, fraction.len()))
}

fn add((a, a_places): (i128, usize), (b, b_places): (i128, usize)) -> Option<String> {
    let places = a_places.max(b_places);
    let scaled = |number: i128, own: usize| number.checked_mul(10_i128.pow((places - own) as u32));
    let sum = scaled(a, a_places)?.checked_add(scaled(b, b_places)?)?;
    let unit = 10_i128.pow(places as u32);
    let (whole, fraction) = ((sum / unit).abs(), (sum % unit).abs());
    let sign = if sum < 0 { "-" } else { "" };
    let fraction = format!("{fraction:0places$}");
    Some(match fraction.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    })
}

pub fn cas<E: Engine>(view: &mut View<'_, E>, cas: &Cas<'_>) -> Answer<E> {
    let old = view.get(cas.key)?;
    let equal = old.as_ref().map(|old| old.bytes()) == cas.expected;
    if equal {
        match cas.new {
            Some(new) => view.set(cas.key, new)?,
            None => drop(view.remove(cas.key)?),
        }
    }
    Ok(Reply::flag(equal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_add_exactly() {
        let sum = |a: &str, b: &str| add(decimal(a.as_bytes())?, decimal(b.as_bytes())?);
        for (a, b, wanted) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5", "-5", "0"),
            ("0", "-0.5", "-0.5"),
            ("-0.25", "0.5", "0.25"),
            (".5", "1.", "1.5"),
            (
                "999999999999999999",
                "0.00000000000000001",
                "999999999999999999.00000000000000001",
            ),
        ] {
            assert_eq!(sum(a, b).as_deref(), Some(wanted), "{a} + {b}");
        }
        for bad in [
            "",
            ".",
            "-",
            "1e3",
            "1 ",
            "--1",
            "1.2.3",
            "12345678901234567890",
        ] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad}");
        }
    }
}
