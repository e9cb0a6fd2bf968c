//! The same views as tables for people: units readable, times as distances from now.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use fedpaint_coordinator::evidence::verify::Verified;
use fedpaint_proto::note::ModelKind;
use jiff::Timestamp;

use crate::human::{NONE, ago, bytes, count, loss};
use crate::output::Show;
use crate::view::{
    Blob, Certificate, Exported, Late, LogExported, LogHead, Member, Missing, Model, Models, Round,
    Rounds, Run, RunNow, Runs, Site, Standing, Status,
};

mod members;

/// How many digits of a digest tell models apart.
const DIGEST_SHORT: usize = 12;

/// Rows under a header, columns two spaces apart; columns whose header ends in a space are numbers.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().map(|name| name.trim_end()));
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if header[index].ends_with(' ') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Names and values, one pair a line.
fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {value}");
    facts.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn or_none(text: Option<&str>) -> String {
    text.unwrap_or(NONE).to_owned()
}

/// A count, unless it is none.
fn or_zero(count: u32) -> String {
    if count == 0 { NONE.to_owned() } else { count.to_string() }
}

fn short(blob: Option<&Blob>) -> String {
    or_none(blob.and_then(|blob| blob.digest.get(..DIGEST_SHORT)))
}

fn size(blob: Option<&Blob>) -> String {
    blob.map_or(NONE.to_owned(), |blob| bytes(blob.size_bytes))
}

fn sites(sites: &[Site], now: Timestamp) -> String {
    if sites.is_empty() {
        return "no site is enrolled; `fedctl site invite NAME` makes a token for one".to_owned();
    }
    let row = |site: &Site| {
        let mut state = site.state.to_owned();
        if site.revoked_at.is_some() {
            state = format!("revoked {}", ago(now, site.revoked_at));
        }
        let version = or_none(site.agent_version.as_deref());
        let wire = site.wire_version.map_or(NONE.to_owned(), |version| version.to_string());
        let (seen, enrolled) = (ago(now, site.seen_at), ago(now, site.enrolled_at));
        let certificate = members::site_end(site.certificate_until, now);
        let signing = members::signing_end(site.signing_until, now);
        vec![site.name.clone(), state, seen, version, wire, enrolled, certificate, signing]
    };
    let header = ["SITE", "STATE", "SEEN", "AGENT", "WIRE ", "ENROLLED", "CERTIFICATE", "SIGNING"];
    table(&header, sites.iter().map(row))
}

fn runs(runs: &[Run], now: Timestamp) -> String {
    if runs.is_empty() {
        return "there is no run; `fedctl run create` starts one".to_owned();
    }
    let row = |run: &Run| {
        vec![
            run.name.clone(),
            run.state.to_owned(),
            format!("{}/{}", run.rounds_committed, run.rounds_planned),
            or_zero(run.rounds_short),
            short(run.model.as_ref()),
            ago(now, run.created_at),
            or_none(run.reason.as_deref()),
        ]
    };
    table(
        &["RUN", "STATE", "ROUNDS ", "SHORT ", "MODEL", "CREATED", "REASON"],
        runs.iter().map(row),
    )
}

/// The example-weighted mean loss of those who reported, or of those who train.
fn round_loss(round: &Round) -> String {
    let (mut sum, mut examples) = (0.0, 0.0);
    for member in &round.members {
        if let (Some(report), Some(weight)) = (&member.report, member.examples) {
            sum += report.loss_mean * weight as f64;
            examples += weight as f64;
        }
    }
    if examples > 0.0 { loss(sum / examples) } else { NONE.to_owned() }
}

pub(crate) fn round_summary(round: &Round) -> [String; 3] {
    let fresh: u64 = round.members.iter().filter_map(|m| m.examples).sum();
    let examples = fresh + round.late.iter().map(|late| late.examples).sum::<u64>();
    let sites = format!("{}/{}", round.counts.reported, round.counts.joined);
    [sites, count(examples), round_loss(round)]
}

fn rounds(rounds: &[Round], now: Timestamp) -> String {
    if rounds.is_empty() {
        return "there is no round yet".to_owned();
    }
    let row = |round: &Round| {
        let [sites, examples, loss] = round_summary(round);
        let ends = if round.closed_at.is_some() { round.closed_at } else { round.until };
        vec![
            format!("{}.{}", round.number, round.attempt),
            round.phase.to_owned(),
            sites,
            or_zero(round.counts.folded),
            or_zero(round.counts.withdrawn),
            or_zero(round.counts.missing),
            examples,
            bytes(round.update_bytes),
            loss,
            short(round.model.as_ref()),
            ago(now, ends),
            or_none(round.reason.as_deref()),
        ]
    };
    let header = [
        "ROUND",
        "PHASE",
        "REPORTED ",
        "LATE ",
        "WITHDREW ",
        "MISSING ",
        "EXAMPLES ",
        "UPDATES ",
        "LOSS ",
        "MODEL",
        "ENDS",
        "REASON",
    ];
    table(&header, rounds.iter().map(row))
}

