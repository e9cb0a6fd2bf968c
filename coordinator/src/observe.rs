//! Brings those metrics up to date that follow from the state: from what the driver shows; and where a
//! count must not be lost when the coordinator starts again, from the rows at its start and then from what
//! the audit log says is new.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fedpaint_proto::identity::Role;
use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::credentials::signing_of;
use crate::driver::{EVENTS_MAX, Error, Handle};
use crate::metrics::{HolderLabel, Metrics, RoundLabels, RunLabel, RunLabels, SiteLabel};
use crate::run::State;
use crate::store::{EventRow, Outcomes};

/// Reads the state for the metrics, and what is new in the audit log.
#[derive(Debug)]
pub(crate) struct Observer {
    read: Mutex<Read>,
    /// Where the data lies.
    data: PathBuf,
}

/// How far the audit log was read.
#[derive(Debug, Default)]
struct Read {
    seq: u64,
    /// When aggregation began, by round; none of one that began before a start.
    aggregating: BTreeMap<String, Timestamp>,
}

impl Observer {
    /// An observer that takes over what the rows told when the coordinator started.
    pub(crate) fn new(outcomes: Outcomes, data: &Path, metrics: &Metrics) -> Observer {
        let Outcomes { committed, abandoned, seq } = outcomes;
        for (outcome, rounds) in [("committed", committed), ("abandoned", abandoned)] {
            metrics.rounds.get_or_create(&RoundLabels { outcome }).inc_by(rounds);
        }
        Observer { read: Mutex::new(Read { seq, ..Read::default() }), data: data.to_owned() }
    }

    /// Brings the metrics up to date. Giving up in between loses nothing.
    ///
    /// # Errors
    /// If the audit log does not read.
    pub(crate) async fn observe(&self, driver: &Handle, metrics: &Metrics) -> Result<(), Error> {
        show_state(driver, metrics);
        show_disk(&self.data, metrics).await;
        let mut read = self.read.lock().await;
        loop {
            let events = driver.events(read.seq, EVENTS_MAX).await?;
            for event in &events {
                read.count(event, metrics);
            }
            if events.len() < EVENTS_MAX as usize {
                return Ok(());
            }
        }
    }
}

fn show_state(driver: &Handle, metrics: &Metrics) {
    for run in driver.runs() {
        let name = run.name.to_string();
        let now = match run.state {
            State::Active => "active",
            State::Paused { .. } => "paused",
            State::Finished => "finished",
            State::Stopped => "stopped",
        };
        for state in ["active", "paused", "finished", "stopped"] {
            let labels = RunLabels { run: name.clone(), state };
            metrics.run_state.get_or_create(&labels).set((state == now).into());
        }
        let label = RunLabel { run: name };
        metrics.run_rounds_committed.get_or_create(&label).set(run.rounds_committed.into());
    }
    let (averages, database) = driver.failing();
    metrics.averages_failing.set(i64::try_from(averages).unwrap_or(i64::MAX));
    metrics.database_failing.set(database.into());
    // Nobody waits for a site that is out.
    metrics.site_seen.clear();
    let mut enrolled = 0;
    for site in driver.sites() {
        enrolled += i64::from(site.revoked_at.is_none());
        if let Some(seen_at) = site.seen_at.filter(|_| site.revoked_at.is_none()) {
            let label = SiteLabel { site: site.name.to_string() };
            metrics.site_seen.get_or_create(&label).set(seen_at.as_second());
        }
        let holder = Role::Site(site.name.clone());
        if let Some(until) = site.certificate_until {
            show_end(metrics, holder.to_string(), until);
        }
        if let Some(until) = site.signing_until {
            show_end(metrics, signing_of(&holder), until);
        }
    }
    metrics.sites_enrolled.set(enrolled);
}

/// Shows how much room there is where the data lies; where the system does not say, what it said last.
async fn show_disk(data: &Path, metrics: &Metrics) {
    let data = data.to_owned();
    let found = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&data)).await;
    let Ok(Ok(found)) = found else { return };
    let bytes =
        |blocks: u64| i64::try_from(blocks.saturating_mul(found.f_frsize)).unwrap_or(i64::MAX);
    metrics.disk_free.set(bytes(found.f_bavail));
    metrics.disk_size.set(bytes(found.f_blocks));
}

/// Shows when a certificate ends.
pub(crate) fn show_end(metrics: &Metrics, holder: String, until: Timestamp) {
    metrics.certificate_end.get_or_create(&HolderLabel { holder }).set(until.as_second());
}

impl Read {
    fn count(&mut self, event: &EventRow, metrics: &Metrics) {
        self.seq = event.seq;
        // The round stands before the first colon; here it only tells rounds apart.
        let round = event.detail.split(':').next().unwrap_or_default();
        let outcome = match event.kind.as_str() {
            "round_aggregating" => {
                self.aggregating.insert(round.to_owned(), event.at);
                return;
            }
            "site_doubts" => {
                metrics.site_doubts.inc();
                return;
            }
            "round_committed" => "committed",
            "round_abandoned" => "abandoned",
            _ => return,
        };
        metrics.rounds.get_or_create(&RoundLabels { outcome }).inc();
        if let Some(began) = self.aggregating.remove(round) {
            metrics.aggregation.observe(event.at.duration_since(began).as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Book;

    #[test]
    fn rounds_are_counted_by_outcome_and_their_aggregation_is_timed() {
        let book = Book::new();
        let before = Outcomes { committed: 40, abandoned: 2, seq: 90 };
        let mut read = Observer::new(before, Path::new("/"), &book.metrics).read.into_inner();
        assert_eq!(read.seq, 90);
        let events = [
            ("round_opened", "round t1/1.1: base model 0", 0),
            ("round_aggregating", "round t1/1.1", 10),
            ("round_aggregating", "round t2/1.1", 11),
            ("round_committed", "round t1/1.1: model 1", 14),
            ("round_abandoned", "round t2/1.1: too few updates", 15),
            ("round_abandoned", "round t2/1.2: too few sites", 16),
            ("site_doubts", "site mayo: the log is a fork", 17),
        ];
        for (seq, (kind, detail, second)) in (91..).zip(events) {
            let at = Timestamp::from_second(second).unwrap();
            let (kind, detail) = (kind.to_owned(), detail.to_owned());
            let actor = "coordinator".into();
            let event = EventRow { seq, at, actor, kind, detail, document: None };
            read.count(&event, &book.metrics);
        }
        assert_eq!(read.seq, 97);
        let text = book.text().unwrap();
        for line in [
            "fedpaint_rounds_total{outcome=\"committed\"} 41",
            "fedpaint_rounds_total{outcome=\"abandoned\"} 4",
            "fedpaint_site_doubts_total 1",
            "fedpaint_aggregation_seconds_sum 8.0",
            "fedpaint_aggregation_seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
