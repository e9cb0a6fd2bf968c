//! PURE: what a round's time went into, from the coordinator's audit log and its own log. Both have the
//! coordinator's clock, to the microsecond.

use std::collections::BTreeMap;

use anyhow::Context;
use fedpaint_proto::v1::Event;
use jiff::Timestamp;

/// How long a committed round took, in seconds, and what in it. Where sites do something at the same time
/// a part ends when the last site is done, so that the parts add up to the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Round {
    /// From its opening to the next one's.
    pub(crate) total: f64,
    /// Until every site has heard of it and joined.
    pub(crate) join: f64,
    /// Until the last byte of the base model has been taken by the last site's connection.
    pub(crate) download: f64,
    /// Until the last site begins its upload: syncing, checking, training, writing, checking again.
    pub(crate) train: f64,
    /// Until the last byte of the last update is here.
    pub(crate) upload: f64,
    /// Until the last update is synced, checked and accepted.
    pub(crate) verify: f64,
    /// Until their mean is made and synced.
    pub(crate) aggregate: f64,
    /// Until the round is committed and the next one is open.
    pub(crate) publish: f64,
}

/// Moments of a round, by what happened; of each the last one counts.
type Moments = BTreeMap<&'static str, Timestamp>;

/// What the audit log calls what matters here.
const EVENTS: [(&str, &str); 4] = [
    ("round_opened", "opened"),
    ("round_reporting", "joined"),
    ("round_aggregating", "accepted"),
    ("round_committed", "committed"),
];

/// How the log's lines begin that matter here, after the module.
const LINES: [(&str, &str); 4] = [
    ("download ended", "downloaded"),
    ("upload caller", "upload"),
    ("upload is here", "uploaded"),
    ("aggregation ends", "aggregated"),
];

/// The rounds of the only run, in order, but for the last one, which no other follows.
///
/// # Errors
/// If a moment is missing.
pub(crate) fn rounds(events: &[Event], log: &str, sites: usize) -> anyhow::Result<Vec<Round>> {
    let opened: Vec<Timestamp> =
        events.iter().filter(|e| e.kind == EVENTS[0].0).map(at).collect::<Result<_, _>>()?;
    let mut rounds: Vec<Moments> = vec![Moments::new(); opened.len()];
    let mut counts = vec![0; opened.len()];
    let mut note = |what: &'static str, time: Timestamp| {
        let after = opened.partition_point(|opened| *opened <= time);
        let Some(round) = after.checked_sub(1) else { return };
        counts[round] += usize::from(what == "downloaded");
        let latest = rounds[round].entry(what).or_insert(time);
        *latest = (*latest).max(time);
    };
    for event in events {
        if let Some((_, what)) = EVENTS.iter().find(|(kind, _)| *kind == event.kind) {
            note(what, at(event)?);
        }
    }
    for line in log.lines() {
        let Some((time, said)) = line.split_once(' ') else { continue };
        let Some((_, said)) = said.split_once(": ") else { continue };
        if let Some((_, what)) = LINES.iter().find(|(begins, _)| said.starts_with(begins)) {
            note(what, time.parse().context("the time of a line of the log")?);
        }
    }
    let last = rounds.iter().filter(|round| round.contains_key("committed")).count();
    let pairs = rounds.iter().take(last).zip(opened.iter().skip(1).map(Some).chain([None]));
    let split = pairs.zip(counts).enumerate().map(|(i, ((round, next), count))| {
        anyhow::ensure!(count == sites, "round {}: {count} of {sites} downloads", i + 1);
        split(round, next.copied()).with_context(|| format!("round {}", i + 1))
    });
    split.collect()
}

fn at(event: &Event) -> anyhow::Result<Timestamp> {
    let time = event.at.as_ref().context("the time of an entry of the audit log")?;
    Ok(Timestamp::new(time.seconds, time.nanos)?)
}

/// The parts of one round, each from the end of the one before.
fn split(round: &Moments, next: Option<Timestamp>) -> anyhow::Result<Round> {
    let moment = |what: &str| {
        round.get(what).copied().with_context(|| format!("nothing tells when it was {what}"))
    };
    let mut since = moment("opened")?;
    let begin = since;
    let mut until = |time: Timestamp| {
        // What ended before the part in front of it took no time of its own.
        let time = time.max(since);
        let took = seconds(since, time);
        since = time;
        took
    };
    let parts = Round {
        total: 0.0,
        join: until(moment("joined")?),
        download: until(moment("downloaded")?),
        train: until(moment("upload")?),
        upload: until(moment("uploaded")?),
        verify: until(moment("accepted")?),
        aggregate: until(moment("aggregated")?),
        publish: until(match next {
            Some(next) => next,
            None => moment("committed")?,
        }),
    };
    Ok(Round { total: seconds(begin, since), ..parts })
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, millis: i32) -> Event {
        let at = prost_types::Timestamp { seconds: 0, nanos: millis * 1_000_000 };
        Event { kind: kind.into(), at: Some(at), ..Event::default() }
    }

    fn line(millis: u32, said: &str) -> String {
        format!("1970-01-01T00:00:00.{millis:03}000Z DEBUG fedpaint_coordinator::x: {said}\n")
    }

    fn history() -> (Vec<Event>, String) {
        let events = [
            event("round_opened", 0),
            event("round_reporting", 10),
            event("round_aggregating", 70),
            event("round_committed", 95),
            event("round_opened", 100),
        ];
        let log: String = [
            line(20, "download ended caller=site/a"),
            line(30, "download ended caller=site/b"),
            line(40, "upload caller=site/a"),
            line(45, "upload caller=site/b"),
            line(50, "upload is here caller=site/a"),
            line(60, "upload is here caller=site/b"),
            line(90, "aggregation ends round=bench/1.1"),
        ]
        .concat();
        (events.to_vec(), log)
    }

    #[test]
    fn the_parts_of_a_round_end_with_the_last_site_and_add_up_to_the_whole() {
        let (events, log) = history();
        let rounds = rounds(&events, &log, 2).unwrap();
        let [Round { total, join, download, train, upload, verify, aggregate, publish }] =
            rounds[..]
        else {
            panic!("{rounds:?}")
        };
        assert_eq!((join, download, train), (0.01, 0.02, 0.015));
        assert_eq!((upload, verify, aggregate, publish), (0.015, 0.01, 0.02, 0.01));
        assert_eq!(total, 0.1);
        let parts = join + download + train + upload + verify + aggregate + publish;
        assert!((total - parts).abs() < 1e-9);
    }

    #[test]
    fn a_round_of_which_a_moment_is_missing_is_an_error_and_no_figure() {
        let (events, log) = history();
        let without = log.replace("aggregation ends", "something else");
        let error = format!("{:#}", rounds(&events, &without, 2).unwrap_err());
        assert!(error.contains("round 1: nothing tells when it was aggregated"), "{error}");
        assert!(rounds(&events, &log, 3).is_err(), "a site has not downloaded");
    }
}
