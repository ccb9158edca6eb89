//! Cutting the power everywhere in what was done to a store, and everywhere in what comes after.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kvs::testing::sim::{Content, Crash, Image, Replay, SimFs, Survive};
use kvs::testing::{Engine, open};
use kvs::{Batch, Options};
use kvs_model::{Oracle, Pairs, Write, images_agree, pairs, strays};

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Places where the power was cut.
    pub cuts: u64,
    /// Images made.
    pub images: u64,
    /// Images on which a store was opened: those that were not seen before.
    pub opened: u64,
    /// Of these: what a cut of a recovery left.
    pub recoveries: u64,
    /// Of these: what a cut of a second life left.
    pub lives: u64,
    /// Images on which O8 and O9 were checked as well.
    pub compared: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.images += other.images;
        self.opened += other.opened;
        self.recoveries += other.recoveries;
        self.lives += other.lives;
        self.compared += other.compared;
    }
}

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seeded mixes per cut, and as many from harsher disks.
    pub mixes: u64,
    /// Where their seeds begin.
    pub seed: u64,
    /// Up to this many images per cut: all of them, instead of mixes.
    pub choices: u64,
    /// Of every how many new images the recovery, and a second life, is cut as well.
    pub nested: u64,
    /// Of every how many new images all ways of opening are compared.
    pub compared: u64,
}

/// Something that was done to a store, and what may be left of it.
pub struct Stage {
    /// What [`crate::workloads`] or this file calls it.
    pub name: String,
    pub options: Options,
    /// Every write is acknowledged when it is durable.
    pub sync: bool,
    pub fs: SimFs,
    pub oracle: Oracle,
    /// Where the first cut falls.
    pub begin: usize,
}

/// The cuts that led to a place: `sync@12/mix:3,recovery@5/synced`.
#[derive(Clone, Debug, Default)]
pub struct Story(Vec<(String, Crash)>);

impl Story {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let step = |step: &str| {
            let (stage, crash) = step
                .split_once('@')
                .ok_or_else(|| format!("{step:?} is no step: it has no @"))?;
            Ok((stage.to_owned(), crash.parse()?))
        };
        let steps: Result<Vec<_>, String> = text.split(',').map(step).collect();
        steps.map(Self)
    }

    /// Its steps: the name of a stage, and the cut in it.
    pub fn steps(&self) -> &[(String, Crash)] {
        &self.0
    }

    fn and(&self, stage: &str, crash: Crash) -> Self {
        let mut longer = self.clone();
        longer.0.push((stage.to_owned(), crash));
        longer
    }
}

impl std::fmt::Display for Story {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (stage, crash)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{stage}@{crash}")?;
        }
        Ok(())
    }
}

/// One stage, cut everywhere; and its stages within.
pub struct Trial<'a> {
    stage: Stage,
    effort: Effort,
    /// How it came to this stage.
    before: Story,
    /// How many of the images to come may still be opened; shared by all.
    left: &'a Cell<u64>,
    /// Images seen: what they recovered to.
    seen: HashMap<u64, Pairs>,
    pub counts: Counts,
}

impl<'a> Trial<'a> {
    pub fn new(stage: Stage, effort: Effort, left: &'a Cell<u64>) -> Self {
        Self::within(stage, effort, Story::default(), left)
    }

    fn within(stage: Stage, effort: Effort, before: Story, left: &'a Cell<u64>) -> Self {
        Self {
            stage,
            effort,
            before,
            left,
            seen: HashMap::new(),
            counts: Counts::default(),
        }
    }

    /// Cuts everywhere, until no more images may be opened.
    ///
    /// # Errors
    /// What is wrong, and how to see it again.
    pub fn run(&mut self) -> Result<(), String> {
        let mut replay = self.stage.fs.replay();
        replay.advance_to(self.stage.begin);
        loop {
            self.counts.cuts += 1;
            for survive in survivals(&replay, &self.effort) {
                let crash = Crash {
                    cut: replay.cut(),
                    survive,
                };
                let image = own(replay.image(survive));
                self.counts.images += 1;
                self.judge(crash, &image, &mut replay)?;
                if self.left.get() == 0 {
                    return Ok(());
                }
            }
            if !replay.advance() {
                return Ok(());
            }
        }
    }

