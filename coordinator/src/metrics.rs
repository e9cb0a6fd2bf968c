//! Every metric's name and meaning. Sites and runs are labels; nothing about a patient can be one.

use fedpaint_proto::reason::Reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The labels of a count of rounds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RoundLabels {
    /// How the round ended: committed or abandoned.
    pub(crate) outcome: &'static str,
}

/// The labels of the state of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RunLabels {
    /// The run.
    pub(crate) run: String,
    /// Active, paused, finished or stopped.
    pub(crate) state: &'static str,
}

/// The label of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RunLabel {
    /// The run.
    pub(crate) run: String,
}

/// The label of a site.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SiteLabel {
    /// The site.
    pub(crate) site: String,
}

/// The label of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HolderLabel {
    /// `root`, `issuing authority`, `coordinator/main`, `site/mayo`, and what either signs with: `site/mayo, signing`.
    pub(crate) holder: String,
}

/// The label of a handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PeerLabel {
    /// Who the other end would have been: `member` or `stranger`.
    pub(crate) peer: &'static str,
}

/// The other end of a handshake by which a member connects, and of one by which a site would join.
pub(crate) const PEERS: [PeerLabel; 2] =
    [PeerLabel { peer: "member" }, PeerLabel { peer: "stranger" }];

/// The label of a refused update.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    /// Why, as the site was told.
    pub(crate) reason: &'static str,
}

/// Everything that is counted. Clones count into the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Rounds that ended. Read from the audit log, so it goes on where it was after a restart.
    pub(crate) rounds: Family<RoundLabels, Counter>,
    /// 1 for the state a run is in.
    pub(crate) run_state: Family<RunLabels, Gauge>,
    /// How many rounds of a run are committed.
    pub(crate) run_rounds_committed: Family<RunLabel, Gauge>,
    /// When a site that is in last asked since this start, in seconds since 1970.
    pub(crate) site_seen: Family<SiteLabel, Gauge>,
    /// When a certificate ends, in seconds since 1970.
    pub(crate) certificate_end: Family<HolderLabel, Gauge>,
    /// Enrolled sites that are not revoked.
    pub(crate) sites_enrolled: Gauge,
    /// Heartbeats answered.
    pub(crate) heartbeats: Counter,
    /// Updates accepted.
    pub(crate) updates_accepted: Counter,
    /// Updates refused, by reason.
    pub(crate) updates_refused: Family<ReasonLabel, Counter>,
    /// Uploads that were told to come again.
    pub(crate) uploads_put_off: Counter,
    /// Bytes of blobs taken in.
    pub(crate) bytes_in: Counter,
    /// Bytes of blobs given out.
    pub(crate) bytes_out: Counter,
    /// Blobs that were deleted because nobody needs them.
    pub(crate) blobs_freed: Counter,
    /// Their bytes.
    pub(crate) bytes_freed: Counter,
    /// How long averaging the updates of a round took.
    pub(crate) aggregation: Histogram,
    /// Rounds whose average failed and is begun again.
    pub(crate) averages_failing: Gauge,
    /// 1 while the database takes nothing.
    pub(crate) database_failing: Gauge,
    /// Bytes that are free where the data lies.
    pub(crate) disk_free: Gauge,
    /// Bytes that there are.
    pub(crate) disk_size: Gauge,
    /// Things that sites have said they do not believe of the audit log.
    pub(crate) site_doubts: Counter,
    /// Handshakes that the other end has ended because it does not believe the coordinator's certificate.
    pub(crate) handshakes_distrusted: Family<PeerLabel, Counter>,
}

/// The metrics and the registry that prints them.
#[derive(Debug)]
pub(crate) struct Book {
    /// What the services count into.
    pub(crate) metrics: Metrics,
    registry: Registry,
}

impl Metrics {
    fn new() -> Metrics {
        Metrics {
            rounds: Family::default(),
            run_state: Family::default(),
            run_rounds_committed: Family::default(),
            site_seen: Family::default(),
            certificate_end: Family::default(),
            sites_enrolled: Gauge::default(),
            heartbeats: Counter::default(),
            updates_accepted: Counter::default(),
            updates_refused: Family::default(),
            uploads_put_off: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            blobs_freed: Counter::default(),
            bytes_freed: Counter::default(),
            // From a tiny model on a laptop to a large one from a hundred sites.
            aggregation: Histogram::new([0.01, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0, 300.0, 1_200.0]),
            averages_failing: Gauge::default(),
            database_failing: Gauge::default(),
            disk_free: Gauge::default(),
            disk_size: Gauge::default(),
            site_doubts: Counter::default(),
            handshakes_distrusted: Family::default(),
        }
    }

