//! The figures, as a table for people and one line of JSON for programs.

use anyhow::Context;
use comfy_table::{Table, presets};
use fedpaint_tests::outcome::{quantile, rounded};
use serde_json::json;

use crate::federation::Processes;
use crate::floor::Floor;
use crate::machine::Machine;
use crate::phases::Round;

/// Everything that was measured.
pub(crate) struct Report {
    pub(crate) sites: usize,
    /// The model's size.
    pub(crate) bytes: usize,
    /// Every round, the cold one first.
    pub(crate) rounds: Vec<Round>,
    pub(crate) processes: Processes,
    pub(crate) floor: Floor,
    pub(crate) machine: Machine,
}

/// A part of a round.
type Part = fn(&Round) -> f64;

/// The parts of a round, by name.
const PARTS: [(&str, Part); 7] = [
    ("join", |r| r.join),
    ("download", |r| r.download),
    ("train", |r| r.train),
    ("upload", |r| r.upload),
    ("verify", |r| r.verify),
    ("aggregate", |r| r.aggregate),
    ("publish", |r| r.publish),
];

impl Report {
    fn warm(&self) -> &[Round] {
        self.rounds.get(1..).unwrap_or_default()
    }

    /// The median over warm rounds.
    fn median(&self, of: Part) -> f64 {
        quantile(&self.warm().iter().map(of).collect::<Vec<_>>(), 0.5)
    }

    /// As many bytes as all sites take or give in a round, in so many seconds, as MB a second.
    fn rate(&self, seconds: f64) -> f64 {
        crate::machine::rate(self.bytes * self.sites, seconds)
    }

    /// What programs read, on one line.
    ///
    /// # Errors
    /// If no round was warm.
    pub(crate) fn json(&self) -> anyhow::Result<String> {
        let Report { sites, bytes, rounds, processes: p, floor, machine } = self;
        let cold = rounds.first().context("a round")?;
        anyhow::ensure!(!self.warm().is_empty(), "no round was warm");
        let warm = self.median(|r| r.total);
        let split: serde_json::Map<_, _> = PARTS
            .iter()
            .map(|(name, of)| (format!("{name}_s"), rounded(self.median(*of), 4).into()))
            .collect();
        Ok(serde_json::to_string(&json!({
            "sites": sites,
            "model_bytes": bytes,
            "rounds": rounds.len(),
            "warm_round_s": rounded(warm, 4),
            "cold_round_s": rounded(cold.total, 4),
            "floor_s": rounded(floor.seconds(), 4),
            "ratio_to_floor": rounded(warm / floor.seconds(), 3),
            "split": split,
            "download_mb_s": rounded(self.rate(self.median(|r| r.download)), 1),
            "upload_mb_s": rounded(self.rate(self.median(|r| r.upload)), 1),
            "floor": {
                "download_s": rounded(floor.download_s, 4),
                "upload_s": rounded(floor.upload_s, 4),
                "files_s": rounded(floor.files_s, 4),
                "download_mb_s": rounded(self.rate(floor.download_s), 1),
                "upload_mb_s": rounded(self.rate(floor.upload_s), 1),
            },
            "machine": machine,
            "coordinator_peak_rss_bytes": p.coordinator_peak_rss_bytes,
            "agent_peak_rss_bytes": p.agent_peak_rss_bytes,
            "trainer_peak_rss_bytes": p.trainer_peak_rss_bytes,
            "coordinator_cpu_s": rounded(p.coordinator_cpu_s, 2),
            "agents_cpu_s": rounded(p.agents_cpu_s, 2),
            "trainers_cpu_s": rounded(p.trainers_cpu_s, 2),
            "wire_bytes": p.wire_bytes,
            "wire_ratio": rounded(p.wire_bytes as f64 / self.bytes_needed(), 3),
        }))?)
    }

    /// The bytes that must move: the base model to every site and an update back, every round.
    fn bytes_needed(&self) -> f64 {
        2.0 * (self.bytes * self.sites * self.rounds.len()) as f64
    }

    /// What people read.
    pub(crate) fn table(&self) -> String {
        let Report { floor, machine: m, processes: p, .. } = self;
        let mut parts = Table::new();
        parts.load_style(presets::UTF8_BORDERS_ONLY);
        parts.set_header(["part of a warm round", "s (median)", "MB/s", "floor s", "floor MB/s"]);
        for (name, of) in PARTS {
            let took = self.median(of);
            let (ours, floor_s) = match name {
                "download" => (Some(self.rate(took)), Some(floor.download_s)),
                "upload" => (Some(self.rate(took)), Some(floor.upload_s)),
                _ => (None, None),
            };
            let text = |value: Option<f64>, digits| {
                value.map_or(String::new(), |value| format!("{value:.digits$}"))
            };
            parts.add_row([
                name.to_owned(),
                format!("{took:.3}"),
                text(ours, 0),
                text(floor_s, 3),
                text(floor_s.map(|s| self.rate(s)), 0),
            ]);
        }
        let total = self.median(|r| r.total);
        let files = format!("{:.3} (files {:.3})", floor.seconds(), floor.files_s);
        parts.add_row(["all".into(), format!("{total:.3}"), String::new(), files, String::new()]);
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        format!(
            "{parts}\n{:.2} times the floor; the cold round took {:.3} s\n\
             memory at most: coordinator {:.1} MiB, agent {:.1} MiB, trainer {:.1} MiB\n\
             processor: coordinator {:.2} s, agents {:.2} s, trainers {:.2} s in {} rounds\n\
             wire: {:.1} MB, {:.3} of what must move\n\
             this machine, MB/s: TLS alone {:.0}, memory copied {:.0}, BLAKE3 {:.0}, written and \
             synced {:.0}",
            total / floor.seconds(),
            self.rounds.first().map_or(0.0, |r| r.total),
            mib(p.coordinator_peak_rss_bytes),
            mib(p.agent_peak_rss_bytes),
            mib(p.trainer_peak_rss_bytes),
            p.coordinator_cpu_s,
            p.agents_cpu_s,
            p.trainers_cpu_s,
            self.rounds.len(),
            p.wire_bytes as f64 / 1e6,
            p.wire_bytes as f64 / self.bytes_needed(),
            m.rustls_mb_s,
            m.memory_copy_mb_s,
            m.blake3_mb_s,
            m.write_sync_mb_s,
        )
    }
}
