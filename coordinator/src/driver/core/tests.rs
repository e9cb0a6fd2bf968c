//! What the core decides, without a shell.

use fedpaint_proto::names::{OperatorName, RoundId};
use fedpaint_proto::plan::LatePolicy;
use fedpaint_proto::rule::Rule;
use jiff::Timestamp;

use super::*;
use crate::aggregate::Aggregate;
use crate::aggregate::Made;
use crate::round::tests::update;
use crate::round::{Phase, Withdrawal};
use crate::run::{Directive, Drop, Late};
use crate::standing::{Outlier, Standing};
use crate::testing::{START, blob, plan};

/// A core whose steps are saved at once.
struct Shell {
    core: Core,
    now: Timestamp,
}

fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

fn ada() -> OperatorName {
    "ada".parse().unwrap()
}

fn beat(name: &str, activity: Activity, declined: Vec<(RoundId, Rule)>) -> Request {
    let beat = Beat {
        agent_version: String::new(),
        wire_version: 1,
        activity,
        declined,
        doubt: None,
        shown_until: None,
        signing_until: None,
    };
    Request::Beat(site(name), beat)
}

impl Shell {
    /// With these sites, and the run `brain` of four rounds that folds late updates in.
    fn new(sites: &[&str]) -> Shell {
        let core = Core::load(Loaded::default(), Duration::from_secs(5));
        let mut shell = Shell { core, now: START };
        for name in sites {
            shell.ask(Request::Enroll(ada(), site(name), None));
        }
        let mut plan = plan(4, 1);
        plan.round.late = LatePolicy::Fold;
        let (run, plan) = ("brain".parse().unwrap(), Box::new(plan.into()));
        shell.ask(Request::Create(ada(), run, plan, blob("base")));
        shell
    }

    /// Has a request change what it changes; how many entries the audit log has more.
    fn ask(&mut self, request: Request) -> usize {
        self.entries(request).len()
    }

    /// The same; the kinds of the entries, and their words.
    fn entries(&mut self, request: Request) -> Vec<(String, String)> {
        let mut entries = Vec::new();
        let mut next = Some(self.core.apply(request, self.now).unwrap());
        while let Some(step) = next {
            let events = step.change().events;
            entries.extend(events.into_iter().map(|event| (event.kind, event.detail)));
            self.core.install(step);
            next = self.core.settle(self.now);
        }
        entries
    }

    fn run(&self) -> &Run {
        self.core.state().runs().next().unwrap()
    }

    fn id(&self) -> RoundId {
        self.run().round().id().clone()
    }

    fn close(&mut self) {
        self.ask(Request::Verdict(ada(), self.id(), Verdict::Close));
    }

    fn report(&mut self, name: &str, id: &RoundId) {
        self.ask(Request::Report(site(name), id.clone(), update(name)));
    }

    /// `names` join the round in hand, `aachen` reports, and the round is sealed.
    fn seal(&mut self, names: &[&str]) {
        for name in names {
            self.ask(beat(name, Activity::Joining(self.id()), Vec::new()));
        }
        self.close();
        let id = self.id();
        self.report("aachen", &id);
        if matches!(self.run().round().phase(), Phase::Reporting { .. }) {
            self.close();
        }
        assert_eq!(self.run().round().phase(), &Phase::Aggregating);
    }

    fn folded(&self) -> Vec<&str> {
        self.run().round().late().keys().map(SiteName::as_str).collect()
    }
}

