//! What must hold of a simulated federation, checked at every save, at every answer and at the end.
//! It only looks; the list is in the module's head.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use fedpaint_coordinator::driver::core::Core;
use fedpaint_coordinator::records::Change;
use fedpaint_coordinator::round::{Member, Phase, Round, Update};
use fedpaint_coordinator::run::{Directive, Late, Run};
use fedpaint_proto::names::{Blob, Digest, RoundId, SiteName};
use jiff::Timestamp;

use super::database::Database;
use super::disk::Disk;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// An update whose receipt was given is lost.
    Acknowledged,
    /// A model is not made of exactly its round's updates, or an update is in two.
    CountedOnce,
    /// The models are no chain.
    OneChain,
    /// A round, a count or the audit log went back, or what was shown was not saved.
    Heads,
    /// Something happened in a phase whose deadline had come.
    TimeFirst,
    /// Something of a site that had been revoked was sealed.
    LetIn,
    /// A row names a blob that is not there, or not whole.
    NamedBlobs,
    /// Nothing goes on any more.
    Liveness,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub invariant: Invariant,
    /// How.
    pub detail: String,
}

/// A contribution to a model: whose, for which round, what, how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Whose.
    pub site: SiteName,
    /// For which round it was trained.
    pub number: u32,
    /// The update.
    pub digest: Digest,
    /// The examples it saw.
    pub examples: u64,
}

/// What was promised and what came of it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The first invariant that was broken.
    pub broken: Option<Broken>,
    /// Attempts at rounds that were opened.
    pub attempts: u64,
    /// The receipts that were given, by round.
    receipts: BTreeMap<RoundId, BTreeMap<SiteName, Digest>>,
    /// The initial model and those of the rounds.
    chain: Vec<Blob>,
    /// What is in a model: whose update for which round.
    counted: BTreeSet<(SiteName, u32)>,
    /// What of it came late.
    folded: BTreeSet<(RoundId, SiteName)>,
    /// The newest round and attempt that was saved.
    head: (u32, u32),
    /// Who is shut out.
    revoked: BTreeSet<SiteName>,
}

/// The text of the model that a round makes.
pub fn model_text(number: u32, base: &Digest, parts: &[Part]) -> String {
    let mut text = format!("model {number}\nbase {base}\n");
    for Part { site, number, digest, examples } in parts {
        // Writing to a text does not fail.
        let _ = writeln!(text, "in {site} {number} {digest} {examples}");
    }
    text
}

/// What a round's row is sealed with: its updates in the order of the sites' names, then what came
/// late for earlier rounds, likewise.
pub fn sealed_set(round: &Round) -> Vec<Part> {
    let part = |site: &SiteName, number, update: &Update| {
        let (site, digest) = (site.clone(), update.weights.digest);
        Part { site, number, digest, examples: update.examples }
    };
    let number = round.id().number;
    let member = |(site, member): (&SiteName, &Member)| match member {
        Member::Reported(update) => Some(part(site, number, update)),
        _ => None,
    };
    let mut parts: Vec<Part> = round.members().iter().filter_map(member).collect();
    let late = round.late().iter();
    parts.extend(late.map(|(site, late)| part(site, late.round.number, &late.update)));
    parts
}

/// The blobs that a round's row names and that are still wanted.
pub fn named_by(round: &Round) -> Vec<Blob> {
    let mut named = Vec::new();
    match round.phase() {
        Phase::Abandoned { .. } => return named,
        Phase::Committed(made) => named.extend(made.parts().copied()),
        _ => {}
    }
    let update = |member: &Member| match member {
        Member::Reported(update) => Some(update.weights),
        _ => None,
    };
    named.extend(round.members().values().filter_map(update));
    named.extend(round.late().values().map(|late| late.update.weights));
    named
}

impl Ledger {
    /// Notes a broken invariant; the first one counts.
    pub fn broke(&mut self, invariant: Invariant, detail: String) {
        if self.broken.is_none() {
            self.broken = Some(Broken { invariant, detail });
        }
    }