    /// Counts an update that was refused.
    pub(crate) fn refused(&self, reason: Reason) {
        self.updates_refused.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }
}

impl Book {
    /// Every metric at nought.
    pub(crate) fn new() -> Book {
        let metrics = Metrics::new();
        // A rise from nought is seen only where nought was.
        PEERS.iter().for_each(|peer| drop(metrics.handshakes_distrusted.get_or_create(peer)));
        let mut registry = Registry::with_prefix("fedpaint");
        let r = &mut registry;
        let m = metrics.clone();
        r.register("rounds", "Rounds that ended, by outcome", m.rounds);
        r.register("run_state", "1 for the state a run is in", m.run_state);
        r.register("run_rounds_committed", "Committed rounds of a run", m.run_rounds_committed);
        r.register_with_unit(
            "site_seen_timestamp",
            "When a site last asked for work, since 1970",
            Unit::Seconds,
            m.site_seen,
        );
        r.register_with_unit(
            "certificate_end_timestamp",
            "When a certificate ends, since 1970; alarm where it is near",
            Unit::Seconds,
            m.certificate_end,
        );
        r.register("sites_enrolled", "Sites that are enrolled and not revoked", m.sites_enrolled);
        r.register("heartbeats", "Heartbeats of sites that were answered", m.heartbeats);
        r.register("updates_accepted", "Updates of sites that were accepted", m.updates_accepted);
        r.register("updates_refused", "Updates that were refused, by reason", m.updates_refused);
        r.register("uploads_put_off", "Uploads that were told to come again", m.uploads_put_off);
        r.register_with_unit("blob_in", "Blobs taken in", Unit::Bytes, m.bytes_in);
        r.register_with_unit("blob_out", "Blobs given out", Unit::Bytes, m.bytes_out);
        r.register("blobs_freed", "Blobs deleted because nobody needs them", m.blobs_freed);
        r.register_with_unit("blob_freed", "Bytes of those", Unit::Bytes, m.bytes_freed);
        r.register_with_unit(
            "aggregation",
            "Averaging the updates of one round",
            Unit::Seconds,
            m.aggregation,
        );
        register_alarms(r, &metrics);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The coordinator that runs", version);
        Book { metrics, registry }
    }

    /// The OpenMetrics text of everything.
    ///
    /// # Errors
    /// Never in practice: writing into a text does not fail.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What is there for the rules in `deploy/prometheus` alone.
fn register_alarms(r: &mut Registry, metrics: &Metrics) {
    let m = metrics.clone();
    let what = "Rounds whose average failed and is begun again";
    r.register("averages_failing", what, m.averages_failing);
    r.register("database_failing", "1 while the database takes nothing", m.database_failing);
    let what = "What is free where the data lies";
    r.register_with_unit("disk_free", what, Unit::Bytes, m.disk_free);
    r.register_with_unit("disk_size", "What there is, free or not", Unit::Bytes, m.disk_size);
    let what = "Things that sites do not believe of the audit log";
    r.register("site_doubts", what, m.site_doubts);
    let what =
        "Handshakes that the other end has ended because it does not believe the certificate";
    r.register("handshakes_distrusted", what, m.handshakes_distrusted);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_printed_with_its_meaning() {
        let book = Book::new();
        book.metrics.refused(Reason::NotFinite);
        book.metrics.heartbeats.inc();
        let labels = RoundLabels { outcome: "committed" };
        book.metrics.rounds.get_or_create(&labels).inc();
        let text = book.text().unwrap();
        for line in [
            "fedpaint_updates_refused_total{reason=\"NOT_FINITE\"} 1",
            "fedpaint_heartbeats_total 1",
            "fedpaint_rounds_total{outcome=\"committed\"} 1",
            "# HELP fedpaint_blob_in_bytes Blobs taken in",
            concat!("fedpaint_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