#[test]
fn nothing_of_a_site_that_was_revoked_is_sealed_though_an_abandoned_round_had_sealed_it() {
    for revoked in [false, true] {
        let mut shell = Shell::new(&["aachen", "mayo"]);
        shell.seal(&["aachen", "mayo"]);
        let first = shell.id();
        let made = Aggregate::of(blob("model 1"));
        shell.ask(Request::Aggregated(first.clone(), Ok(made.into())));
        shell.report("mayo", &first);
        shell.seal(&["aachen"]);
        assert_eq!(shell.folded(), ["mayo"]);

        if revoked {
            shell.ask(Request::Revoke(ada(), site("mayo"), Sight::Unsaid));
            assert_eq!(shell.folded(), ["mayo"], "what is being averaged stays as it is");
        }
        shell.ask(Request::Verdict(ada(), shell.id(), Verdict::Abandon("again".to_owned())));
        shell.ask(Request::Enroll(ada(), site("mayo"), Some(START)));
        shell.seal(&["aachen"]);
        assert_eq!(shell.folded(), if revoked { vec![] } else { vec!["mayo"] });
    }
}

#[test]
fn a_site_that_is_revoked_while_it_trains_late_is_awaited_no_more() {
    let mut shell = Shell::new(&["aachen", "mayo"]);
    shell.seal(&["aachen", "mayo"]);
    let first = shell.id();
    shell.ask(Request::Revoke(ada(), site("mayo"), Sight::Unsaid));
    let straggler = shell.run().straggler(&first, &site("mayo")).unwrap();
    assert_eq!(straggler.late, Late::Dropped { update: None, why: Drop::Revoked });
}

#[test]
fn a_site_that_is_refused_again_and_again_fills_no_audit_log() {
    let mut shell = Shell::new(&["aachen", "mayo"]);
    let bogus = |number| RoundId { run: "brain".parse().unwrap(), number, attempt: 9 };
    let strange = |number| RoundId { run: "other".parse().unwrap(), number, attempt: 1 };
    let refuse = |shell: &mut Shell, name: &str, round: RoundId, detail: u32| {
        shell.ask(Request::Refused(site(name), round, detail.to_string()))
    };
    let mut entries = 0;
    for detail in 0..100 {
        entries += refuse(&mut shell, "mayo", bogus(detail), detail / 2);
        entries += refuse(&mut shell, "mayo", strange(detail), detail);
    }
    assert_eq!(entries, 2 * REFUSALS_NOTED_MAX);
    assert_eq!(refuse(&mut shell, "aachen", bogus(1), 1), 1, "another site is told of");
    assert_eq!(refuse(&mut shell, "aachen", bogus(2), 1), 0, "the same words once");
    // What happens in the next round is told again.
    shell.seal(&["aachen", "mayo"]);
    shell.ask(Request::Aggregated(shell.id(), Ok(Aggregate::of(blob("model 1")).into())));
    assert_eq!(refuse(&mut shell, "mayo", bogus(1), 1), 1);
}

#[test]
fn a_site_that_joins_and_leaves_without_end_is_told_each_time_until_the_attempt_lets_it_in_no_more()
{
    let mut shell = Shell::new(&["aachen", "mayo"]);
    let first = shell.id();
    let comes = |id: &RoundId| beat("mayo", Activity::Joining(id.clone()), Vec::new());
    let leaves = |id: &RoundId| {
        let why = Withdrawal::Stopping;
        beat("mayo", Activity::Withdrawing(id.clone(), why), Vec::new())
    };
    let kinds = |shell: &mut Shell, request: Request| {
        let told = shell.entries(request);
        told.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
    };
    let is_in = |shell: &Shell| shell.run().round().members().contains_key(&site("mayo"));
    for time in 1..=COMINGS_MAX {
        assert_eq!(kinds(&mut shell, comes(&first)), ["site_joined"], "{time}");
        assert!(is_in(&shell));
        let last: &[&str] = if time == COMINGS_MAX { &["site_kept_out"] } else { &[] };
        assert_eq!(kinds(&mut shell, leaves(&first)), [last, &["site_left"]].concat(), "{time}");
    }
    for _ in 0..100 {
        assert_eq!(shell.ask(comes(&first)) + shell.ask(leaves(&first)), 0);
        assert!(!is_in(&shell), "nothing changes that is not told");
    }
    let directive = |shell: &Shell| shell.core.answer(&site("mayo")).directive;
    assert_eq!(directive(&shell), Directive::Rest, "it is not asked to come");
    assert_eq!(shell.ask(beat("aachen", Activity::Joining(first.clone()), Vec::new())), 1);
    shell.ask(Request::Verdict(ada(), first, Verdict::Abandon("again".to_owned())));
    assert!(matches!(directive(&shell), Directive::Join { .. }), "the next attempt is another");
    let second = shell.id();
    assert_eq!(kinds(&mut shell, comes(&second)), ["site_joined"]);
}

