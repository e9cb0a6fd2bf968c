//! Everything that somebody may do to a log, and what the check says of it.

use super::*;
use crate::evidence::Notary;
use crate::records::Log;
use crate::testing::{LATER, Pki};

/// A log as its lines, with the head that was signed after each transaction, and every head. With transactions of
/// one entry each it is as it is logged now, and with others as versions before have logged it.
struct Logged {
    pki: Pki,
    authority: Authority,
    notary: Notary,
    log: Log,
    lines: Vec<Line>,
    heads: Vec<SignedHead>,
}

fn entry(seq: u64) -> Entry {
    let (actor, kind) = ("operator/ada".to_owned(), "site_enrolled".to_owned());
    let (at, detail) = (later(seq), format!("site number-{seq}"));
    Entry { seq, at, actor, kind, detail, document: None }
}

fn later(seconds: u64) -> Timestamp {
    Timestamp::from_second(LATER.as_second() + seconds as i64).unwrap()
}

/// A log of `size` transactions of one entry each.
fn logged(size: usize) -> Logged {
    grouped(&vec![1; size])
}

/// A log of transactions of 1, 4, 2 and 3 entries, those of each at one time.
fn at_once() -> Logged {
    let first = |seq: u64| [2, 6, 8].into_iter().rfind(|first| *first <= seq).unwrap_or(1);
    of_transactions(&[1, 4, 2, 3], |seq| Entry { at: later(first(seq)), ..entry(seq) })
}

/// A log of transactions with so many entries.
fn grouped(sizes: &[u64]) -> Logged {
    of_transactions(sizes, entry)
}

/// The same of entries that `entry` makes.
fn of_transactions(sizes: &[u64], entry: impl Fn(u64) -> Entry) -> Logged {
    let pki = Pki::new();
    let notary = notary(&pki, "spiffe://brain/coordinator/main");
    let authority = pki.authority();
    let lines = vec![Line::Begin { version: VERSION, federation: authority.federation().clone() }];
    let (log, heads) = (Log::default(), Vec::new());
    let mut logged = Logged { pki, authority, notary, log, lines, heads };
    for size in sizes {
        let seq = logged.log.tree.size() + 1;
        logged.add((seq..seq + size).map(&entry));
    }
    let head = logged.heads.last().unwrap().clone();
    logged.lines.push(Line::End { head });
    logged
}

fn notary(pki: &Pki, uri: &str) -> Notary {
    Notary::new(pki.authority(), pki.signer(uri), false)
}

impl Logged {
    /// Adds a transaction.
    fn add(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.log.push(&entry);
            let leaf = entry.leaf();
            self.lines.push(Line::Entry { entry, leaf });
        }
        // It is signed when its newest entry was made.
        let head = self.notary.head(&self.log, LATER);
        self.lines.push(Line::Head { head: head.clone() });
        self.heads.push(head);
    }

    fn check(&self, lines: &[Line], kept: &[SignedHead]) -> Result<Verified, Broken> {
        let mut check = Check::new(&self.authority, kept)?;
        for line in lines {
            check.text(&line.to_text())?;
        }
        check.done()
    }

    /// What the check says after `change` was done to the lines.
    fn told(&self, change: impl FnOnce(&mut Vec<Line>)) -> String {
        let mut lines = self.lines.clone();
        change(&mut lines);
        self.check(&lines, &self.heads[..1]).unwrap_err().to_string()
    }
}

/// Where the entry of a number is among the lines of transactions of one each.
fn at(seq: usize) -> usize {
    2 * seq - 1
}

#[test]
fn a_log_that_nobody_touched_is_whole_and_says_how_much_of_it_there_is() {
    let logged = logged(20);
    let whole = logged.check(&logged.lines, &logged.heads).unwrap();
    assert_eq!((whole.entries, whole.heads, whole.at), (20, 21, later(20)));
    assert_eq!(whole.root, logged.log.tree.root());
}

