//! What the runner does to copies of the files.

use kvs::testing::sim::{Image, SimFs};

use super::Runner;
use crate::damage::{May, inflict, judge};
use crate::op::{Harm, Wound};

impl Runner {
    /// A damaged copy of the store's files shows what it may.
    ///
    /// One wound of a store that was closed costs nothing silently. One of a store that was not may look
    /// like a write that was torn: how much of it was marked as durable is asked in `tests/damage.rs`.
    /// A manifest without its end looks like an earlier one, in which a load was not yet listed. Several
    /// wounds may together look like an older store.
    pub(super) fn damaged(
        &mut self,
        image: &Image,
        wounds: &[Wound],
        closed: bool,
    ) -> Result<(), String> {
        let mut bad = image.clone();
        let mut inflicted = Vec::new();
        for wound in wounds {
            let name = inflict(&mut bad, wound);
            inflicted.extend(name.map(|name| (name, wound.harm)));
        }
        let may = match (&inflicted[..], closed) {
            ([] | [_], true) => May::State(self.oracle.commits()),
            ([(name, harm)], false) if name == "MANIFEST" && !matches!(harm, Harm::Flip { .. }) => {
                May::Written
            }
            ([] | [_], false) => May::State(0),
            _ => May::Written,
        };
        self.tally.damaged += 1;
        for read_only in [true, false] {
            let fs = SimFs::from_image(&bad);
            judge(&fs, &self.options(), &self.oracle, may, read_only)
                .map_err(|what| format!("damaged, read-only {read_only}: {what}"))?;
        }
        Ok(())
    }
}
