//! Updates that are another site's, or whose file was sent before: told, and left out if the plan says so.

use fedpaint_proto::plan::{AggregationRule, Encoding, ExchangePlan, Part};
use fedpaint_proto::weights::{Sources, encode};

use super::rules::{Cohort, RULES, by};
use super::*;

fn asking(causes: &[Outlier]) -> Option<Quarantine> {
    let causes = causes.iter().copied().collect();
    Some(Quarantine { causes, updates_min: 3, exempt: [].into() })
}

/// Seven sites of which `f` sends what `c` does: by agreement, or because both train the same scans by the same
/// noise. Nobody can tell which.
fn with_twins() -> Cohort {
    let mut cohort = Cohort::new(7, |_, _| ());
    cohort.contributions[5].weights = cohort.contributions[2].weights.clone();
    cohort
}

fn told(made: &Made<Written>) -> Vec<Option<Outlier>> {
    made.standings.iter().map(|standing| standing.outlier).collect()
}

fn excluded(made: &Made<Written>) -> Vec<&str> {
    let excluded = made.standings.iter().filter(|standing| standing.excluded);
    excluded.map(|standing| standing.site.as_str()).collect()
}

/// The model without the updates of some sites.
fn without(cohort: &Cohort, plan: AggregationPlan, sites: &[&str]) -> Blob {
    let mut job = cohort.job(plan, None);
    job.contributions.retain(|of| !sites.contains(&of.site.as_str()));
    cohort.made(&job).1.files.model.blob
}

#[test]
fn twins_are_told_where_updates_are_compared_and_left_out_where_the_plan_asks_for_it() {
    let cohort = with_twins();
    for rule in RULES {
        let plan = by(rule);
        let make = |quarantine| cohort.made(&cohort.job(plan.clone(), quarantine)).1;
        let both = |twin| vec![None, None, twin, None, None, twin, None];
        let all = make(None);
        let twin = plan.compares_first().then_some(Outlier::Twin);
        assert_eq!((told(&all), excluded(&all)), (both(twin), vec![]), "{rule:?}");
        let outliers = make(asking(&[Outlier::Length, Outlier::Direction]));
        assert_eq!(told(&outliers), both(Some(Outlier::Twin)), "{rule:?}");
        assert_eq!(excluded(&outliers), [""; 0], "{rule:?}");
        assert_eq!(outliers.files.model.blob, all.files.model.blob, "{rule:?}");

        let made = make(asking(&[Outlier::Twin]));
        assert_eq!(excluded(&made), ["c", "f"], "{rule:?}");
        assert_eq!(made.files.model.blob, without(&cohort, plan.clone(), &["c", "f"]), "{rule:?}");
        let nearest = |at: usize| f64::from(made.standings[at].nearest.unwrap());
        assert!(nearest(2) > 1.0 - 1e-6 && nearest(0) < 0.6, "{:?}", made.standings);
    }
}

#[test]
fn a_file_that_was_sent_before_is_told_by_every_rule_and_left_out_where_the_plan_asks_for_it() {
    let mut cohort = Cohort::new(4, |_, _| ());
    cohort.contributions[1].resent = true;
    for rule in RULES {
        let plan = by(rule);
        let make = |quarantine| cohort.made(&cohort.job(plan.clone(), quarantine)).1;
        let all = make(None);
        assert_eq!(told(&all), [None, Some(Outlier::Replay), None, None], "{rule:?}");
        assert_eq!(excluded(&all), [""; 0], "{rule:?}");
        let made = make(asking(&[Outlier::Replay]));
        assert_eq!((told(&made), excluded(&made)), (told(&all), vec!["b"]), "{rule:?}");
        assert_eq!(made.files.model.blob, without(&cohort, plan.clone(), &["b"]), "{rule:?}");
        let b: BTreeSet<SiteName> = ["b".parse().unwrap()].into();
        let exempt = asking(&[Outlier::Replay]).map(|of| Quarantine { exempt: b, ..of });
        assert_eq!(make(exempt).files.model.blob, all.files.model.blob, "{rule:?}");
    }
    let mut still = Cohort::new(4, |at, moved| {
        if at == 1 {
            moved.fill(0.0);
        }
    });
    still.contributions[1].resent = true;
    let (_, made) = still.made(&still.job(by(AggregationRule::Mean), asking(&[Outlier::Replay])));
    assert_eq!(told(&made), [None; 4], "what changes nothing is always the same file");
}

#[test]
fn what_there_are_two_causes_for_is_told_for_the_one_that_leaves_it_out() {
    let mut cohort = Cohort::new(7, |at, moved| {
        if at == 2 {
            moved.iter_mut().for_each(|value| *value *= 100.0);
        }
    });
    cohort.contributions[2].resent = true;
    for (asked, cause, left_out) in [
        (vec![], Outlier::Replay, vec![]),
        (vec![Outlier::Twin], Outlier::Replay, vec![]),
        (vec![Outlier::Length], Outlier::Length, vec!["c"]),
        (vec![Outlier::Replay], Outlier::Replay, vec!["c"]),
        (vec![Outlier::Length, Outlier::Replay], Outlier::Replay, vec!["c"]),
    ] {
        let job = cohort.job(by(AggregationRule::Mean), asking(&asked));
        let (_, made) = cohort.made(&job);
        assert_eq!((told(&made)[2], excluded(&made)), (Some(cause), left_out), "{asked:?}");
    }
}

#[test]
fn one_vector_that_two_sites_send_in_few_bits_is_told_whatever_one_has_left_out_before() {
    let cohort = Cohort::new(7, |_, _| ());
    let path = |name: &str| cohort.folder.path().join(name);
    let trained = |at: usize| cohort.contributions[at].weights.as_path();
    for encoding in [Encoding::Bf16, Encoding::Int8, Encoding::Int4] {
        let form = ExchangePlan { encoding, part: Part::All };
        let send = |trained: &Path, remainder: Option<&Path>, update: &str| {
            let (base, left) = (path("base"), path(&format!("{update}-left")));
            let sources = Sources { base: &base, trained, remainder };
            encode(form, sources, &path(update), &left).unwrap();
            left
        };
        let left = send(trained(0), None, "earlier");
        let mut job = cohort.job(by(AggregationRule::Mean), asking(&[Outlier::Twin]));
        for (at, of) in job.contributions.iter_mut().enumerate() {
            let update = format!("update-{at}");
            match at {
                5 => send(trained(2), Some(&left), &update),
                _ => send(trained(at), None, &update),
            };
            of.weights = path(&update);
        }
        let bytes = |at: usize| std::fs::read(path(&format!("update-{at}"))).unwrap();
        assert!(bytes(2) != bytes(5), "{encoding:?}");
        let (_, made) = cohort.made(&job);
        assert_eq!(excluded(&made), ["c", "f"], "{encoding:?}");
    }
}
