//! `log`: an audit log of many entries and everything that may be done to it, by somebody who has the
//! database and by somebody who has the coordinator's key as well. Each must be found offline, from an
//! export and the root (and, against the key, a head that a site has kept), and by a site at its next
//! heartbeat. Then the same with real programs.

mod book;
mod real;

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Instant;

use fedpaint_coordinator::evidence::verify::{Broken, Verified};
use fedpaint_proto::log::to_wire;
use fedpaint_proto::v1;
use fedpaint_site_agent::witness::{Doubt, Told, judge};
use fedpaint_tests::outcome::{Outcome, quantile, rounded};
use rand::RngExt;
use tonic_prost::prost::Message;

use self::book::{Book, KINDS, Kind, dice};
use crate::{Args, say};

/// Entries of the log where nobody says otherwise.
const ENTRIES: usize = 10_000;

/// The fewest entries with which every kind of attack has room.
const ENTRIES_MIN: usize = 50;

/// At how many places each kind is tried against an export: the first and the last entry among them.
const PLACES: usize = 8;

/// And against a site, which checks a proof and not the whole log.
const PLACES_SITE: usize = 50;

/// Proofs that are measured.
const PROOFS: usize = 1_000;

/// The longest proof, as it is encoded to be sent, and the longest time that checking may take for 99 of 100 proofs.
const PROOF_BYTES_MAX: usize = 1_024;
const PROOF_MS_MAX: f64 = 1.0;

/// From how many entries on a quantile that high is asked for.
const SIZE_FOR_P99: u64 = 10_000;

/// Runs the mode.
///
/// # Errors
/// If a program does not start.
pub(crate) async fn log(args: &Args, work: &Path) -> anyhow::Result<Outcome> {
    let entries = args.count.unwrap_or(ENTRIES).max(ENTRIES_MIN) as u64;
    let mut outcome = Outcome::default();
    outcome.set("entries", entries);
    let book = Book::new(entries)?;
    say(&format!("a log of {entries} entries"));
    let whole = book.check(&book.lines(), &book.heads);
    outcome.require(whole.is_ok(), || format!("the honest log is refused: {whole:?}"));
    offline(&book, args.seed, &mut outcome);
    at_a_site(&book, args.seed, &mut outcome)?;
    proofs(&book, args.seed, &mut outcome);
    real::real(work, &book, &mut outcome).await?;
    Ok(outcome)
}

/// How many attacks of a sort there were, and what became of them.
#[derive(Default)]
struct Tally {
    tried: u64,
    found: u64,
    named: u64,
    /// How many of those that are named are so as the very entry and no other.
    as_one: u64,
}

impl Tally {
    /// Takes note of what was told of an attack on an entry. It is named if the entry is among those that are
    /// told, and these are all `within` what can be known.
    fn note(
        &mut self,
        told: &Result<Verified, Broken>,
        place: u64,
        within: &RangeInclusive<u64>,
    ) -> Result<(), String> {
        self.tried += 1;
        let Err(broken) = told else { return Err("is not found".into()) };
        self.found += 1;
        let told = broken.entries();
        let named = told.as_ref().is_some_and(|named| {
            let known = within.contains(named.start()) && within.contains(named.end());
            known && named.contains(&place)
        });
        self.named += u64::from(named);
        self.as_one += u64::from(told == Some(place..=place));
        if named { Ok(()) } else { Err(format!("is told as: {broken}")) }
    }
}

/// Attacks on an export: by whoever can write files, and by whoever has the coordinator's key.
fn offline(book: &Book, seed: u64, outcome: &mut Outcome) {
    let (mut fitting, mut careless, mut anew) =
        (Tally::default(), Tally::default(), Tally::default());
    let started = Instant::now();
    let mut record = |how: &str, told: Result<(), String>| {
        outcome.require(told.is_ok(), || format!("{how} {}", told.err().unwrap_or_default()));
    };
    for kind in KINDS {
        for place in book.places(kind, PLACES, seed) {
            let how = |how: &str| format!("offline, {how}: {kind:?} at {place}");
            // Whatever is done at a place, what is there is the first that is not what was logged: it alone has to
            // be named. See `Kind`.
            let very = place..=place;
            // The entries as the attacker wants them, with hashes that fit; signatures stay as they were. Only the
            // head after it tells.
            let told = book.check(&book.rewritten(kind, place), &[]);
            record(&how("hashes fit"), fitting.note(&told, place, &very));
            // With the hashes as they were, of which a log that was cut has none that is wrong.
            if kind != Kind::Truncate {
                let told = book.check(&book.edited(kind, place), &[]);
                record(&how("hashes stay"), careless.note(&told, place, &very));
            }
            // Signed anew, all of it: only what somebody has kept tells. A site's head is over the place, and
            // tells no more than that it is not over this log.
            let kept = &book.heads[book.heads.len() - 2..];
            let told = book.check(&book.forged(kind, place).lines(), kept);
            record(&how("signed anew"), anew.note(&told, place, &(1..=book.size())));
            let kept_tells = matches!(told, Err(Broken::Fork { .. } | Broken::Short { .. }));
            let otherwise = || "is not told by what was kept".to_owned();
            record(&how("signed anew"), kept_tells.then_some(()).ok_or_else(otherwise));
        }
        say(&format!("offline: {kind:?} done after {:.0} s", started.elapsed().as_secs_f64()));
    }
    outcome.set("offline_attacks", fitting.tried + careless.tried);
    outcome.set("offline_found", fitting.found + careless.found);
    outcome.set("offline_named", fitting.named + careless.named);
    outcome.set("offline_named_as_one_entry", fitting.as_one + careless.as_one);
    outcome.set("signed_anew_attacks", anew.tried);
    outcome.set("signed_anew_found", anew.found);
}

