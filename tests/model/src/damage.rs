//! Damage to the files of a store, and what it may say afterwards.

use std::sync::Arc;

use kvs::Error;
use kvs::Options;
use kvs::testing::sim::{Image, SimFs};
use kvs::testing::{Engine, open};

use crate::check::pairs;
use crate::op::{Harm, KEYS, Wound, key};
use crate::oracle::Oracle;

/// What became of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The store was not opened, with an error that names the file; no byte was changed.
    Refused,
    /// It was opened; of what is damaged it says which file and where.
    Located,
    /// Everything is there.
    Exact,
    /// Everything is as it was some commits ago.
    Shorter,
}

/// What may be found in a damaged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// The state after at least so many of the commits; what of it is damaged is said to be.
    State(usize),
    /// Any value that was once written under its key.
    Written,
}

/// What each key says.
pub type Answers = Vec<(Vec<u8>, Result<Option<Vec<u8>>, ()>)>;

/// True if the error says which file is damaged.
pub fn is_located(error: &Error) -> bool {
    match error {
        Error::Corrupt { path, .. } | Error::Missing { path } => path.file_name().is_some(),
        _ => false,
    }
}

/// Asks for every key in every way; damage is said to be in a file.
///
/// # Errors
/// An error without a place, or two ways that differ.
pub fn ask(engine: &Arc<Engine<SimFs>>) -> Result<Answers, String> {
    let mut answers = Answers::new();
    let mut copy = Vec::new();
    for id in 0..KEYS {
        let key = key(id);
        let got = engine.get(&key).map(|value| value.map(|v| v.to_vec()));
        let read = engine.get_into(&key, &mut copy);
        let read = read.map(|there| there.then(|| copy.clone()));
        for error in [got.as_ref().err(), read.as_ref().err()]
            .into_iter()
            .flatten()
        {
            if !is_located(error) {
                return Err(format!("key {id}: {error:?}"));
            }
        }
        // Whoever can be read says when it expires, and nobody else.
        match engine.expires_at(&key) {
            Err(error) if !is_located(&error) => return Err(format!("key {id}: {error:?}")),
            expiry => {
                let there = expiry.as_ref().ok().map(Option::is_some);
                if there != got.as_ref().ok().map(Option::is_some) {
                    return Err(format!("key {id}: get says {got:?}, expires_at {expiry:?}"));
                }
            }
        }
        if got.as_ref().ok() != read.as_ref().ok() {
            return Err(format!("key {id}: get says {got:?}, get_into {read:?}"));
        }
        answers.push((key, got.map_err(|_| ())));
    }
    Ok(answers)
}

/// Opens what is in `fs`, whose record of calls is empty, and asks for everything.
///
/// # Errors
/// What it must not say: an error without a place, a wrong value, one that is silently missing; or that
/// it wrote although it was refused or opened for reading only.
pub fn judge(
    fs: &SimFs,
    options: &Options,
    oracle: &Oracle,
    may: May,
    read_only: bool,
) -> Result<Verdict, String> {
    let before = fs.log_len();
    let engine = match open(fs.clone(), &options.clone().read_only(read_only), 1 << 50) {
        Ok(engine) => engine,
        Err(error) if !is_located(&error) => return Err(format!("open: {error:?}")),
        Err(_) if fs.log_len() > before => {
            return Err(format!("it refused, but wrote {:?}", fs.log_lines()));
        }
        Err(_) => return Ok(Verdict::Refused),
    };
    let answers = ask(&engine)?;
    let told = engine.recovery();
    let verified = engine.verify().map_err(|e| format!("verify: {e:?}"))?;
    let damage = told.damage.iter().chain(&verified.damage);
    let located = damage.clone().all(|d| d.file.file_name().is_some());
    let found = damage.count() > 0;
    if !located {
        return Err("damage without a place".to_owned());
    }
    if read_only && fs.log_len() > before {
        return Err(format!("read-only, it wrote {:?}", fs.log_lines()));
    }
    if told.incomplete && (!read_only || !found) {
        return Err("it opened an incomplete store".to_owned());
    }
    // What an incomplete store shows may be old, and it says so; it must not be made up.
    if told.incomplete || may == May::Written {
        for (key, answer) in &answers {
            if let Ok(Some(value)) = answer
                && !oracle.was_written(key, value)
            {
                return Err(format!("a value that was never written to {key:?}"));
            }
        }
        return Ok(Verdict::Located);
    }
    let May::State(least) = may else {
        return Ok(Verdict::Located);
    };
    // Where all can be read, the iterator says the same, and when they expire: of two states that differ
    // in nothing else, it is the one that is there.
    let all_read = answers.iter().all(|(_, answer)| answer.is_ok());
    let walked = all_read.then(|| pairs(&engine)).transpose()?;
    let fits = oracle.newest_state(least, |state| {
        walked.as_ref().is_none_or(|walked| state.shows(walked))
            && answers.iter().all(|(key, answer)| match answer {
                Ok(value) => value.as_deref() == state.get(key),
                Err(()) => found,
            })
    });
    let Some(n) = fits else {
        let shown = pairs(&engine);
        return Err(format!(
            "wrong or missing values: {shown:?}, damage {found}"
        ));
    };
    if !all_read {
        return Ok(Verdict::Located);
    }
    Ok(match (found, n >= oracle.commits()) {
        (true, _) => Verdict::Located,
        (false, true) => Verdict::Exact,
        (false, false) => Verdict::Shorter,
    })
}

/// Where the bytes that matter end: zeros behind them are preallocated space.
fn used(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// Does to a file of `image` what `wound` says; its name, unless it is as it was.
pub fn inflict(image: &mut Image, wound: &Wound) -> Option<String> {
    let names = image.names();
    let which = usize::from(wound.file).checked_rem(names.len())?;
    let name = &names[which];
    let old = image.read(name).unwrap_or_default();
    let used = used(&old);
    // From the end as well as from the beginning.
    let at = match wound.at {
        at @ 0x8000.. => used.saturating_sub(usize::from(at & 0x7FFF)),
        at => usize::from(at).min(used),
    };
    let mut new = old.clone();
    match wound.harm {
        Harm::Flip { bit } => {
            if let Some(byte) = new.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Harm::Zero { len } => {
            let zeroed = new.iter_mut().skip(at).take(usize::from(len));
            zeroed.for_each(|byte| *byte = 0);
        }
        Harm::Cut => new.truncate(at),
        Harm::Delete => return image.remove(name).map(|_| name.clone()),
    }
    let changed = (new != old).then(|| name.clone());
    image.edit(name, |bytes| *bytes = new);
    changed
}
