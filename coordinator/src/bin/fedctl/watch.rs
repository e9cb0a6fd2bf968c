//! `fedctl run watch`: a run as it goes, until it ends.
//!
//! What is shown follows from the newest message and the one shown before it, so that a message that
//! was missed while the coordinator restarted is never waited for.

use std::time::Duration;

use anyhow::{Context, bail};
use fedpaint_proto::limits::CALL_TIMEOUT;
use fedpaint_proto::names::RunName;
use fedpaint_proto::{reason, v1};
use tonic::Status;

use crate::connect::Session;
use crate::human::{clock, count, loss};
use crate::output::{Format, Output, is_watched};
use crate::problem::of_status;
use crate::round;
use crate::table::round_summary;
use crate::view::{Counts, Member, Round, Rounds, Run, Seen};

mod bars;

use bars::Bars;

/// How often the coordinator is tried in a row before a watch fails.
const RECONNECTS_MAX: u32 = 60;

/// How long between two tries; with the tries, a coordinator may take two minutes to come back.
const RECONNECT_AFTER: Duration = Duration::from_secs(2);

/// Into how many parts a site's progress is cut where every change is a line.
const PROGRESS_PARTS: u64 = 10;

/// Follows a run. Fails if it is paused or stopped before it is finished.
pub(crate) async fn run(
    mut session: Session,
    name: RunName,
    output: &Output,
) -> anyhow::Result<()> {
    let mut screen = Screen::new(output);
    let mut breaks = 0;
    let last = loop {
        match follow(&mut session, &name, &mut screen, &mut breaks).await? {
            End::Run(run) => break *run,
            End::Stream(status) if !reason::is_transient(&status) || breaks == RECONNECTS_MAX => {
                screen.clear();
                return Err(of_status(&status));
            }
            End::Stream(_) => {
                breaks += 1;
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        }
    };
    screen.clear();
    if output.format() == Format::Table {
        let rounds = round::list(&mut session, name.to_string()).await?;
        output.show(&Rounds { rounds: rounds.into_iter().map(Round::from).collect() })?;
    }
    verdict(&last)
}

/// How a stream ended.
enum End {
    /// The run will not go on by itself.
    Run(Box<Run>),
    /// The stream broke.
    Stream(Status),
}

async fn follow(
    session: &mut Session,
    name: &RunName,
    screen: &mut Screen<'_>,
    breaks: &mut u32,
) -> anyhow::Result<End> {
    let request = v1::WatchRunRequest { name: name.to_string() };
    let opened = tokio::time::timeout(CALL_TIMEOUT, session.admin.watch_run(request)).await;
    let mut stream = match opened {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Ok(End::Stream(status)),
        Err(_) => return Ok(End::Stream(Status::deadline_exceeded("no answer"))),
    };
    loop {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(End::Stream(Status::unavailable("the coordinator hung up"))),
            Err(status) => return Ok(End::Stream(status)),
        };
        *breaks = 0;
        let run = message.run.context("the coordinator answered without a run")?;
        let seen = Seen { run: run.into(), round: message.round.map(Round::from) };
        let over = seen.run.state != "active";
        let run = seen.run.clone();
        screen.show(seen)?;
        if over {
            return Ok(End::Run(Box::new(run)));
        }
    }
}

/// What the end of a run means for whoever waited for it.
fn verdict(run: &Run) -> anyhow::Result<()> {
    let why = run.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    match run.state {
        "finished" => Ok(()),
        "paused" => {
            bail!("run {0} is paused{why}; `fedctl run resume {0}` goes on", run.name)
        }
        state => bail!("run {} is {state}{why}", run.name),
    }
}

