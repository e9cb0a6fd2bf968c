//! What an update left out is in one later update, whatever ends when.

use std::collections::BTreeSet;

use super::*;
use crate::pipe::Report;
use crate::workspace::update_path;

struct Site {
    folder: tempfile::TempDir,
}

fn run() -> RunName {
    "brain".parse().unwrap()
}

fn plan() -> Digest {
    Digest::of(b"plan")
}

fn blob(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

impl Site {
    fn new() -> Site {
        Site { folder: tempfile::tempdir().unwrap() }
    }

    /// The workspace, as it is after a restart.
    fn workspace(&self) -> Workspace {
        Workspace::open(self.folder.path()).unwrap()
    }

    /// Trains a round: the update and what it leaves out follow from the round and what is carried.
    fn train(&self, number: u32) -> (Assignment, Trained) {
        let workspace = self.workspace();
        let remainder = workspace.carried(&run(), number, plan()).unwrap();
        let assignment = Assignment {
            run: run(),
            number,
            site: "mayo".parse().unwrap(),
            plan_toml: "plan".into(),
            base: blob(&[number as u8]),
            remainder,
        };
        let made = format!(
            "{number} with {}",
            remainder.map_or("nothing".into(), |b| b.digest.to_string())
        );
        let (update, left) = (format!("update {made}"), format!("left {made}"));
        let folder = self.folder.path();
        fs::write(update_path(folder, blob(update.as_bytes()).digest), &update).unwrap();
        fs::write(remainder_path(folder, blob(left.as_bytes()).digest), &left).unwrap();
        let trained = Trained {
            update: blob(update.as_bytes()),
            examples: 8,
            report: Report::default(),
            data: Digest::of(b"scans"),
            remainder: Some(blob(left.as_bytes())),
        };
        workspace.remember(&assignment, trained).unwrap();
        (assignment, trained)
    }

    fn submit(&self, assignment: &Assignment, trained: Trained) {
        self.workspace().submitting(assignment, trained, 1).unwrap();
    }

    fn settle(&self, is_accepted: bool) {
        self.workspace().settle(is_accepted).unwrap();
    }

    fn doubt(&self) -> Option<u32> {
        self.workspace().doubt().unwrap().map(|doubt| doubt.round.number)
    }

    fn carried(&self, number: u32) -> Option<Blob> {
        self.workspace().carried(&run(), number, plan()).unwrap()
    }

    fn files(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.folder.path().join("remainders")).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn what_an_accepted_update_left_out_is_in_the_next_one() {
    let site = Site::new();
    let mut before = None;
    for number in 1..=3 {
        let (assignment, trained) = site.train(number);
        assert_eq!(assignment.remainder, before, "round {number}");
        site.submit(&assignment, trained);
        site.settle(true);
        assert_eq!(site.doubt(), None);
        before = trained.remainder;
    }
    assert_eq!(site.carried(9), before, "also where rounds lie between");
    assert_eq!(site.workspace().carried(&run(), 9, Digest::of(b"other")).unwrap(), None);
    assert_eq!(site.workspace().carried(&"other".parse().unwrap(), 9, plan()).unwrap(), None);
}

#[test]
fn a_round_that_is_tried_again_is_made_with_the_same_and_gives_the_same_bytes() {
    let site = Site::new();
    let (first, trained) = site.train(1);
    site.submit(&first, trained);
    site.settle(true);
    let (assignment, trained) = site.train(2);
    // Before it is submitted, when that is in doubt, and after it was accepted.
    assert_eq!(site.train(2), (assignment.clone(), trained));
    site.submit(&assignment, trained);
    assert_eq!(site.train(2), (assignment.clone(), trained));
    site.submit(&assignment, trained);
    site.settle(true);
    assert_eq!(site.train(2), (assignment.clone(), trained));
    site.submit(&assignment, trained);
    site.settle(true);
    assert_eq!(site.carried(3), trained.remainder);
}

#[test]
fn what_two_jobs_note_at_once_fails_neither_and_is_whole() {
    let site = Site::new();
    let (assignment, trained) = site.train(1);
    let workspace = site.workspace();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..50 {
                    workspace.submitting(&assignment, trained, 1).unwrap();
                    workspace.settle(true).unwrap();
                    workspace.close_update(&run(), true).unwrap();
                }
            });
        }
    });
    assert_eq!(workspace.doubt().unwrap(), None);
    assert_eq!(workspace.carried(&run(), 2, plan()).unwrap(), trained.remainder);
}

