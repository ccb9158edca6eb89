//! What ends a life of the store and begins the next: closing, power cuts, opening.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvs::Options;
use kvs::testing::sim::{Crash, Image, SimFs, Survive};
use kvs::testing::{Engine, open, open_by_clock};

use super::Runner;
use crate::check::{Pairs, images_agree, pairs, strays};
use crate::op::Wound;

impl Runner {
    pub(super) fn reopen(&mut self, wounds: &[Wound]) -> Result<(), String> {
        let closed = self.effectless(|engine| engine.close())?;
        if closed && self.sync_failed {
            return Err("it closed cleanly although a sync had failed".to_owned());
        }
        self.engine = None;
        for taken in self.taken.iter_mut().flatten() {
            taken.troubled |= self.troubled;
        }
        if closed {
            self.oracle.promise(self.fs.log_len());
            let image = self.fs.snapshot();
            images_agree(&image, &self.options(), self.oracle.current())?;
            self.damaged(&image, wounds, true)?;
        }
        self.open()?;
        self.recovered()
    }

    /// After opening the same disk again.
    pub(super) fn recovered(&mut self) -> Result<(), String> {
        let found = pairs(self.engine())?;
        let at = self.fs.log_len();
        self.oracle.reopened(&found, at)?;
        if let Some(walk) = &mut self.walk {
            walk.reopened(&found);
        }
        self.tidy()
    }

    /// Opens; if a call failed, once more without.
    pub(super) fn open(&mut self) -> Result<(), String> {
        let options = self.options.clone();
        let engine = match self.open_once(&options) {
            Ok(engine) => engine,
            Err(error) => {
                self.excused(&error)?;
                self.fs.clear_faults();
                self.open_once(&options)
                    .map_err(|e| format!("opening after {error}: {e}"))?
            }
        };
        self.engine = Some(engine);
        self.looked = self.fs.log_len();
        self.sync_failed = false;
        self.troubled = false;
        Ok(())
    }

    fn open_once(&mut self, options: &Options) -> kvs::Result<Arc<Engine<SimFs>>> {
        self.tally.opens += 1;
        // Salts of two lives must differ, those of two runs must not.
        let seed = self.setup.seed.wrapping_mul(1 << 40) + (self.tally.opens << 16);
        let clock = Arc::clone(&self.clock);
        let now = move || Duration::from_millis(clock.load(Ordering::Relaxed));
        open_by_clock(self.fs.clone(), options, seed, now)
    }

    /// Goes on with what a cut behind the first `cut` recorded operations left.
    pub(super) fn crash(&mut self, cut: usize, image: &Image) -> Result<(), String> {
        self.tally.cuts += 1;
        self.engine = None;
        self.taken = Default::default();
        // The cut may have been before the store was created: then its hashes are others.
        self.walk = None;
        self.fs = SimFs::from_image(image);
        self.begin_process();
        let options = self.options.clone();
        let engine = self.open_once(&options);
        let engine = engine.map_err(|error| format!("opening the image: {error}"))?;
        let found = pairs(&engine)?;
        self.engine = Some(engine);
        let n = self.oracle.survived(cut, &found)?;
        debug_assert!(n <= self.oracle.commits() + 1);
        self.oracle.restarted(n, &found);
        self.looked = 0;
        self.sync_failed = false;
        self.troubled = false;
        // O6 and O8: what is there now, opened again in any way, is the same.
        images_agree(&self.fs.snapshot(), &options, &found)?;
        images_agree(image, &options, &found)?;
        self.tidy()
    }

    /// O11, unless a failure may have kept it from tidying up.
    fn tidy(&self) -> Result<(), String> {
        let strays = strays(&self.fs)?;
        match strays.is_empty() {
            true => Ok(()),
            false => Err(format!("left over: {strays:?}")),
        }
    }

    /// A power cut anywhere in that part of the disk's record leaves a state that may have survived it.
    ///
    /// # Errors
    /// What it leaves instead.
    pub fn survives(
        &self,
        cuts: RangeInclusive<usize>,
        survivals: &[Survive],
    ) -> Result<(), String> {
        let mut replay = self.fs.replay();
        replay.advance_to(*cuts.start());
        let mut seen: HashMap<u64, Pairs> = HashMap::new();
        loop {
            for survive in survivals {
                let crash = Crash {
                    cut: replay.cut(),
                    survive: *survive,
                };
                let image = replay.image(*survive);
                self.judge(crash, &image, &mut seen).map_err(|what| {
                    format!("{crash}: {what}\n{}", self.fs.log_lines().join("\n"))
                })?;
            }
            if replay.cut() >= *cuts.end() || !replay.advance() {
                return Ok(());
            }
        }
    }

    fn judge(
        &self,
        crash: Crash,
        image: &Image,
        seen: &mut HashMap<u64, Pairs>,
    ) -> Result<(), String> {
        let found = match seen.entry(image.digest()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let engine = open(SimFs::from_image(image), &self.options(), u64::MAX / 2)
                    .map_err(|error| format!("it does not open: {error}"))?;
                new.insert(pairs(&engine)?)
            }
        };
        self.oracle.survived(crash.cut, found).map(|_| ())
    }
}