/// Where a watched run is shown.
enum Screen<'a> {
    /// Bars on a terminal.
    Bars(Bars),
    /// Lines for people, each with what changed since the message before.
    Lines(&'a Output, Option<Box<Seen>>),
    /// Every message as a line of JSON.
    Json(&'a Output),
}

impl<'a> Screen<'a> {
    fn new(output: &'a Output) -> Screen<'a> {
        match output.format() {
            Format::Json => Screen::Json(output),
            Format::Table if is_watched() => Screen::Bars(Bars::new()),
            Format::Table => Screen::Lines(output, None),
        }
    }

    fn show(&mut self, seen: Seen) -> anyhow::Result<()> {
        match self {
            Screen::Bars(bars) => bars.show(&seen),
            Screen::Json(output) => output.json_line(&seen)?,
            Screen::Lines(output, before) => {
                let at = clock(output.now());
                for line in changes(before.as_deref(), &seen) {
                    output.line(&format!("{at} {line}"))?;
                }
                *before = Some(Box::new(seen));
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        if let Screen::Bars(bars) = self {
            bars.clear();
        }
    }
}

/// What changed from one message to the next, in sentences.
fn changes(before: Option<&Seen>, seen: &Seen) -> Vec<String> {
    let mut lines = Vec::new();
    let run = &seen.run;
    let committed = before.map_or(run.rounds_committed, |b| b.run.rounds_committed);
    for number in committed + 1..=run.rounds_committed {
        // The round that is shown says more of itself below.
        if seen.round.as_ref().is_none_or(|round| round.number != number) {
            lines.push(format!("round {number} committed"));
        }
    }
    if let Some(round) = &seen.round {
        let same = |r: &&Round| (r.number, r.attempt) == (round.number, round.attempt);
        let earlier = before.and_then(|b| b.round.as_ref()).filter(same);
        let id = format!("round {}.{}", round.number, round.attempt);
        for member in &round.members {
            let was = earlier.and_then(|r| r.members.iter().find(|m| m.site == member.site));
            lines.extend(member_change(was, member).map(|change| format!("{id} {change}")));
        }
        let stuck = |earlier: &Round| round.reason.is_some() && earlier.reason != round.reason;
        if earlier.is_none_or(|earlier| earlier.phase != round.phase || stuck(earlier)) {
            lines.push(format!("{id} {}", phase(round)));
        }
    }
    let stuck = |before: &Seen| run.reason.is_some() && before.run.reason != run.reason;
    if before.is_none_or(|before| before.run.state != run.state || stuck(before)) {
        let Run { name, state, rounds_committed, rounds_planned, .. } = run;
        let mut text = format!("run {name} {state}, {rounds_committed}/{rounds_planned} rounds");
        if let Some(reason) = &run.reason {
            text.push_str(&format!(": {reason}"));
        }
        // A run is introduced before its round, and ends after it.
        if before.is_none() { lines.insert(0, text) } else { lines.push(text) }
    }
    lines
}

/// The round's phase, with what there is to tell once it is over.
fn phase(round: &Round) -> String {
    let why = round.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    if round.phase == "committed" {
        let [sites, examples, loss] = round_summary(round);
        let Counts { folded, withdrawn, missing, quarantined, .. } = round.counts;
        let told = [
            (folded, "late"),
            (withdrawn, "withdrew"),
            (missing, "missing"),
            (quarantined, "quarantined"),
        ];
        let told: String = told
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!(", {count} {what}"))
            .collect();
        return format!("committed: {sites} sites{told}, {examples} examples, loss {loss}");
    }
    format!("{}{why}", round.phase)
}

fn member_change(before: Option<&Member>, member: &Member) -> Option<String> {
    let site = &member.site;
    if before.is_none_or(|before| before.state != member.state) {
        let told = match (member.state, &member.report, &member.reason) {
            ("reported", Some(report), _) => format!(
                "reported {} examples, loss {}",
                count(member.examples.unwrap_or(0)),
                loss(report.loss_mean)
            ),
            (state, _, Some(reason)) => format!("{state}: {reason}"),
            (state, ..) => state.to_owned(),
        };
        return Some(format!("{site} {told}"));
    }
    let progress = member.progress.as_ref().filter(|_| member.state == "joined")?;
    let part = |step: u32| u64::from(step) * PROGRESS_PARTS / u64::from(progress.steps.max(1));
    let earlier = before.and_then(|before| before.progress.as_ref());
    (part(progress.step) > earlier.map_or(0, |p| part(p.step))).then(|| {
        let told = progress.loss.map_or(String::new(), |mean| format!(", loss {}", loss(mean)));
        format!("{site} step {}/{}{told}", progress.step, progress.steps)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Progress, Report};

    fn member(site: &str, state: &'static str, step: u32) -> Member {
        let reported = state == "reported";
        Member {
            site: site.into(),
            state,
            reason: (state == "withdrawn").then(|| "out of memory".into()),
            examples: reported.then_some(1600),
            update: None,
            report: reported.then_some(Report {
                steps: 200,
                loss_mean: 0.25,
                loss_first: 0.5,
                loss_last: 0.125,
                gradient_norm_p50: 1.0,
                gradient_norm_p99: 2.0,
            }),
            progress: (step > 0).then_some(Progress { step, steps: 200, loss: Some(0.3) }),
            since: None,
        }
    }

    fn seen(
        state: &'static str,
        committed: u32,
        round: (u32, &'static str),
        members: Vec<Member>,
    ) -> Seen {
        let run = v1::Run {
            name: "t1".into(),
            rounds_planned: 2,
            rounds_committed: committed,
            ..v1::Run::default()
        };
        let number = round.0;
        let shown = v1::Round {
            r#ref: Some(v1::RoundRef { run: "t1".into(), number, attempt: 1 }),
            ..v1::Round::default()
        };
        let of = |state| members.iter().filter(|m| m.state == state).count() as u32;
        let counts = Counts {
            joined: members.len() as u32,
            reported: of("reported"),
            folded: 0,
            withdrawn: of("withdrawn"),
            missing: of("joined"),
            quarantined: 0,
        };
        let shown = Round { phase: round.1, members, counts, ..Round::from(shown) };
        Seen { run: Run { state, ..run.into() }, round: Some(shown) }
    }

    #[test]
    fn every_change_is_told_once_and_in_order() {
        let story = [
            seen("active", 0, (1, "selecting"), vec![]),
            seen("active", 0, (1, "reporting"), vec![member("mayo", "joined", 0)]),
            seen("active", 0, (1, "reporting"), vec![member("mayo", "joined", 10)]),
            seen("active", 0, (1, "reporting"), vec![member("mayo", "joined", 20)]),
            seen("active", 0, (1, "reporting"), vec![member("mayo", "joined", 21)]),
            seen("active", 0, (1, "reporting"), vec![member("mayo", "reported", 200)]),
            // Round 1 was committed and round 2 opened between two messages.
            seen("active", 1, (2, "selecting"), vec![]),
            seen("active", 1, (2, "reporting"), vec![member("mayo", "withdrawn", 0)]),
            seen("finished", 2, (2, "committed"), vec![member("mayo", "reported", 0)]),
        ];
        let mut story = story;
        let last = story.last_mut().unwrap();
        last.run.reason = Some("1 of 2 rounds without every member: ucl missing in 1".into());
        last.round.as_mut().unwrap().counts =
            Counts { joined: 2, missing: 1, reported: 1, ..last.round.as_ref().unwrap().counts };
        let mut told = Vec::new();
        let mut before = None;
        for seen in &story {
            told.extend(changes(before, seen));
            assert!(changes(Some(seen), seen).is_empty(), "nothing changed");
            before = Some(seen);
        }
        assert_eq!(
            told,
            [
                "run t1 active, 0/2 rounds",
                "round 1.1 selecting",
                "round 1.1 mayo joined",
                "round 1.1 reporting",
                "round 1.1 mayo step 20/200, loss 0.3000",
                "round 1.1 mayo reported 1,600 examples, loss 0.2500",
                "round 1 committed",
                "round 2.1 selecting",
                "round 2.1 mayo withdrawn: out of memory",
                "round 2.1 reporting",
                "round 2.1 mayo reported 1,600 examples, loss 0.2500",
                "round 2.1 committed: 1/2 sites, 1 missing, 1,600 examples, loss 0.2500",
                "run t1 finished, 2/2 rounds: 1 of 2 rounds without every member: ucl missing in 1",
            ]
        );
    }

    #[test]
    fn what_keeps_a_round_or_its_run_is_told_when_it_comes_and_once() {
        let before = seen("active", 0, (1, "aggregating"), vec![]);
        let mut stuck = before.clone();
        stuck.round.as_mut().unwrap().reason = Some("its average waits for its turn".into());
        stuck.run.reason = Some("nothing was saved".into());
        assert_eq!(
            changes(Some(&before), &stuck),
            [
                "round 1.1 aggregating: its average waits for its turn",
                "run t1 active, 0/2 rounds: nothing was saved",
            ]
        );
        assert!(changes(Some(&stuck), &stuck).is_empty());
        assert!(changes(Some(&stuck), &before).is_empty(), "what follows tells that it goes on");
    }

    #[test]
    fn only_a_finished_run_is_a_success() {
        let run = |state, reason: Option<&str>| {
            let run = Run::from(v1::Run { name: "t1".into(), ..v1::Run::default() });
            verdict(&Run { state, reason: reason.map(str::to_owned), ..run })
        };
        run("finished", None).unwrap();
        let paused = run("paused", Some("3 attempts were abandoned")).unwrap_err().to_string();
        assert_eq!(
            paused,
            "run t1 is paused: 3 attempts were abandoned; `fedctl run resume t1` goes on"
        );
        assert!(run("stopped", None).is_err());
    }
}
