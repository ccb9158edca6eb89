//! What it means that reading an unsealed log segment stopped: the decision table of the format's
//! recovery chapter, as a pure function small enough to try exhaustively.

/// Where reading stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The segment.
    pub id: u64,
    /// Offset behind its last record that counts.
    pub offset: u64,
    /// LSN that was expected there.
    pub next_lsn: u64,
    /// The last record is a FOOTER.
    pub footer: bool,
}

/// What the next log segment says of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    /// There is none.
    None,
    /// It has no valid LINK.
    Unreadable,
    /// Its LINK.
    Link {
        /// Id it names.
        id: u64,
        /// End offset it names.
        end: u64,
        /// End LSN it names.
        lsn: u64,
        /// Its own LSN.
        own_lsn: u64,
    },
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Damage to what was durable: refuse.
    Corrupt,
    /// Complete, not yet sealed: go on with the next segment.
    GoOn,
    /// The log ends here; whatever stands in later segments is given up.
    End,
}

/// The verdict; `durable` is the highest LSN that anything states to be on disk.
pub fn verdict(durable: u64, stopped: Stopped, successor: Successor) -> Verdict {
    let expected = Successor::Link {
        id: stopped.id,
        end: stopped.offset,
        lsn: stopped.next_lsn - 1,
        own_lsn: stopped.next_lsn,
    };
    if planted!("link_unchecked") && matches!(successor, Successor::Link { .. }) {
        return Verdict::GoOn;
    }
    // First of all: a MARK in the next segment may well cover this one before it is sealed.
    if successor == expected && stopped.footer {
        return Verdict::GoOn;
    }
    match stopped.next_lsn <= durable {
        true => Verdict::Corrupt,
        false => Verdict::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of a mark below, at and above the stop, with every kind of successor.
    #[test]
    fn every_row_of_the_table() {
        let link = |id, end, lsn, own_lsn| Successor::Link {
            id,
            end,
            lsn,
            own_lsn,
        };
        let good = link(7, 5000, 9, 10);
        let bad = [
            Successor::None,
            Successor::Unreadable,
            link(6, 5000, 9, 10),
            link(7, 5008, 9, 10),
            link(7, 5000, 8, 10),
            link(7, 5000, 9, 11),
        ];
        let mut rows = 0;
        for durable in 0..20 {
            for footer in [false, true] {
                let stopped = Stopped {
                    id: 7,
                    offset: 5000,
                    next_lsn: 10,
                    footer,
                };
                for successor in bad.into_iter().chain([good]) {
                    let expected = match (successor == good && footer, durable >= 10) {
                        (true, _) => Verdict::GoOn,
                        (false, true) => Verdict::Corrupt,
                        (false, false) => Verdict::End,
                    };
                    assert_eq!(verdict(durable, stopped, successor), expected);
                    rows += 1;
                }
            }
        }
        assert_eq!(rows, 20 * 2 * 7);
    }
}