fn members(members: &[Member]) -> String {
    let row = |member: &Member| {
        let (report, progress) = (member.report.as_ref(), member.progress.as_ref());
        let steps = match (report, progress) {
            (Some(report), _) => report.steps.to_string(),
            (None, Some(progress)) => format!("{}/{}", progress.step, progress.steps),
            (None, None) => NONE.to_owned(),
        };
        let mean = report.map(|r| r.loss_mean).or(progress.and_then(|p| p.loss));
        let fell = report.map(|r| format!("{} > {}", loss(r.loss_first), loss(r.loss_last)));
        let norms =
            report.map(|r| format!("{:.2}, {:.2}", r.gradient_norm_p50, r.gradient_norm_p99));
        vec![
            member.site.clone(),
            member.state.to_owned(),
            steps,
            member.examples.map_or(NONE.to_owned(), count),
            size(member.update.as_ref()),
            mean.map_or(NONE.to_owned(), loss),
            fell.unwrap_or(NONE.to_owned()),
            norms.unwrap_or(NONE.to_owned()),
            or_none(member.reason.as_deref()),
        ]
    };
    let header = [
        "SITE",
        "STATE",
        "STEPS ",
        "EXAMPLES ",
        "UPDATE ",
        "LOSS ",
        "FIRST > LAST QUARTER",
        "GRADIENT P50, P99",
        "REASON",
    ];
    table(&header, members.iter().map(row))
}

/// Whose update is not there, since when and why.
fn missing(missing: &[Missing], now: Timestamp) -> String {
    let row = |missing: &Missing| {
        let (since, heard) = (ago(now, missing.since), ago(now, missing.heard_at));
        vec![missing.site.clone(), missing.detail.clone(), since, heard]
    };
    table(&["MISSING", "WHY", "SINCE", "HEARD"], missing.iter().map(row))
}

/// How the updates of a round lie to each other.
fn standings(standings: &[Standing]) -> String {
    let row = |standing: &Standing| {
        let late = if standing.late { " (late)" } else { "" };
        let fate = match (standing.outlier, standing.excluded) {
            (None, _) => NONE,
            (Some(_), false) => "counted",
            (Some(_), true) => "quarantined",
        };
        vec![
            format!("{}{late}", standing.site),
            format!("{:.3e}", standing.norm),
            standing.cosine.map_or(NONE.to_owned(), |cosine| format!("{cosine:.3}")),
            standing.nearest_cosine.map_or(NONE.to_owned(), |nearest| format!("{nearest:.4}")),
            or_none(standing.outlier),
            fate.to_owned(),
        ]
    };
    let header = ["UPDATE", "NORM ", "COSINE ", "NEAREST ", "CAUSE", "SO IT WAS"];
    table(&header, standings.iter().map(row))
}

/// Late updates of earlier rounds that count in one.
fn late(late: &[Late]) -> String {
    let row = |late: &Late| {
        let round = format!("{}.{}", late.number, late.attempt);
        vec![late.site.clone(), round, late.staleness.to_string(), count(late.examples)]
    };
    table(&["LATE SITE", "OF ROUND", "ROUNDS LATE ", "EXAMPLES "], late.iter().map(row))
}

impl Show for Site {
    fn table(&self, now: Timestamp) -> String {
        sites(std::slice::from_ref(self), now)
    }
}

impl Show for Runs {
    fn table(&self, now: Timestamp) -> String {
        runs(&self.runs, now)
    }
}

impl Show for Run {
    fn table(&self, now: Timestamp) -> String {
        let readmitted = (!self.readmitted.is_empty()).then(|| self.readmitted.join(", "));
        let facts = facts(&[
            ("run", self.name.clone()),
            ("state", self.state.to_owned()),
            ("reason", or_none(self.reason.as_deref())),
            ("rounds", format!("{} of {}", self.rounds_committed, self.rounds_planned)),
            ("without every member", or_zero(self.rounds_short)),
            ("initial model", short(self.initial_model.as_ref())),
            ("model", short(self.model.as_ref())),
            ("size", size(self.model.as_ref())),
            ("created", ago(now, self.created_at)),
            ("plan signed by", or_none(self.plan_signer.as_deref())),
            ("readmitted", or_none(readmitted.as_deref())),
        ]);
        let indent = |line: &str| if line.is_empty() { "\n".into() } else { format!("\n  {line}") };
        let plan: String = self.plan_toml.trim_end().lines().map(indent).collect();
        format!("{facts}\nplan{plan}")
    }
}