    /// Rounds that were committed.
    pub fn committed(&self) -> u64 {
        self.chain.len().saturating_sub(1) as u64
    }

    /// Looks at a change that was saved at `now`.
    pub fn saved(&mut self, change: &Change<'_>, database: &Database, disk: &Disk, now: Timestamp) {
        for (before, after) in &change.runs {
            self.heads(*before, after);
            let round = after.round();
            let held = before.map(Run::round).filter(|held| held.id() == round.id());
            if let Some(held) = held {
                self.in_time(held, round, now);
            }
            if *round.phase() == Phase::Aggregating
                && held.is_none_or(|held| *held.phase() != Phase::Aggregating)
            {
                self.let_in(round);
            }
            for blob in named_by(round) {
                self.is_there(&blob, disk);
            }
            let newly = !held.is_some_and(|held| matches!(held.phase(), Phase::Committed(_)));
            if let Phase::Committed(made) = round.phase()
                && newly
            {
                self.sealed(round, made.model, database, disk);
            }
            if after.model().digest != self.chain.last().map_or(after.initial(), |m| *m).digest {
                let (model, count) = (after.model().digest.short(), self.committed());
                self.broke(
                    Invariant::OneChain,
                    format!("the run's model is {model}, not that of round {count}"),
                );
            }
        }
        for site in &change.sites {
            match site.revoked_at {
                Some(_) => self.revoked.insert(site.name.clone()),
                None => self.revoked.remove(&site.name),
            };
        }
    }

    /// A round was sealed. Whoever is revoked in the same change was so after a deadline that had come.
    fn let_in(&mut self, round: &Round) {
        for Part { site, number, .. } in sealed_set(round) {
            if self.revoked.contains(&site) {
                let detail = format!(
                    "round {}: {site} is shut out, and its update for round {number} is sealed",
                    round.id()
                );
                self.broke(Invariant::LetIn, detail);
            }
        }
    }

    fn heads(&mut self, before: Option<&Run>, after: &Run) {
        if before.is_none() {
            self.chain = vec![after.initial()];
        }
        let id = after.round().id();
        let head = (id.number, id.attempt);
        self.attempts += u64::from(head != self.head);
        if head < self.head {
            self.broke(Invariant::Heads, format!("round {id} after {:?}", self.head));
        }
        self.head = head;
        let known = self.committed();
        let committing = matches!(after.round().phase(), Phase::Committed(_));
        let expected = [known, known + u64::from(committing)];
        if !expected.contains(&u64::from(after.committed())) {
            let committed = after.committed();
            self.broke(Invariant::Heads, format!("{committed} rounds committed after {known}"));
        }
    }

    fn in_time(&mut self, before: &Round, after: &Round, now: Timestamp) {
        for (site, member) in after.members() {
            if before.members().get(site) == Some(member) {
                continue;
            }
            let late = match (before.phase(), member) {
                (Phase::Selecting { until }, Member::Joined)
                | (Phase::Reporting { until }, Member::Reported(_)) => *until <= now,
                _ => false,
            };
            if late {
                let detail = format!("round {}: {site} was let in at {now}, too late", after.id());
                self.broke(Invariant::TimeFirst, detail);
            }
        }
    }

    fn is_there(&mut self, blob: &Blob, disk: &Disk) {
        let digest = blob.digest.short();
        if disk.is_damaged(&blob.digest) {
            return;
        }
        if disk.read(&blob.digest).is_none() {
            self.broke(Invariant::NamedBlobs, format!("a row names {digest}, which is not there"));
        } else if disk.read_whole(&blob.digest).is_none() {
            self.broke(Invariant::NamedBlobs, format!("a row names {digest}, which is not whole"));
        }
    }

