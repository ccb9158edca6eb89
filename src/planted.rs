//! Safeguards that can be switched off, one at a time, to see that the tests notice.
//!
//! Built with `--cfg kvs_planted --cfg kvs_planted="NAME"`, the safeguard of that name does nothing; with
//! the name `chosen`, the one that the environment variable `KVS_PLANTED` names when the program runs, so
//! that one build serves for all. The suites must then fail: `tests/planted/run.sh` sees to it. A store
//! built like this loses data, so nothing builds without the feature `testing`. Otherwise each place is
//! a condition that the compiler knows: nothing of it is left.
//!
//! | name | what goes wrong |
//! |---|---|
//! | `acknowledged_unsynced` | a group is acknowledged without a sync (O1, B-1) |
//! | `clean_not_confirmed` | the CLEAN that a life begins with is not written again (I-2) |
//! | `edit_not_synced` | edits of the manifest are not synced before they take effect |
//! | `exchange_not_exact` | compaction replaces whatever version of a key it finds (C-4) |
//! | `expired_forgotten` | compaction leaves no tombstone of what has expired (C-1) |
//! | `failed_sync_forgotten` | a failed sync is taken for a good one (I-1) |
//! | `group_closed_late` | the end of a group is noted after its sync (B-2) |
//! | `half_batches_kept` | records of a batch whose end is missing count (B-4) |
//! | `header_not_synced` | a new segment is not synced before its ADD (T-10) |
//! | `hint_unbound` | a hint is believed whatever segment it was made of (H-2, H-3) |
//! | `leftovers_kept` | files that the manifest does not know stay (O11) |
//! | `link_unchecked` | a log segment is followed by whatever comes next (T-12) |
//! | `lsn_not_compared` | of two versions the one that is read last counts (C-4) |
//! | `mark_before_sync` | a MARK states a sync that is yet to come |
//! | `marks_not_searched` | MARKs behind the end of the log are not looked for (T-6) |
//! | `new_name_not_synced` | the name of a new segment is not synced before its ADD (I-6) |
//! | `no_barrier` | compaction does not wait for what made a record dead (C-14) |
//! | `not_poisoned` | after a failed sync the store goes on (I-1) |
//! | `not_written_back` | an unclean tail is trusted without being written back (I-2) |
//! | `older_segment_not_synced` | a group syncs the active segment only (T-12) |
//! | `one_salt_for_all` | all segments have one salt (T-4) |
//! | `oracle_forgets` | the tests' own model forgets what was promised |
//! | `output_not_synced` | a merged segment is not synced before its COMPACT (C-6) |
//! | `rename_not_synced` | the new name of the manifest is not synced (I-6) |
//! | `sealed_unsynced` | SEAL is written of a segment that was not synced (T-12) |
//! | `stale_header_believed` | a new segment that shows the header of another counts as written to |
//! | `tail_not_cut` | no CUT is written behind an unclean end (T-5) |
//! | `tombstones_dropped` | compaction drops every tombstone (C-1) |
//! | `unlinked_before_edit` | compaction's inputs are removed before its COMPACT (C-6) |

/// True if the safeguard of this name is switched off. With two more expressions: the first of them if
/// so, else the second.
macro_rules! planted {
    ($name:tt) => {
        (cfg!(kvs_planted = $name)
            || (cfg!(kvs_planted = "chosen") && $crate::planted::is_chosen($name)))
    };
    ($name:tt, $instead:expr, $usual:expr $(,)?) => {
        match planted!($name) {
            true => $instead,
            false => $usual,
        }
    };
}

/// Checks what was asked for, given every name there is.
macro_rules! plants {
    ($($name:tt),* $(,)?) => {
        #[cfg(all(
            kvs_planted,
            not(any(kvs_planted = "chosen", $(kvs_planted = $name),*))
        ))]
        compile_error!("there is no planted bug of that name: src/planted.rs lists them");

        #[cfg(all(
            not(kvs_planted),
            any(kvs_planted = "chosen", $(kvs_planted = $name),*)
        ))]
        compile_error!("a planted bug wants `--cfg kvs_planted` as well: it checks the name");

        #[cfg(all(kvs_planted, not(feature = "testing")))]
        compile_error!("a planted bug is for the test suites: it needs the feature `testing`");

        /// Every name.
        const NAMES: &[&str] = &[$($name),*];
    };
}

plants!(
    "acknowledged_unsynced",
    "clean_not_confirmed",
    "edit_not_synced",
    "exchange_not_exact",
    "expired_forgotten",
    "failed_sync_forgotten",
    "group_closed_late",
    "half_batches_kept",
    "header_not_synced",
    "hint_unbound",
    "leftovers_kept",
    "link_unchecked",
    "lsn_not_compared",
    "mark_before_sync",
    "marks_not_searched",
    "new_name_not_synced",
    "no_barrier",
    "not_poisoned",
    "not_written_back",
    "older_segment_not_synced",
    "one_salt_for_all",
    "oracle_forgets",
    "output_not_synced",
    "rename_not_synced",
    "sealed_unsynced",
    "stale_header_believed",
    "tail_not_cut",
    "tombstones_dropped",
    "unlinked_before_edit",
);

/// True if `KVS_PLANTED` names this one.
///
/// # Panics
/// If it names one that does not exist: then nothing would be switched off, and the tests would be
/// blamed for not noticing.
#[cold]
pub(crate) fn is_chosen(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let chosen = std::env::var("KVS_PLANTED").ok();
        if let Some(chosen) = &chosen {
            let known = NAMES.contains(&chosen.as_str());
            assert!(
                known,
                "KVS_PLANTED={chosen}: there is no planted bug of that name"
            );
        }
        chosen
    });
    chosen.as_deref() == Some(name)
}