    /// The store on `image` shows what may have survived.
    fn judge(&mut self, crash: Crash, image: &Image, replay: &mut Replay) -> Result<(), String> {
        let digest = image.digest();
        let new = !self.seen.contains_key(&digest);
        if new {
            self.counts.opened += 1;
            self.left.set(self.left.get().saturating_sub(1));
        }
        let story = || self.before.and(&self.stage.name, crash);
        if new {
            let found = recovered(image, &self.stage.options)
                .map_err(|what| self.failure(&story(), &what))?;
            self.seen.insert(digest, found);
        }
        let found = &self.seen[&digest];
        self.stage
            .oracle
            .survived(crash.cut, found)
            .map_err(|what| self.failure(&story(), &what))?;
        if !new {
            return Ok(());
        }
        let (number, story) = (self.counts.opened, story());
        if self.effort.compared > 0 && number.is_multiple_of(self.effort.compared) {
            self.counts.compared += 1;
            images_agree(image, &self.stage.options, found)
                .map_err(|what| self.failure(&story, &what))?;
        }
        if self.effort.nested > 0 && number.is_multiple_of(self.effort.nested) {
            let older = replay.contents();
            for name in ["recovery", "life"] {
                self.go_on(name, &story, image, &older)?;
            }
        }
        Ok(())
    }

    /// What comes after the cut, cut in its turn.
    fn go_on(
        &mut self,
        name: &str,
        story: &Story,
        image: &Image,
        older: &[Content],
    ) -> Result<(), String> {
        let found = &self.seen[&image.digest()];
        let stage = next_stage(name, image, older, found, &self.stage)
            .map_err(|what| self.failure(story, &what))?;
        let depth = story.steps().len() as u64;
        let effort = Effort {
            mixes: 2,
            seed: self.effort.seed.wrapping_add(depth * 17),
            choices: 4,
            // What comes of that is cut once more.
            nested: match depth {
                1 => 300,
                _ => 0,
            },
            compared: 0,
        };
        let mut within = Trial::within(stage, effort, story.clone(), self.left);
        within.run()?;
        let mut counts = within.counts;
        match name {
            "recovery" => counts.recoveries = counts.opened - counts.lives,
            _ => counts.lives = counts.opened - counts.recoveries,
        }
        self.counts += counts;
        Ok(())
    }

    fn failure(&self, story: &Story, what: &str) -> String {
        format!(
            "{what}\n  image number {} of {}\n  to see it again:\n  KVS_CRASH_REPLAY='{story}' cargo \
             test --no-default-features --test crash replay -- --nocapture",
            self.counts.opened, self.stage.name,
        )
    }
}

/// What may survive here: all there is, if that is little; else both extremes, subsets of names, and
/// mixes that are others at every cut. And harsher disks.
fn survivals(replay: &Replay, effort: &Effort) -> Vec<Survive> {
    if replay.is_settled() {
        return vec![Survive::SyncedOnly];
    }
    let first = effort
        .seed
        .wrapping_mul(0x1_0000)
        .wrapping_add(replay.cut() as u64 * 1009);
    let seeds = first..first + effort.mixes;
    let mut all = match replay.choices(effort.choices) {
        Some(count) => (0..count)
            .map(|number| Survive::Choice { number })
            .collect(),
        None => replay.survivals(seeds.clone()),
    };
    all.extend(replay.harsh_survivals(seeds));
    all
}

/// The store's own files: a checkpoint beside them is another store.
fn own(image: Image) -> Image {
    if image.iter().all(|(name, _)| !name.contains('/')) {
        return image;
    }
    let mut own = Image::new();
    for (name, content) in image.iter().filter(|(name, _)| !name.contains('/')) {
        own.put(name, content.clone());
    }
    own
}

/// Opens the image, and the result of that once more: the pairs, if both show the same and nothing
/// is left over.
fn recovered(image: &Image, options: &Options) -> Result<Pairs, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let fs = SimFs::from_image(image);
        let engine = open(fs.clone(), options, 42).map_err(|e| format!("it does not open: {e}"))?;
        let found = pairs(&engine)?;
        if engine.len() < found.len() as u64 {
            return Err(format!("len() is {} of {}", engine.len(), found.len()));
        }
        let strays = strays(&fs)?;
        if !strays.is_empty() {
            return Err(format!("left over: {strays:?}"));
        }
        drop(engine);
        let again = open(fs.clone(), options, 43).map_err(|e| format!("not a second time: {e}"))?;
        match pairs(&again)? == found {
            true => Ok(found),
            false => Err("opened a second time it shows something else".to_owned()),
        }
    }));
    outcome.unwrap_or_else(|_| Err("it panics".to_owned()))
}