#[test]
fn an_update_that_was_not_accepted_leaves_what_was_carried() {
    let site = Site::new();
    let (first, accepted) = site.train(1);
    site.submit(&first, accepted);
    site.settle(true);
    let (second, refused) = site.train(2);
    site.submit(&second, refused);
    assert_eq!(site.doubt(), Some(2), "and a restart forgets no doubt");
    site.settle(false);
    assert_eq!(site.doubt(), None);
    assert_eq!(site.carried(3), accepted.remainder);
    // One that was given up before it was submitted leaves no doubt.
    site.train(3);
    assert_eq!((site.doubt(), site.carried(4)), (None, accepted.remainder));
}

#[test]
fn an_update_that_was_accepted_and_is_in_no_model_leaves_what_was_carried() {
    let site = Site::new();
    let open = |number| site.workspace().open_update(&run(), number, plan()).unwrap();
    let (first, counted) = site.train(1);
    site.submit(&first, counted);
    site.settle(true);
    assert_eq!(open(1), None, "its own round may still be tried again");
    let asked = open(2).unwrap();
    assert_eq!((asked.number, asked.attempt, asked.update), (1, 1, counted.update.digest));
    site.workspace().close_update(&run(), true).unwrap();
    assert_eq!((open(2), site.carried(2)), (None, counted.remainder));

    // Round 2 is abandoned after it was accepted, and made by others.
    let (second, lost) = site.train(2);
    site.submit(&second, lost);
    site.settle(true);
    assert_eq!(site.carried(2), counted.remainder, "tried again, it is made with the same");
    site.workspace().close_update(&run(), false).unwrap();
    assert_eq!((open(3), site.carried(3)), (None, counted.remainder));
    let (third, next) = site.train(3);
    assert_eq!(third.remainder, counted.remainder);
    site.submit(&third, next);
    site.settle(true);
    assert_eq!((open(4).unwrap().number, site.carried(4)), (3, next.remainder));

    // Where the first of a run is in no model there is nothing to carry.
    let other = Site::new();
    let (first, lost) = other.train(1);
    other.submit(&first, lost);
    other.settle(true);
    other.workspace().close_update(&run(), false).unwrap();
    assert_eq!(other.carried(2), None);
}

#[test]
fn a_book_of_before_attempts_were_noted_is_read_and_leaves_nothing_open() {
    let site = Site::new();
    let (first, trained) = site.train(1);
    site.submit(&first, trained);
    site.settle(true);
    let book = site.folder.path().join("remainders.json");
    let mut entries: serde_json::Value = serde_json::from_slice(&fs::read(&book).unwrap()).unwrap();
    entries[0].as_object_mut().unwrap().remove("open").unwrap();
    fs::write(&book, entries.to_string()).unwrap();
    assert_eq!(site.workspace().open_update(&run(), 2, plan()).unwrap(), None);
    assert_eq!(site.carried(2), trained.remainder);
}

#[test]
fn a_disk_that_fails_while_a_doubt_is_settled_leaves_it_to_be_settled_again() {
    let site = Site::new();
    let (assignment, trained) = site.train(1);
    site.submit(&assignment, trained);
    // A folder in the book's place cannot be replaced by a file.
    let book = site.folder.path().join("remainders.json");
    fs::create_dir(&book).unwrap();
    site.workspace().settle(true).unwrap_err();
    fs::remove_dir(&book).unwrap();
    assert_eq!(site.doubt(), Some(1));
    site.settle(true);
    assert_eq!((site.doubt(), site.carried(2)), (None, trained.remainder));
}

#[test]
fn no_more_is_kept_than_what_may_be_asked_for_again_and_harmed_files_are_not_used() {
    let site = Site::new();
    for number in 1..=5 {
        let (assignment, trained) = site.train(number);
        site.submit(&assignment, trained);
        site.settle(true);
        assert!(site.files().len() <= 2, "{:?}", site.files());
    }
    let carried = site.carried(6).unwrap();
    fs::write(remainder_path(site.folder.path(), carried.digest), "harmed").unwrap();
    assert_eq!(site.carried(6), None);
    fs::write(site.folder.path().join("remainders.json"), "{").unwrap();
    assert_eq!(site.carried(6), None);
}

#[test]
fn of_many_runs_the_newest_are_kept() {
    let site = Site::new();
    let (assignment, trained) = site.train(1);
    let name = |i: usize| format!("run-{i}").parse::<RunName>().unwrap();
    for i in 0..6 {
        let assignment = Assignment { run: name(i), ..assignment.clone() };
        site.submit(&assignment, trained);
        site.settle(true);
    }
    let kept = |i: usize| site.workspace().carried(&name(i), 2, plan()).unwrap().is_some();
    assert_eq!([0, 1, 2, 5].map(kept), [false, false, true, true]);
}
