//! A watched run as progress bars on a terminal: one for the rounds, one for each site in the round.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::human::loss;
use crate::table::round_summary;
use crate::view::{Member, Round, Seen};

/// How the bar of the rounds is drawn.
const ROUNDS: &str = "{prefix:.bold} {bar:30} {pos}/{len} rounds  {msg}";

/// How the bar of a site is drawn.
const SITE: &str = "  {prefix:20} {bar:30.cyan} {pos}/{len} steps  {msg}";

/// The bars.
pub(super) struct Bars {
    all: MultiProgress,
    rounds: ProgressBar,
    sites: BTreeMap<String, ProgressBar>,
    /// The round that is drawn: its number and attempt.
    drawn: Option<(u32, u32)>,
}

impl Bars {
    /// Bars that are drawn with the first message.
    pub(super) fn new() -> Bars {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let rounds = all.add(bar(ROUNDS));
        Bars { all, rounds, sites: BTreeMap::new(), drawn: None }
    }

    /// Draws a message.
    pub(super) fn show(&mut self, seen: &Seen) {
        self.rounds.set_length(seen.run.rounds_planned.into());
        self.rounds.set_prefix(seen.run.name.clone());
        self.rounds.set_position(seen.run.rounds_committed.into());
        let Some(round) = &seen.round else { return };
        let at = (round.number, round.attempt);
        if self.drawn.replace(at) != Some(at) {
            for (_, bar) in std::mem::take(&mut self.sites) {
                self.all.remove(&bar);
            }
        }
        self.rounds.set_message(headline(round));
        for member in &round.members {
            let all = &self.all;
            let bar = self
                .sites
                .entry(member.site.clone())
                .or_insert_with(|| all.add(bar(SITE)).with_prefix(member.site.clone()));
            draw(bar, member);
        }
    }

    /// Takes the bars off the screen.
    pub(super) fn clear(&mut self) {
        // A terminal that is gone cannot be cleared, and need not be.
        let _ = self.all.clear();
    }
}

/// The templates are constants that a test parses; a default bar is the worst that could come.
fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style.progress_chars("━╸─"))
}

fn headline(round: &Round) -> String {
    let Round { number, attempt, phase, .. } = round;
    let [sites, ..] = round_summary(round);
    let why = round.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    format!("round {number}.{attempt} {phase}, {sites} reported{why}")
}

fn draw(bar: &ProgressBar, member: &Member) {
    let (step, steps, mean) = match (&member.report, &member.progress) {
        (Some(report), _) => (report.steps, report.steps, Some(report.loss_mean)),
        (None, Some(progress)) => (progress.step, progress.steps, progress.loss),
        (None, None) => (0, 0, None),
    };
    bar.set_length(steps.into());
    bar.set_position(step.into());
    let mean = mean.map_or(String::new(), |mean| format!("loss {}  ", loss(mean)));
    let why = member.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    bar.set_message(format!("{mean}{}{why}", member.state));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_are_drawn_as_written() {
        for template in [ROUNDS, SITE] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
