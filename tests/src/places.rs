//! The places at which a program may die or its disk may fail: those that some federation of `chaos crash-points` and
//! `chaos disk` passes, and those that none does, each with where it is tried.
//!
//! The sources' names are held against these lists by a test, and so is what the long runs really pass, by the long
//! runs: nobody can add a place that is never tried, or have one be passed no longer, in silence.

use std::collections::BTreeSet;

/// What some federation passes.
pub const PASSED: [&str; 150] = [
    "aggregate.adopt",
    "aggregate.begin",
    "aggregate.verify",
    "blob.delete",
    "blob.empty",
    "blob.folder",
    "blob.folders",
    "blob.folders_sync",
    "blob.forget",
    "blob.hash",
    "blob.open",
    "blob.part",
    "blob.part_open",
    "blob.read",
    "blob.rename",
    "blob.room",
    "blob.sync",
    "blob.write",
    "cache.create",
    "cache.folder",
    "cache.lock",
    "cache.make",
    "cache.mode",
    "cache.probe",
    "cache.rename",
    "cache.sweep",
    "cache.sync",
    "cache.write",
    "checkpoint.create",
    "checkpoint.drop",
    "checkpoint.folder",
    "checkpoint.read",
    "checkpoint.rename",
    "checkpoint.sync",
    "checkpoint.write",
    "credential.create",
    "credential.folder",
    "credential.remove",
    "credential.rename",
    "credential.sync",
    "credential.write",
    "db.begin",
    "db.checksums",
    "db.commit",
    "db.committed",
    "db.document",
    "db.event",
    "db.fence",
    "db.head",
    "db.lease",
    "db.let_go",
    "db.log",
    "db.members",
    "db.migrate",
    "db.open",
    "db.renew",
    "db.roster",
    "db.round",
    "db.run",
    "db.site",
    "db.stragglers",
    "folder.announce",
    "folder.announce_write",
    "folder.lock",
    "folder.make",
    "folder.note",
    "folder.note_cut",
    "folder.note_sync",
    "model.create",
    "model.flush",
    "model.folder",
    "model.open",
    "model.read",
    "model.rename",
    "model.sync",
    "model.write",
    "publish.save",
    "publish.saved",
    "reply.heartbeat",
    "reply.submit",
    "reply.upload",
    "split.create",
    "split.folder",
    "split.rename",
    "split.sync",
    "split.write",
    "submit.reply",
    "submit.send",
    "train.base",
    "train.encoded_folder",
    "train.encoded_rename",
    "train.split",
    "train.step",
    "train.trained_drop",
    "train.update_create",
    "train.update_rename",
    "train.update_write",
    "upload.open",
    "upload.read",
    "upload.reply",
    "upload.status",
    "workspace.drop_models",
    "workspace.drop_remainders",
    "workspace.drop_training",
    "workspace.drop_updates",
    "workspace.folders",
    "workspace.head_create",
    "workspace.head_folder",
    "workspace.head_read",
    "workspace.head_rename",
    "workspace.head_sync",
    "workspace.head_write",
    "workspace.history_create",
    "workspace.history_folder",
    "workspace.history_read",
    "workspace.history_rename",
    "workspace.history_sync",
    "workspace.history_write",
    "workspace.lock",
    "workspace.part_cut",
    "workspace.part_drop",
    "workspace.part_open",
    "workspace.part_rename",
    "workspace.part_write",
    "workspace.plan_create",
    "workspace.plan_folder",
    "workspace.plan_rename",
    "workspace.plan_sync",
    "workspace.plan_write",
    "workspace.plans",
    "workspace.receipt_create",
    "workspace.receipt_folder",
    "workspace.receipt_rename",
    "workspace.receipt_sync",
    "workspace.receipt_write",
    "workspace.receipts",
    "workspace.record_create",
    "workspace.record_folder",
    "workspace.record_read",
    "workspace.record_rename",
    "workspace.record_sync",
    "workspace.record_write",
    "workspace.remainders_create",
    "workspace.remainders_folder",
    "workspace.remainders_read",
    "workspace.remainders_rename",
    "workspace.remainders_sync",
    "workspace.remainders_write",
    "workspace.update_folder",
    "workspace.update_sync",
];

/// What none passes, and the file with the test that does, on a disk that fails there. Three only make room, and go on
/// where they cannot, to the same bytes: `cache.drop`, `checkpoint.drop_unfit` and `workspace.forget`, each of which is
/// tried again with what comes next.
pub const ELSEWHERE: [(&str, &str); 34] = [
    ("blob.part_sync", "tests/disk.rs"),
    ("blob.rot", "tests/disk.rs"),
    ("blob.wrong", "tests/disk.rs"),
    ("cache.drop", "site-agent/tests/it/cache.rs"),
    ("cache.remove", "site-agent/tests/it/cache.rs"),
    ("checkpoint.drop_unfit", "site-agent/tests/it/resume.rs"),
    ("download.folder", "tests/disk.rs"),
    ("download.sync", "tests/disk.rs"),
    ("join.certificate", "tests/joining.rs"),
    ("join.config_create", "tests/joining.rs"),
    ("join.config_folder", "tests/joining.rs"),
    ("join.config_rename", "tests/joining.rs"),
    ("join.config_sync", "tests/joining.rs"),
    ("join.config_write", "tests/joining.rs"),
    ("join.make", "tests/joining.rs"),
    ("join.roots", "tests/joining.rs"),
    ("join.signing", "tests/joining.rs"),
    ("join.signing_key", "tests/joining.rs"),
    ("join.tls_key", "tests/joining.rs"),
    ("workspace.approval_create", "tests/people.rs"),
    ("workspace.approval_drop", "tests/people.rs"),
    ("workspace.approval_folder", "tests/people.rs"),
    ("workspace.approval_rename", "tests/people.rs"),
    ("workspace.approval_sync", "tests/people.rs"),
    ("workspace.approval_write", "tests/people.rs"),
    ("workspace.evidence", "tests/people.rs"),
    ("workspace.evidence_create", "tests/people.rs"),
    ("workspace.evidence_folder", "tests/people.rs"),
    ("workspace.evidence_rename", "tests/people.rs"),
    ("workspace.evidence_sync", "tests/people.rs"),
    ("workspace.evidence_write", "tests/people.rs"),
    ("workspace.forget", "site-agent/tests/it/agent.rs"),
    ("workspace.history_drop", "tests/people.rs"),
    ("workspace.plan_drop", "tests/people.rs"),
];

/// What differs between the places that a run has passed and the list, in words. A run of fewer kinds of federations
/// than there are, which is not `whole`, need not pass them all.
pub fn differences(passed: &BTreeSet<String>, whole: bool) -> Vec<String> {
    let listed = |place: &str| PASSED.contains(&place);
    let unlisted = passed.iter().filter(|place| !listed(place));
    let unlisted = unlisted.map(|place| format!("{place} is passed, and no place of the list"));
    let missed = PASSED.into_iter().filter(|place| whole && !passed.contains(*place));
    let missed = missed.map(|place| format!("{place} is on the list and was not passed"));
    unlisted.chain(missed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_too_many_and_one_too_few_are_both_named() {
        let mut passed: BTreeSet<String> = PASSED.map(str::to_owned).into();
        assert_eq!(differences(&passed, true), [""; 0]);
        passed.remove("blob.delete");
        passed.insert("blob.rot".to_owned());
        let unlisted = "blob.rot is passed, and no place of the list";
        assert_eq!(differences(&passed, false), [unlisted]);
        let missed = "blob.delete is on the list and was not passed";
        assert_eq!(differences(&passed, true), [unlisted, missed]);
    }
}