/// What is done to the image of a cut: only opening it, or a second life.
fn next_stage(
    name: &str,
    image: &Image,
    older: &[Content],
    found: &Pairs,
    before: &Stage,
) -> Result<Stage, String> {
    let fs = SimFs::from_image(image);
    fs.set_older(older.to_vec());
    let mut stage = Stage {
        name: name.to_owned(),
        options: before.options.clone(),
        sync: before.sync,
        fs: fs.clone(),
        oracle: Oracle::found(found),
        begin: 0,
    };
    match name {
        // O6: recovery, cut at any of its own steps and begun again, ends where it would have ended.
        "recovery" => drop(open(fs, &stage.options, 77).map_err(|e| e.to_string())?),
        "life" => live(&mut stage).map_err(|error| format!("in its second life: {error}"))?,
        _ => return Err(format!("nothing that comes after a cut is called {name:?}")),
    }
    Ok(stage)
}

/// O7: what is written after recovery is as safe as what was written before.
fn live(stage: &mut Stage) -> kvs::Result<()> {
    let (fs, sync, oracle) = (stage.fs.clone(), stage.sync, &mut stage.oracle);
    let key = |id: u8| vec![b'k', id];
    let value = |round: u8, len: usize| vec![round ^ 0xA5; len];
    let set = |engine: &Arc<Engine<SimFs>>, oracle: &mut Oracle, id: u8, round: u8, len: usize| {
        let (begun, key, value) = (fs.log_len(), key(id), value(round, len));
        let done = engine.set(&key, &value);
        oracle.commit(begun, vec![(key, Some(value.into()))]);
        if sync {
            oracle.promise(fs.log_len());
        }
        done
    };
    let engine = open(fs.clone(), &stage.options, 78)?;
    oracle.promise(fs.log_len());
    set(&engine, oracle, 0, 1, 40)?;
    set(&engine, oracle, 1, 2, 600)?;
    let mut batch = Batch::new();
    batch.set(key(2), value(3, 300)).set(key(0), value(3, 400));
    let begun = fs.log_len();
    engine.write(&batch)?;
    let writes: Vec<Write> = vec![
        (key(2), Some(value(3, 300).into())),
        (key(0), Some(value(3, 400).into())),
    ];
    oracle.commit(begun, writes);
    engine.flush()?;
    oracle.promise(fs.log_len());
    let begun = fs.log_len();
    engine.remove(&key(1))?;
    oracle.commit(begun, vec![(key(1), None)]);
    engine.rotate_now()?;
    set(&engine, oracle, 0, 4, 50)?;
    engine.compact()?;
    oracle.promise(fs.log_len());
    set(&engine, oracle, 3, 5, 700)?;
    engine.close()?;
    oracle.promise(fs.log_len());
    drop(engine);
    let engine = open(fs.clone(), &stage.options, 79)?;
    set(&engine, oracle, 3, 6, 20)
}

/// Goes through a story again and tells what happens; at the end, what is wrong, if anything is.
pub fn retell(
    story: &Story,
    stage: impl Fn(&str) -> Result<Stage, String>,
) -> Result<(String, Result<usize, String>), String> {
    let mut text = String::new();
    let mut steps = story.steps().iter();
    let (name, first) = steps.next().ok_or("a story has a beginning")?;
    let mut crash = *first;
    let mut now = stage(name)?;
    loop {
        let mut replay = now.fs.replay();
        if crash.cut > replay.ops().len() {
            return Err(format!("{}: {} are recorded", crash, replay.ops().len()));
        }
        replay.advance_to(crash.cut);
        let image = own(replay.image(crash.survive));
        let lines = &now.fs.log_lines()[..crash.cut];
        let _ = writeln!(
            text,
            "{}: the disk records\n{}\nthe power is cut, {} survives:",
            now.name,
            lines.join("\n"),
            crash.survive
        );
        for (name, content) in image.iter() {
            let _ = writeln!(text, "     {name}: {content:?}");
        }
        let found = match recovered(&image, &now.options) {
            Ok(found) => found,
            Err(what) => return Ok((text, Err(what))),
        };
        let judged = now.oracle.survived(crash.cut, &found);
        let next = steps.next();
        let (Ok(_), Some((name, then))) = (&judged, next) else {
            return Ok((text, judged));
        };
        now = next_stage(name, &image, &replay.contents(), &found, &now)?;
        crash = *then;
    }
}
