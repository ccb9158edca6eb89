//! What is said of when keys expire: the public words for it.

use std::time::Duration;

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expiry {
    /// Never.
    Never,
    /// At this Unix millisecond: from then on it is not there.
    At(u64),
}

/// How long a key has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ttl {
    /// It does not expire.
    Never,
    /// This long, at least a millisecond.
    Left(Duration),
}

/// What becomes of the expiry of a key that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    /// As the store was opened.
    #[default]
    Nothing,
    Is(Expiry),
    In(Duration),
    Keep,
}

/// On what setting a key depends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Condition {
    #[default]
    None,
    Absent,
    Present,
}

/// How [`crate::Store::set_with`] stores a value.
///
/// Of several words about the expiry the last one counts, and of several conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SetOptions {
    pub(crate) said: Said,
    pub(crate) condition: Condition,
}

impl SetOptions {
    /// As [`crate::Store::set`] does it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The key expires so long after it is stored; a `ttl` of less than a millisecond removes it.
    /// Later than can be told is never.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.said = Said::In(ttl);
        self
    }

    /// The key expires then, or never. A time that is over removes it.
    #[must_use]
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        self.said = Said::Is(expiry);
        self
    }

    /// The key expires at this Unix millisecond. A time that is over removes it.
    #[must_use]
    pub fn expires_at(self, ms: u64) -> Self {
        self.expiry(Expiry::At(ms))
    }

    /// The key expires when it did before; a new one as [`crate::Options::default_ttl`] says.
    #[must_use]
    pub fn keep_ttl(mut self) -> Self {
        self.said = Said::Keep;
        self
    }

    /// Only if the key has no value.
    #[must_use]
    pub fn if_absent(mut self) -> Self {
        self.condition = Condition::Absent;
        self
    }

    /// Only if the key has a value.
    #[must_use]
    pub fn if_present(mut self) -> Self {
        self.condition = Condition::Present;
        self
    }
}