    /// A round was committed: its model is made of what its row says.
    fn sealed(&mut self, round: &Round, model: Blob, database: &Database, disk: &Disk) {
        let (id, parts) = (round.id(), sealed_set(round));
        let text = model_text(id.number, &round.base().digest, &parts);
        if Digest::of(text.as_bytes()) != model.digest {
            let found = disk.read(&model.digest).map(String::from_utf8_lossy);
            let detail = format!("round {id}: the model is {found:?}, the row says {text:?}");
            self.broke(Invariant::CountedOnce, detail);
        }
        for Part { site, number, .. } in &parts {
            if !self.counted.insert((site.clone(), *number)) {
                let detail = format!("round {id}: {site} counts a second time");
                self.broke(Invariant::CountedOnce, detail);
            }
        }
        let late = round.late().iter().map(|(site, late)| (late.round.clone(), site.clone()));
        self.folded.extend(late);
        let newest = self.chain.last().map(|blob| blob.digest);
        if newest != Some(round.base().digest) || self.chain.len() != id.number as usize {
            let detail = format!("round {id} begins from {}", round.base().digest.short());
            self.broke(Invariant::OneChain, detail);
        }
        self.chain.push(model);
        self.receipts_kept(round, database);
    }

    /// Every receipt for a round is in its row, or in that of who came late, unless the round was
    /// abandoned or the site revoked.
    fn receipts_kept(&mut self, round: &Round, database: &Database) {
        use fedpaint_coordinator::round::Withdrawal::Revoked;
        let receipts = self.receipts.get(round.id()).cloned().unwrap_or_default();
        for (site, digest) in receipts {
            let kept = match round.members().get(&site) {
                Some(Member::Reported(update)) => update.weights.digest == digest,
                Some(Member::Withdrawn(Revoked)) => true,
                _ if matches!(round.phase(), Phase::Abandoned { .. }) => true,
                _ => {
                    let late = database.straggler(round.id(), &site);
                    late.and_then(|late| late.late.taken())
                        .is_some_and(|update| update.weights.digest == digest)
                }
            };
            if !kept {
                let detail = format!("round {}: the update of {site} is lost", round.id());
                self.broke(Invariant::Acknowledged, detail);
            }
        }
    }

    /// A receipt was given.
    pub fn receipt(&mut self, round: &RoundId, site: &SiteName, digest: Digest) {
        self.receipts.entry(round.clone()).or_default().insert(site.clone(), digest);
    }

    /// A site is told what to do.
    pub fn told(&mut self, site: &SiteName, directive: &Directive, database: &Database) {
        let (Directive::Join { round, .. } | Directive::Train { round, .. }) = directive else {
            return;
        };
        if database.round(round).is_none() {
            self.broke(Invariant::Heads, format!("{site} hears of round {round}, unsaved"));
        }
        let acknowledged = self.receipts.get(round).is_some_and(|all| all.contains_key(site));
        if acknowledged && matches!(directive, Directive::Train { .. }) {
            let detail = format!("{site} is to train round {round} again");
            self.broke(Invariant::Acknowledged, detail);
        }
    }

    /// The coordinator was started over what it had saved.
    pub fn restarted(&mut self, core: &Core, database: &Database, disk: &Disk) {
        for run in core.state().runs() {
            let id = run.round().id();
            let committed = u64::from(run.committed());
            if (id.number, id.attempt) != self.head || committed != self.committed() {
                let detail = format!("starts with round {id} after {:?}", self.head);
                self.broke(Invariant::Heads, detail);
            }
        }
        self.all_there(database, disk);
    }

    /// Every blob that a row names is there and whole.
    pub fn all_there(&mut self, database: &Database, disk: &Disk) {
        for blob in database.named() {
            self.is_there(&blob, disk);
        }
    }

    /// The history has ended.
    pub fn ended(&mut self, database: &Database, disk: &Disk) {
        self.all_there(database, disk);
        for round in database.rounds() {
            let id = round.id();
            if !round.is_over() && (id.number, id.attempt) != self.head {
                self.broke(Invariant::Heads, format!("round {id} never ended, another began"));
            }
            self.receipts_kept(round, database);
        }
        for (site, straggler) in database.stragglers() {
            let id = &straggler.round;
            let folded = self.folded.contains(&(id.clone(), site.clone()));
            if folded != matches!(straggler.late, Late::Folded(_)) {
                let detail = format!("{site}, late for round {id}, is {:?}", straggler.late);
                self.broke(Invariant::CountedOnce, detail);
            }
        }
    }
}
