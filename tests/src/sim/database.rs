//! The coordinator's database, as a model: rows of plain values. A save is all or nothing and lasts;
//! loading goes the way the real store goes.

use std::collections::BTreeMap;

use fedpaint_coordinator::aggregate::Aggregate;
use fedpaint_coordinator::records::{Change, Loaded, Log, SiteRow};
use fedpaint_coordinator::round::{Phase, Round};
use fedpaint_coordinator::run::{Late, Run, Saved, Straggler};
use fedpaint_proto::names::{Blob, RoundId, RunName, SiteName};
use jiff::Timestamp;

use super::world::Bug;

/// The database.
#[derive(Debug, Default)]
pub struct Database {
    /// So many saves fail from now on.
    pub failing: u64,
    /// So many saves happen from now on and are said to have failed.
    pub doubtful: u64,
    bug: Option<Bug>,
    sites: BTreeMap<SiteName, SiteRow>,
    runs: BTreeMap<RunName, Saved>,
    rounds: BTreeMap<(RunName, u32, u32), Round>,
    stragglers: BTreeMap<(RoundId, SiteName), Straggler>,
    log: Log,
}

/// Why nothing was saved.
#[derive(Debug)]
pub enum Fault {
    /// The database fails.
    Failed,
    /// The change was saved, and nobody knows: the connection broke before it was told.
    Doubt,
    /// An audit entry would be written twice, or one is missing.
    Gap {
        /// The newest entry there is.
        newest: u64,
        /// The entry that was to be written.
        found: u64,
    },
    /// The nodes of the log's tree are not those over its entries.
    Nodes {
        /// How many entries it was to have.
        size: u64,
    },
}

impl Database {
    /// An empty one, which loads otherwise than it saved where the bug wants it.
    pub fn new(bug: Option<Bug>) -> Database {
        Database { bug, ..Database::default() }
    }

    /// Saves a change, all or nothing.
    ///
    /// # Errors
    /// If it fails; then nothing was saved, except for [`Fault::Doubt`].
    pub fn save(&mut self, change: &Change<'_>) -> Result<(), Fault> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(Fault::Failed);
        }
        let mut log = self.log.clone();
        let mut nodes = Vec::new();
        for event in &change.events {
            let newest = log.tree.size();
            if event.seq != newest + 1 {
                return Err(Fault::Gap { newest, found: event.seq });
            }
            nodes.extend(log.push(event));
        }
        if nodes != change.nodes {
            return Err(Fault::Nodes { size: log.tree.size() });
        }
        self.log = log;
        for site in &change.sites {
            self.sites.insert(site.name.clone(), (*site).clone());
        }
        for (_, run) in &change.runs {
            self.runs.insert(run.name().clone(), row(run));
            let id = run.round().id();
            self.rounds.insert((id.run.clone(), id.number, id.attempt), run.round().clone());
            for (site, straggler) in run.stragglers() {
                let key = (straggler.round.clone(), site.clone());
                self.stragglers.insert(key, straggler.clone());
            }
        }
        if self.doubtful > 0 {
            self.doubtful -= 1;
            return Err(Fault::Doubt);
        }
        Ok(())
    }

    /// Everything a coordinator needs when it starts. What the newest round kept beside its model is
    /// told by that round's row, as in the real store.
    pub fn load(&self) -> Loaded {
        let run = |saved: &Saved| {
            let kept = self.rounds.values().find_map(|round| match round.phase() {
                Phase::Committed(made) if round.id().number == saved.committed => Some(*made),
                _ => None,
            });
            let model = match self.bug {
                Some(Bug::ForgetModel) => saved.initial,
                _ => saved.newest.model,
            };
            let newest = Aggregate { model, ..kept.unwrap_or(saved.newest) };
            let newest_round = self.rounds.values().next_back()?;
            Some(Run::restore(Saved { newest, ..saved.clone() }, newest_round.clone()))
        };
        let mut runs: Vec<Run> = self.runs.values().filter_map(run).collect();
        runs.sort_by(|a, b| (a.created_at(), a.name()).cmp(&(b.created_at(), b.name())));
        let mut sites: Vec<SiteRow> = self.sites.values().cloned().collect();
        if self.bug == Some(Bug::ForgetRevoked) {
            sites.iter_mut().for_each(|site| site.revoked_at = None);
        }
        Loaded { sites, runs, log: self.log.clone(), ..Loaded::default() }
    }

    /// The audit log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// When a site was revoked, if it is.
    pub fn revoked_at(&self, site: &SiteName) -> Option<Timestamp> {
        self.sites.get(site)?.revoked_at
    }

    /// A round's row.
    pub fn round(&self, id: &RoundId) -> Option<&Round> {
        self.rounds.get(&(id.run.clone(), id.number, id.attempt))
    }

    /// The row of a member that had not reported when its round was sealed.
    pub fn straggler(&self, id: &RoundId, site: &SiteName) -> Option<&Straggler> {
        self.stragglers.get(&(id.clone(), site.clone()))
    }

    /// The rows of all who came late, or may.
    pub fn stragglers(&self) -> impl Iterator<Item = (&SiteName, &Straggler)> {
        self.stragglers.iter().map(|((_, site), straggler)| (site, straggler))
    }

    /// Every round's row, oldest first.
    pub fn rounds(&self) -> impl Iterator<Item = &Round> {
        self.rounds.values()
    }

    /// The one run's row.
    pub fn run(&self) -> Option<&Saved> {
        self.runs.values().next()
    }

    /// Every blob that a row names: those of an abandoned round's updates are not wanted any more.
    pub fn named(&self) -> Vec<Blob> {
        let mut named: Vec<Blob> = self.runs.values().map(|run| run.initial).collect();
        for round in self.rounds.values() {
            named.extend(super::ledger::named_by(round));
        }
        for straggler in self.stragglers.values() {
            // One that was accepted and then dropped is not wanted any more; one that was dropped before it came
            // is kept.
            let dropped = matches!(straggler.late, Late::Dropped { .. });
            let wanted = !dropped || straggler.late.taken().is_none();
            named.extend(straggler.late.update().filter(|_| wanted).map(|update| update.weights));
        }
        named
    }
}

/// A run's row: what is kept beside the newest model is not in it.
fn row(run: &Run) -> Saved {
    Saved {
        name: run.name().clone(),
        plan: run.signed_plan().clone(),
        initial: run.initial(),
        created_at: run.created_at(),
        state: run.state().clone(),
        newest: Aggregate::of(run.model()),
        committed: run.committed(),
        failures: run.failures(),
        stragglers: run.stragglers().map(|(site, s)| (site.clone(), s.clone())).collect(),
        tally: run.tally().clone(),
        readmitted: run.readmitted().clone(),
        resumed_from: run.resumed_from(),
    }
}