/// A coordinator that rewrote its log answers the next heartbeat of a site.
fn at_a_site(book: &Book, seed: u64, outcome: &mut Outcome) -> anyhow::Result<()> {
    let (mut tried, mut found) = (0_u64, 0_u64);
    let mut dice = dice(seed, "site");
    for kind in KINDS {
        for place in book.places(kind, PLACES_SITE, seed) {
            // The site's last head is over the place that is rewritten.
            let kept = &book.heads[dice.random_range(book.head_over(place)..book.heads.len())];
            let forged = book.answering(kind, place);
            let size = kept.statement.size;
            let told = Told { head: forged.heads.last().cloned(), proof: forged.proof(size) };
            tried += 1;
            match judge(&book.authority, Some(kept), &told, book.now()) {
                Err(Doubt::CutShort { .. } | Doubt::Fork { .. }) => found += 1,
                other => outcome
                    .broken
                    .push(format!("a site at {size} takes {kind:?} at {place}: {other:?}")),
            }
        }
    }
    outcome.set("site_attacks", tried);
    outcome.set("site_found", found);
    // An honest log that has grown is believed from any head.
    let longer = Book::new(book.size() + 37)?;
    for place in [1, 2, book.size() / 2, book.size() - 1, book.size()] {
        let kept = &longer.heads[longer.head_over(place)];
        let size = kept.statement.size;
        let told = Told { head: longer.heads.last().cloned(), proof: longer.proof(size) };
        let judged = judge(&longer.authority, Some(kept), &told, longer.now());
        outcome.require(judged.is_ok(), || {
            format!("an honest log is doubted from {size}: {judged:?}")
        });
    }
    Ok(())
}

/// How long proofs are as they travel, and how long a site takes to check one.
fn proofs(book: &Book, seed: u64, outcome: &mut Outcome) {
    let mut dice = dice(seed, "proofs");
    let (mut bytes_max, mut answer_bytes_max, mut ms) = (0, 0, Vec::new());
    let head = book.heads.last();
    for _ in 0..PROOFS {
        let kept = &book.heads[dice.random_range(0..book.heads.len() - 1)];
        let old = kept.statement.size;
        let proof = book.proof(old);
        let log_consistency = proof.iter().map(|hash| hash.as_bytes().to_vec()).collect();
        let sent = v1::HeartbeatResponse { log_consistency, ..v1::HeartbeatResponse::default() };
        bytes_max = bytes_max.max(sent.encoded_len());
        let answer = v1::HeartbeatResponse { log_head: head.map(to_wire), ..sent };
        answer_bytes_max = answer_bytes_max.max(answer.encoded_len());
        let told = Told { head: head.cloned(), proof };
        let started = Instant::now();
        let judged = judge(&book.authority, Some(kept), &told, book.now());
        ms.push(started.elapsed().as_secs_f64() * 1e3);
        outcome.require(judged.is_ok(), || format!("an honest proof from {old} is refused"));
    }
    // The proof alone, and what a site hears with it: the head, its signature and whose certificate that is by.
    outcome.set("proof_bytes_max", bytes_max);
    outcome.set("proof_and_head_bytes_max", answer_bytes_max);
    outcome.set("proof_ms_p50", rounded(quantile(&ms, 0.5), 3));
    outcome.set("proof_ms_p99", rounded(quantile(&ms, 0.99), 3));
    outcome.require(bytes_max <= PROOF_BYTES_MAX, || format!("a proof has {bytes_max} bytes"));
    // What the tests run beside others tells how busy the machine is.
    let of = if book.size() < SIZE_FOR_P99 { 0.5 } else { 0.99 };
    let took = quantile(&ms, of);
    outcome.require(took <= PROOF_MS_MAX, || format!("a check takes {took:.3} ms (quantile {of})"));
}