#[test]
fn an_entry_that_was_changed_left_out_doubled_or_moved_is_named() {
    let logged = logged(20);
    let edit = |lines: &mut Vec<Line>, with_leaf: bool| {
        let Line::Entry { entry, leaf } = &mut lines[at(7)] else { panic!("no entry") };
        entry.detail = "site nobody".into();
        if with_leaf {
            *leaf = entry.leaf();
        }
    };
    assert!(logged.told(|lines| edit(lines, false)).contains("entry 7 was changed"));
    assert!(
        logged.told(|lines| edit(lines, true)).contains("entry 7 is not the one that was signed")
    );
    let gone = logged.told(|lines| drop(lines.drain(at(7)..at(8))));
    assert!(gone.contains("entry 7 is missing"), "{gone}");
    let twice = logged.told(|lines| lines.insert(at(8), lines[at(7)].clone()));
    assert!(twice.contains("entry 7 is out of its order"), "{twice}");
    let moved = logged.told(|lines| lines.swap(at(7), at(9)));
    assert!(moved.contains("entry 7 is missing: entry 9"), "{moved}");
    let back = logged.told(|lines| {
        let Line::Entry { entry, leaf } = &mut lines[at(7)] else { panic!("no entry") };
        entry.at = later(1);
        *leaf = entry.leaf();
    });
    assert!(back.contains("entry 7 is back-dated"), "{back}");
}

/// What an export is broken by after `change` was done to the entry of a number, and to its hash if it is to fit.
fn broken_by(logged: &Logged, seq: u64, fits: bool, change: impl Fn(&mut Entry)) -> Broken {
    let mut lines = logged.lines.clone();
    for line in &mut lines {
        if let Line::Entry { entry, leaf } = line
            && entry.seq == seq
        {
            change(entry);
            if fits {
                *leaf = entry.leaf();
            }
        }
    }
    logged.check(&lines, &[]).unwrap_err()
}

/// What an export is broken by whose entries were changed, numbered anew and given hashes that fit, under the heads
/// that were signed.
fn refitted(logged: &Logged, change: impl FnOnce(&mut Vec<Entry>)) -> Broken {
    let entry = |line: &Line| match line {
        Line::Entry { entry, .. } => Some(entry.clone()),
        _ => None,
    };
    let mut entries: Vec<Entry> = logged.lines.iter().filter_map(entry).collect();
    change(&mut entries);
    let (mut lines, mut heads) = (logged.lines[..1].to_vec(), logged.heads.iter().peekable());
    for (seq, entry) in (1..).zip(entries) {
        let entry = Entry { seq, ..entry };
        let leaf = entry.leaf();
        lines.push(Line::Entry { entry, leaf });
        lines.extend(
            heads
                .next_if(|head| head.statement.size == seq)
                .map(|head| Line::Head { head: head.clone() }),
        );
    }
    lines.extend(logged.lines.last().cloned());
    logged.check(&lines, &[]).unwrap_err()
}

/// What somebody does to a log at a place in it.
type Change = fn(&mut Vec<Entry>, usize);

#[test]
fn where_each_entry_has_its_head_the_very_one_is_named_however_well_its_hash_fits() {
    // Four at a time, as entries of one transaction are.
    let logged =
        of_transactions(&[1; 20], |seq| Entry { at: later(seq.div_ceil(4)), ..entry(seq) });
    let changes: [(&str, Change); 8] = [
        ("edited", |entries, at| entries[at].detail.push('!')),
        ("deleted", |entries, at| drop(entries.remove(at))),
        ("moved", |entries, at| entries.swap(at, at + 1)),
        ("slipped in", |entries, at| entries.insert(at, entry(99))),
        ("put back", |entries, at| entries[at].at = later(0)),
        ("put forward", |entries, at| entries[at].at = later(99)),
        ("forked", |entries, at| entries[at..].iter_mut().for_each(|it| it.actor.push('!'))),
        ("cut off", |entries, at| entries.truncate(at)),
    ];
    for (how, change) in changes {
        for seq in [1, 2, 4, 5, 7, 19] {
            let told = refitted(&logged, |entries| change(entries, seq as usize - 1));
            assert_eq!(told.entries(), Some(seq..=seq), "{how}: {told}");
        }
    }
}

#[test]
fn what_is_slipped_in_without_a_head_is_told_by_that_of_the_entry_in_whose_place_it_is() {
    let logged = logged(20);
    // Of what is there twice the first one is right.
    for (detail, wrong) in [("site nobody", 7), ("site number-7", 8)] {
        let mut lines = logged.lines.clone();
        let more = Entry { detail: detail.into(), ..entry(7) };
        let leaf = more.leaf();
        lines.insert(at(7), Line::Entry { entry: more, leaf });
        for line in &mut lines[at(7) + 1..] {
            if let Line::Entry { entry, leaf } = line {
                entry.seq += 1;
                *leaf = entry.leaf();
            }
        }
        let told = logged.check(&lines, &[]).unwrap_err();
        assert_eq!(told.entries(), Some(wrong..=wrong), "{told}");
    }
}

