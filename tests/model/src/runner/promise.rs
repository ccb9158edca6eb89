//! What makes everything before it durable.

use kvs::testing::Engine;
use kvs::testing::sim::SimFs;

use super::Runner;

impl Runner {
    /// Something after whose success everything is durable.
    pub(super) fn promise(
        &mut self,
        act: impl FnOnce(&Engine<SimFs>) -> kvs::Result<()>,
    ) -> Result<(), String> {
        if self.effectless(act)? {
            if self.sync_failed {
                return Err("it made a promise although a sync had failed".to_owned());
            }
            self.oracle.promise(self.fs.log_len());
        }
        Ok(())
    }

    /// A compaction, which ends the log first and so makes it durable. With no room for the next segment it
    /// takes what has ended before, and promises nothing of the rest.
    pub(super) fn compacted(
        &mut self,
        act: impl FnOnce(&Engine<SimFs>) -> kvs::Result<()>,
    ) -> Result<(), String> {
        let done = self.effectless(act)?;
        self.note_calls();
        match done && !self.troubled {
            true => self.promise(|_| Ok(())),
            false => Ok(()),
        }
    }
}