impl Show for RunNow {
    fn table(&self, now: Timestamp) -> String {
        let run = self.run.table(now);
        match &self.round {
            Some(round) => format!("{run}\n\n{}", round.table(now)),
            None => run,
        }
    }
}

impl Show for Rounds {
    fn table(&self, now: Timestamp) -> String {
        rounds(&self.rounds, now)
    }
}

impl Show for Round {
    fn table(&self, now: Timestamp) -> String {
        let mut parts = vec![rounds(std::slice::from_ref(self), now)];
        if let Some(due) = self.due.filter(|_| self.phase == "reporting") {
            parts.push(format!("was due {}: an update still arrives", ago(now, Some(due))));
        }
        parts.push(match self.members.is_empty() {
            true => "no site is in it".to_owned(),
            false => members(&self.members),
        });
        if !self.late.is_empty() {
            parts.push(late(&self.late));
        }
        if !self.standings.is_empty() {
            parts.push(standings(&self.standings));
        }
        if !self.missing.is_empty() {
            parts.push(missing(&self.missing, now));
        }
        parts.join("\n\n")
    }
}

impl Show for Models {
    fn table(&self, now: Timestamp) -> String {
        let row = |model: &Model| {
            let (blob, created) = (model.blob.as_ref(), ago(now, model.created_at));
            let ema = short(model.ema.as_ref());
            vec![model.round.to_string(), short(blob), ema, size(blob), created]
        };
        table(&["ROUND ", "MODEL", "EMA", "SIZE ", "CREATED"], self.models.iter().map(row))
    }
}

impl Show for Exported {
    fn table(&self, now: Timestamp) -> String {
        let kind = match self.kind {
            ModelKind::Raw => "raw, as the round made it",
            ModelKind::Ema => "moving average (EMA)",
        };
        facts(&[
            ("run", self.run.clone()),
            ("round", self.round.to_string()),
            ("model", kind.to_owned()),
            ("digest", or_none(self.blob.as_ref().map(|blob| blob.digest.as_str()))),
            ("size", size(self.blob.as_ref())),
            ("created", ago(now, self.created_at)),
            ("file", self.file.clone()),
            ("manifest", or_none(self.manifest.as_deref())),
        ])
    }
}

impl Show for LogHead {
    fn table(&self, _: Timestamp) -> String {
        facts(&[
            ("file", self.file.clone()),
            ("entries", self.size.to_string()),
            ("root", self.root.clone()),
            ("signed", self.at.to_string()),
        ])
    }
}

impl Show for LogExported {
    fn table(&self, _: Timestamp) -> String {
        let LogExported { file, entries, bytes } = self;
        format!("{entries} entries, {bytes} bytes in {file}")
    }
}

impl Show for Verified {
    fn table(&self, now: Timestamp) -> String {
        facts(&[
            ("federation", self.federation.to_string()),
            ("entries", self.entries.to_string()),
            ("heads", self.heads.to_string()),
            ("updates", self.updates.to_string()),
            ("models", self.models.to_string()),
            ("root", self.root.to_string()),
            ("signed", format!("{}, {}", ago(now, Some(self.at)), self.at)),
            ("outcome", "whole: every entry is the one that was logged".to_owned()),
        ])
    }
}

impl Show for Certificate {
    fn table(&self, now: Timestamp) -> String {
        facts(&[
            ("identity", self.identity.clone()),
            ("certificate", self.certificate.clone()),
            ("key", self.key.clone()),
            ("root", self.ca.clone()),
            ("expires", format!("{}, {}", ago(now, Some(self.not_after)), self.not_after)),
        ])
    }
}

impl Show for Status {
    fn table(&self, now: Timestamp) -> String {
        let mut head = format!("federation {}, coordinator {}", self.federation, self.version);
        if !self.cryptography.is_empty() {
            head += &format!(", cryptography by {}", self.cryptography);
        }
        let certificates = members::expiries(&self.expiries, now);
        let mut parts = vec![head, certificates, sites(&self.sites, now), runs(&self.runs, now)];
        for round in &self.rounds {
            parts.push(format!("run {}\n{}", round.run, round.table(now)));
        }
        parts.join("\n\n")
    }
}

#[cfg(test)]
mod tests;