#[test]
fn of_a_transaction_with_many_entries_the_changed_one_is_named_or_all_of_it_where_the_hash_fits() {
    let logged = grouped(&[1, 4, 2, 3]);
    let edit = |entry: &mut Entry| entry.detail = "site nobody".into();
    for (seq, range) in
        [(1, 1..=1), (2, 2..=5), (4, 2..=5), (5, 2..=5), (6, 6..=7), (7, 6..=7), (10, 8..=10)]
    {
        assert_eq!(broken_by(&logged, seq, false, edit).entries(), Some(seq..=seq));
        let told = broken_by(&logged, seq, true, edit);
        assert_eq!(told.entries(), Some(range), "{told}");
    }
    let told = broken_by(&logged, 4, true, edit).to_string();
    assert!(told.contains("one of entries 2 to 5 is not the one that was signed"), "{told}");
}

#[test]
fn an_entry_whose_time_was_changed_is_among_those_that_are_named_and_alone_where_it_is_certain() {
    let logged = at_once();
    for (seq, to, range) in [
        // Before what was signed: it is the entry itself.
        (4, later(0), 4..=4),
        (6, later(1), 6..=6),
        // One of a transaction is later, and it is the next one that does not follow: either may be false.
        (2, later(3), 2..=3),
        (4, later(3), 2..=5),
        (8, later(9), 8..=9),
        // The last of a transaction may be later than what is signed after it, of which only a head tells.
        (5, later(3), 2..=5),
        (7, later(9), 6..=7),
        (10, later(11), 8..=10),
    ] {
        let told = broken_by(&logged, seq, true, |entry| entry.at = to);
        assert_eq!(told.entries(), Some(range), "{seq}: {told}");
    }
    let told = broken_by(&logged, 4, true, |entry| entry.at = later(3)).to_string();
    assert!(told.contains("one of entries 2 to 5 has another time"), "{told}");
}

#[test]
fn what_is_wrong_with_a_line_or_a_head_names_the_entries_that_it_may_be_of() {
    let logged = grouped(&[1, 4, 2, 3]);
    let place = |size: u64| {
        let is = |line: &Line| matches!(line, Line::Head { head } if head.statement.size == size);
        logged.lines.iter().position(is).unwrap()
    };
    let broken = |change: &dyn Fn(&mut Vec<Line>)| {
        let mut lines = logged.lines.clone();
        change(&mut lines);
        logged.check(&lines, &[]).unwrap_err()
    };
    let forged = |at: Timestamp| {
        let mut head = logged.heads[2].clone();
        head.statement.at = at;
        Line::Head { head }
    };
    for (told, range) in [
        (broken(&|lines| lines[place(7)] = forged(later(8))), Some(6..=7)),
        (broken(&|lines| lines[place(7)] = forged(later(2))), Some(6..=7)),
        (broken(&|lines| lines.truncate(place(7))), Some(6..=8)),
        (broken(&|lines| lines.truncate(place(7) + 1)), Some(8..=8)),
        (broken(&|lines| lines.insert(place(7), lines[0].clone())), Some(7..=8)),
        (broken(&|lines| drop(lines.remove(0))), None),
        // Over entries that another head has signed, after them or later: nothing is wrong with them.
        (broken(&|lines| lines.insert(place(7) + 1, forged(later(8)))), None),
        (broken(&|lines| lines.insert(place(7) + 1, lines[place(5)].clone())), None),
    ] {
        assert_eq!(told.entries(), range, "{told}");
    }
    let mut check = Check::new(&logged.authority, &[]).unwrap();
    logged.lines[..place(7)].iter().for_each(|line| check.line(line.clone()).unwrap());
    let told = check.text("{").unwrap_err();
    assert_eq!(told.entries(), Some(7..=8));
    assert!(told.to_string().contains("line 11, after entry 7, is no line"), "{told}");
}