#[test]
fn a_site_is_told_what_a_round_begins_from_before_it_is_in_only_where_there_is_room_for_all() {
    let told = |shell: &Shell| match shell.core.answer(&site("mayo")).directive {
        Directive::Join { base, .. } => base,
        other => panic!("{other:?}"),
    };
    // The plan's rounds have room for three.
    assert_eq!(told(&Shell::new(&["mayo", "oslo", "turin"])), Some(blob("base")));
    let mut shell = Shell::new(&["mayo", "oslo", "turin", "kyoto"]);
    assert_eq!(told(&shell), None);
    shell.ask(Request::Revoke(ada(), site("oslo"), Sight::Unsaid));
    assert_eq!(told(&shell), Some(blob("base")));
}

#[test]
fn rules_that_come_and_go_are_told_once_for_each_round() {
    let mut shell = Shell::new(&["mayo"]);
    let mut entries = 0;
    for turn in 0..100 {
        let rule = [Rule::Hours, Rule::Approval][turn % 2];
        entries += shell.ask(beat("mayo", Activity::Idle, vec![(shell.id(), rule)]));
    }
    assert_eq!(entries, 2);
    shell.ask(Request::Verdict(ada(), shell.id(), Verdict::Abandon("again".to_owned())));
    let again = beat("mayo", Activity::Idle, vec![(shell.id(), Rule::Hours)]);
    assert_eq!(shell.ask(again), 1, "it is another round");
}

#[test]
fn a_finished_run_names_whose_updates_were_left_out_and_who_was_in_no_round() {
    let mut shell = Shell::new(&["aachen", "kyoto", "oslo", "paris"]);
    shell.ask(Request::Revoke(ada(), site("paris"), Sight::Unsaid));
    for number in 1..=4 {
        for name in ["aachen", "kyoto"] {
            shell.ask(beat(name, Activity::Joining(shell.id()), Vec::new()));
        }
        shell.close();
        let id = shell.id();
        for name in ["aachen", "kyoto"] {
            shell.report(name, &id);
        }
        let excluded = number == 2;
        let outlier = excluded.then_some(Outlier::Length);
        let (site, late, norm, cosine) = (site("kyoto"), false, 1.0, None);
        let nearest = None;
        let standings = vec![Standing { site, late, norm, cosine, nearest, outlier, excluded }];
        let made = Made { files: Aggregate::of(blob(&format!("model {number}"))), standings };
        let told = shell.entries(Request::Aggregated(id, Ok(made)));
        let committed = told.iter().find(|(kind, _)| kind == "round_committed").unwrap();
        let of = if excluded { "1 of 2 sites (1 quarantined)" } else { "2 of 2 sites" };
        assert!(committed.1.ends_with(of), "{committed:?}");
        if number == 4 {
            let short = "1 of 4 rounds without every member: kyoto quarantined in 1; in no committed round: oslo";
            assert_eq!(told.last().unwrap().0, "run_finished");
            assert!(told.last().unwrap().1.ends_with(short), "{told:?}");
            shell.now += Duration::from_secs(9);
            shell.ask(Request::Enroll(ada(), "later".parse().unwrap(), None));
            let view = shell.core.state().run_view(shell.run(), &Default::default());
            assert_eq!(view.reason().as_deref(), Some(short), "whoever came later is not missed");
        }
    }
}