#[test]
fn where_entries_are_cut_off_or_slipped_in_the_missing_one_is_named_or_where_it_may_begin() {
    let logged = grouped(&[1, 4, 2, 3]);
    let is =
        |seq: u64| move |line: &Line| matches!(line, Line::Entry { entry, .. } if entry.seq == seq);
    for (seq, range, words) in [
        (8, 8..=8, "head over 10 entries: entry 8 is missing before it"),
        (9, 8..=9, "entry 8 is not the one that was signed, or entry 9 is missing before it"),
    ] {
        let mut cut = logged.lines.clone();
        let first = cut.iter().position(is(seq)).unwrap();
        cut.drain(first..cut.len() - 1);
        let told = logged.check(&cut, &[]).unwrap_err();
        assert_eq!(told.entries(), Some(range));
        assert!(told.to_string().contains(words), "{told}");
    }

    let mut more = logged.lines.clone();
    let third = more.iter().position(is(3)).unwrap();
    more.insert(third, more[third].clone());
    for line in &mut more[third + 1..] {
        if let Line::Entry { entry, leaf } = line {
            entry.seq += 1;
            *leaf = entry.leaf();
        }
    }
    let told = logged.check(&more, &[]).unwrap_err();
    assert_eq!(told.entries(), Some(2..=6), "{told}");
}

#[test]
fn a_head_that_was_not_signed_for_these_entries_by_the_coordinator_is_named() {
    let logged = logged(20);
    let mut under_7 = Log::default();
    (1..=7).for_each(|seq| drop(under_7.push(&entry(seq))));
    for (by, word) in [
        (notary(&Pki::new(), "spiffe://brain/coordinator/main"), "not one of this federation's"),
        (notary(&logged.pki, "spiffe://brain/site/mayo"), "only a coordinator may sign"),
    ] {
        let head = by.head(&under_7, later(7));
        let told = logged.told(|lines| lines[at(7) + 1] = Line::Head { head });
        assert!(told.contains("head over 7 entries") && told.contains(word), "{told}");
    }
    let mut forged = logged.heads[6].clone();
    forged.statement.at = later(8);
    let told = logged.told(|lines| lines[at(7) + 1] = Line::Head { head: forged });
    assert!(told.contains("is not over this"), "{told}");
    let told = logged.told(|lines| lines.swap(at(7) + 1, at(8) + 1));
    assert!(told.contains("after entry 7 there is a head over 8"), "{told}");
    // The coordinator's own, of a time before the entry.
    let early = Log { at: None, ..logged.log.clone() };
    let head = logged.notary.head(&early, later(2));
    let told = logged.told(|lines| *lines.last_mut().unwrap() = Line::End { head });
    assert!(told.contains("head over 20 entries is back-dated"), "{told}");
}

#[test]
fn an_export_without_its_end_and_a_log_without_what_was_shown_are_cut_short() {
    let logged = logged(20);
    let told = logged.told(|lines| lines.truncate(at(15)));
    assert!(told.contains("no end after entry 14"), "{told}");
    // Whoever holds the key can end it earlier; a head that somebody kept shows it.
    let mut earlier: Vec<Line> = logged.lines[..at(15)].to_vec();
    earlier.push(Line::End { head: logged.heads[13].clone() });
    assert_eq!(logged.check(&earlier, &logged.heads[..14]).unwrap().entries, 14);
    let told = logged.check(&earlier, &logged.heads[14..15]).unwrap_err().to_string();
    assert!(told.contains("14 entries, the head that was kept 15"), "{told}");
    let told = logged.check(&earlier, &logged.heads[13..15]).unwrap_err();
    assert_eq!(told.entries(), Some(15..=15), "the first that is missing");
}

#[test]
fn a_log_that_was_made_anew_by_who_has_the_key_differs_from_a_head_that_was_kept() {
    let Logged { pki, authority, notary, lines, heads, .. } = logged(20);
    let log = Log::default();
    let lines = lines[..1].to_vec();
    let mut forged = Logged { pki, authority, notary, log, lines, heads: Vec::new() };
    for seq in 1..=25 {
        let detail = if seq == 7 { "site nobody".into() } else { entry(seq).detail };
        forged.add([Entry { detail, ..entry(seq) }]);
    }
    let head = forged.heads.last().unwrap().clone();
    forged.lines.push(Line::End { head });
    let check = |kept: &[SignedHead]| forged.check(&forged.lines, kept);
    assert!(check(&heads[..6]).is_ok(), "before the entry both are the same");
    let told = check(&heads[9..10]).unwrap_err().to_string();
    assert!(told.contains("fork: one of entries 1 to 10"), "{told}");
    // Each head that was kept and is right leaves fewer of which it may be one.
    assert_eq!(check(&heads[3..10]).unwrap_err().entries(), Some(7..=7));
    let mut false_head = heads[9].clone();
    false_head.statement.root = Hash::of_nothing();
    assert!(matches!(check(&[false_head]), Err(Broken::Kept { size: 10, .. })));
}
