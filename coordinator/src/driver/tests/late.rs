//! Updates that come when their round is sealed, deadlines that wait for bytes, and who is missing.

use fedpaint_proto::plan::LatePolicy;

use super::*;
use crate::round::Counts;
use crate::run::Late;

/// What is shown of an update that came after its plan had dropped it.
const KEPT: &str =
    "its update came late and was dropped: a late update does not count, by [round] late";

fn folding() -> RunPlan {
    let mut plan = plan(3, 2);
    plan.round.late = LatePolicy::Fold;
    plan.aggregation.staleness_exponent = 1.0;
    plan.aggregation.ema_decay = 0.0;
    plan
}

impl Coordinator {
    /// aachen and kyoto report 2 and 4 in round `number`, mayo does not; the round commits.
    async fn commit_without_mayo(&self, number: u32) -> RunView {
        self.until(|_, round| round.id.number == number).await;
        self.join(&["aachen", "kyoto"]).await;
        self.submit(round(number, 1), "aachen", 2.0, 1).await;
        self.submit(round(number, 1), "kyoto", 4.0, 1).await;
        self.clock.advance(Duration::from_secs(1_000));
        self.until_committed(number).await
    }

    /// What the first round shows of mayo, however it is asked for.
    async fn assert_shown(&self, expected: &str) {
        let one = self.handle.round(&round(1, 1)).await.unwrap();
        let listed = self.handle.rounds(&brain(), None, 0).await.unwrap().remove(0);
        for RoundView { members, .. } in [one, listed] {
            let told = members.into_iter().map(|member| (member.site, member.late));
            let told = told.map(|(site, late)| (site.to_string(), late.map(|l| l.in_words())));
            let mayo = Some(expected.to_owned());
            let named = [("aachen", None), ("kyoto", None), ("mayo", mayo)];
            let named = named.map(|(site, late)| (site.to_owned(), late));
            assert_eq!(told.collect::<Vec<_>>(), named);
        }
    }

    /// Whether a row names the file of a submission.
    async fn names(&self, submission: &Submission) -> bool {
        let named = self.store.named().await.unwrap();
        named.iter().any(|named| named.blob == submission.weights)
    }

    /// What is in memory is what is on the disk.
    async fn assert_saved(&self) {
        let loaded = self.store.load().await.unwrap().runs.remove(0);
        let held = self.handle.state.borrow().run(&brain()).unwrap().clone();
        assert_eq!(loaded, held);
    }
}

#[tokio::test]
async fn a_late_update_counts_in_the_next_round_and_a_restart_anywhere_makes_the_same_model() {
    let mut models = Vec::new();
    for restart_at in 0..4 {
        let mut coordinator = Coordinator::start_with(folding()).await;
        coordinator.join(&["mayo"]).await;
        let late = coordinator.submission(round(1, 1), "mayo", 11.0, 2);
        let base = coordinator.handle.run(&brain()).unwrap().initial_model;
        coordinator.commit_without_mayo(1).await;
        coordinator.until(|_, round| round.id.number == 2).await;
        if restart_at == 1 {
            coordinator = coordinator.restart().await;
        }
        coordinator.assert_saved().await;
        // mayo goes on with the first round, may read what it trains from, and upload.
        let told = coordinator.beat("mayo", Activity::Idle).await;
        let Directive::Train { round: id, base: from, .. } = told else { panic!("{told:?}") };
        assert_eq!((id.clone(), from), (round(1, 1), base));
        let role = Role::Site(site("mayo"));
        assert_eq!(coordinator.handle.may_download(&role, &base.digest).await.unwrap(), base);
        assert!(coordinator.handle.may_upload(&site("mayo"), &id).is_ok());
        for _ in 0..2 {
            coordinator.handle.submit(&site("mayo"), late.clone()).await.unwrap();
        }
        if restart_at == 2 {
            coordinator = coordinator.restart().await;
            coordinator.handle.submit(&site("mayo"), late.clone()).await.unwrap();
        }
        coordinator.assert_saved().await;
        coordinator.join(&["mayo"]).await;
        let run = coordinator.commit_without_mayo(2).await;
        // Round 1 made 3. mayo moved from 1 to 11; it weighs 2 halved, beside 2 and 4: (2 + 4 + 13) / 3.
        assert_eq!(coordinator.values(&run.model), [19.0 / 3.0, -19.0 / 3.0]);
        if restart_at == 3 {
            coordinator = coordinator.restart().await;
        }
        coordinator.assert_saved().await;
        let again = coordinator.handle.may_upload_again(&site("mayo"), &id, &late.weights).await;
        assert_eq!(again.unwrap(), late.weights.size, "it is here, which is no refusal");
        coordinator.handle.submit(&site("mayo"), late.clone()).await.unwrap();
        let view = coordinator.handle.round(&round(2, 1)).await.unwrap();
        let counts =
            Counts { joined: 3, reported: 2, folded: 1, withdrawn: 0, missing: 1, quarantined: 0 };
        assert_eq!(view.counts, counts);
        assert_eq!((view.late[0].site.as_str(), view.late[0].staleness), ("mayo", 1));
        models.push(run.model);

        let run = coordinator.commit_without_mayo(3).await;
        assert_eq!(
            run.reason().unwrap(),
            "2 of 3 rounds without every member: mayo missing in 2 (1 came late)"
        );
        let coordinator = coordinator.restart().await;
        assert_eq!(coordinator.handle.run(&brain()).unwrap(), run, "it is counted from the rows");
        let kinds = coordinator.kinds().await;
        let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
        assert_eq!(count("late_update_accepted"), 1);
        assert_eq!((count("late_update_sealed"), count("late_update_folded")), (1, 1));
        assert_eq!((count("site_missing"), count("late_update_dropped")), (2, 1));
    }
    assert!(models.iter().all(|model| *model == models[0]), "{models:?}");
}

#[tokio::test]
async fn a_plan_that_drops_says_so_to_the_site_and_once_to_the_audit_log() {
    let coordinator = Coordinator::start(2).await;
    coordinator.join(&["mayo"]).await;
    let late = coordinator.submission(round(1, 1), "mayo", 11.0, 2);
    coordinator.commit_without_mayo(1).await;
    coordinator.until(|_, round| round.id.number == 2).await;
    assert!(matches!(coordinator.beat("mayo", Activity::Idle).await, Directive::Join { .. }));
    // Whether it asks to upload or submits what is here already, it is noted once, in the same words.
    let (handle, weights) = (&coordinator.handle, late.weights);
    let refused = handle.may_upload_again(&site("mayo"), &round(1, 1), &weights).await;
    assert_eq!(refused.unwrap_err().reason(), Reason::ReportingOver);
    for _ in 0..2 {
        let error = coordinator.handle.submit(&site("mayo"), late.clone()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::ReportingOver);
        let text = "the round was sealed without this update, and a late one does not count";
        assert!(error.to_string().ends_with(text), "{error}");
    }
    let kinds = coordinator.kinds().await;
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    assert_eq!((count("site_missing"), count("update_refused")), (1, 1));
    assert_eq!(count("late_update_kept"), 1, "what it brought is in its row");
    assert_eq!(count("late_update_dropped"), 0, "that it does not count is told with its round");
}

#[tokio::test]
async fn what_comes_after_a_plan_has_dropped_it_is_refused_and_kept_and_changes_no_model() {
    // Brought when the next round selects, or the one after it.
    for in_hand in [2, 3] {
        let coordinator = Coordinator::start(3).await;
        coordinator.join(&["mayo"]).await;
        let late = coordinator.submission(round(1, 1), "mayo", 11.0, 2);
        let first = coordinator.commit_without_mayo(1).await;
        coordinator.until(|_, round| round.id.number == 2).await;
        if in_hand == 3 {
            coordinator.join(&["mayo"]).await;
            coordinator.commit_without_mayo(2).await;
            coordinator.until(|_, round| round.id.number == 3).await;
        }
        let never = Submission { weights: crate::testing::blob("never sent"), ..late.clone() };
        for submission in [&never, &late, &late] {
            let refused = coordinator.handle.submit(&site("mayo"), submission.clone()).await;
            assert_eq!(refused.unwrap_err().reason(), Reason::ReportingOver);
        }
        let named = [coordinator.names(&never).await, coordinator.names(&late).await];
        assert_eq!(named, [false, true]);
        coordinator.assert_saved().await;
        coordinator.assert_shown(KEPT).await;

        // Whoever asks again, to upload or to submit, has the same answer, after a restart too.
        let coordinator = coordinator.restart().await;
        coordinator.assert_saved().await;
        let (handle, mayo) = (&coordinator.handle, site("mayo"));
        let again = handle.may_upload_again(&mayo, &round(1, 1), &late.weights).await;
        assert_eq!(again.unwrap_err().reason(), Reason::ReportingOver);
        let base = late.base;
        let other = coordinator.submission(round(1, 1), "other", 5.0, 2);
        let other = Submission { base, ..other };
        for submission in [&late, &other] {
            let refused = handle.submit(&mayo, submission.clone()).await;
            assert_eq!(refused.unwrap_err().reason(), Reason::ReportingOver);
        }
        assert!(!coordinator.names(&other).await, "the first one stays");

        coordinator.join(&["mayo"]).await;
        let run = coordinator.commit_without_mayo(in_hand).await;
        assert_eq!(coordinator.values(&run.model), coordinator.values(&first.model));
        // Nor has its answer changed when its row alone has it.
        let past = handle.submit(&mayo, late.clone()).await.unwrap_err();
        assert_eq!(past.reason(), Reason::ReportingOver);
        coordinator.assert_shown(KEPT).await;
        let kinds = coordinator.kinds().await;
        let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
        assert_eq!((count("late_update_kept"), count("late_update_accepted")), (1, 0));
    }
}

#[tokio::test]
async fn a_round_shows_of_whom_it_was_sealed_without_what_became_of_the_update() {
    let why = "no update in time, and dropped: a late update does not count, by [round] late";
    let (late, came) = (
        "missing when the round was sealed; its update may come late",
        "its update came late and counted in a later round",
    );
    for (plan, first, then) in [(plan(3, 2), why, KEPT), (folding(), late, came)] {
        let coordinator = Coordinator::start_with(plan).await;
        coordinator.join(&["mayo"]).await;
        let submission = coordinator.submission(round(1, 1), "mayo", 11.0, 2);
        coordinator.commit_without_mayo(1).await;
        coordinator.until(|_, round| round.id.number == 2).await;
        coordinator.assert_saved().await;
        coordinator.assert_shown(first).await;
        // By a plan that drops this is refused, and kept.
        let _ = coordinator.handle.submit(&site("mayo"), submission).await;
        let coordinator = coordinator.restart().await;
        coordinator.join(&["mayo"]).await;
        coordinator.commit_without_mayo(2).await;
        coordinator.assert_shown(then).await;
    }
}

#[tokio::test]
async fn a_deadline_waits_for_bytes_under_way_and_the_audit_log_hears_of_each_move() {
    let coordinator = Coordinator::start(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    coordinator.submit(round(1, 1), "kyoto", 4.0, 1).await;
    let handle = &coordinator.handle;
    let arrive = |here| handle.arriving(&site("mayo"), &round(1, 1), Upload { here, size: 100 });
    for (seconds, here) in [(990, 10), (40, 20), (15, 30)] {
        coordinator.clock.advance(Duration::from_secs(seconds));
        arrive(here);
        // Whatever is told after it, is heard after it.
        coordinator.beat("mayo", Activity::Uploading(round(1, 1))).await;
    }
    let view = handle.active_rounds().remove(0);
    let until = Timestamp::from_second(990 + 40 + 15 + 60).unwrap();
    assert_eq!(view.until(), Some(until));
    assert_eq!(view.due, Some(Timestamp::from_second(1_000).unwrap()));
    assert_eq!(view.missing[0].to_string(), "uploading, 30 of 100 bytes");
    coordinator.assert_saved().await;
    let coordinator = coordinator.restart().await;
    coordinator.submit(round(1, 1), "mayo", 6.0, 1).await;
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [4.0, -4.0]);
    let kinds = coordinator.kinds().await;
    let count = |kind: &str| kinds.iter().filter(|k| *k == kind).count();
    assert_eq!((count("round_stretched"), count("round_deadline_moved")), (1, 2));
}

#[tokio::test]
async fn a_deadline_waits_for_a_site_that_was_told_to_come_again_with_its_upload() {
    let coordinator = Coordinator::start(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    coordinator.submit(round(1, 1), "kyoto", 4.0, 1).await;
    for (seconds, until) in [(990, 1_050), (37, 1_087), (37, 1_124)] {
        coordinator.clock.advance(Duration::from_secs(seconds));
        coordinator.handle.in_line(&site("mayo"), &round(1, 1));
        let until = Timestamp::from_second(until).unwrap();
        coordinator.until(|_, round| round.until() == Some(until)).await;
    }
    // One that has no such update to bring moves nothing.
    coordinator.clock.advance(Duration::from_secs(30));
    coordinator.handle.in_line(&site("kyoto"), &round(1, 1));
    coordinator.submit(round(1, 1), "mayo", 6.0, 1).await;
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [4.0, -4.0]);
}

#[tokio::test]
async fn an_update_that_came_in_time_is_not_lost_to_the_queue_for_its_check() {
    let coordinator = Coordinator::start(1).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    coordinator.submit(round(1, 1), "aachen", 2.0, 1).await;
    coordinator.submit(round(1, 1), "kyoto", 4.0, 1).await;
    let submission = coordinator.submission(round(1, 1), "mayo", 6.0, 1);
    let checks = Arc::clone(&coordinator.handle.checks);
    let busy = checks.acquire_many_owned(CHECKS_MAX as u32).await.unwrap();
    coordinator.clock.advance(Duration::from_secs(990));
    let handle = coordinator.handle.clone();
    let submitted = tokio::spawn(async move { handle.submit(&site("mayo"), submission).await });
    // At most 300 s by the plan, 60 s at a time.
    for at in (990..1_290).step_by(50) {
        let until = Timestamp::from_second((at + 60).min(1_300)).unwrap();
        coordinator.until(|_, round| round.until() == Some(until)).await;
        coordinator.clock.advance(Duration::from_secs(50));
    }
    drop(busy);
    submitted.await.unwrap().unwrap();
    let run = coordinator.until_committed(1).await;
    assert_eq!(coordinator.values(&run.model), [4.0, -4.0]);
}

#[tokio::test]
async fn at_any_moment_it_is_told_who_is_missing_since_when_and_why() {
    let coordinator = Coordinator::start_with(folding()).await;
    let handle = &coordinator.handle;
    let told = || {
        let (_, round) = handle.run_now(&brain()).unwrap();
        let one = |m: &MissingView| (m.site.to_string(), m.to_string(), m.since);
        round.missing.iter().map(one).collect::<Vec<_>>()
    };
    let at = |seconds| Some(Timestamp::from_second(seconds).unwrap());
    let line = |site: &str, why: &str, since| (site.to_owned(), why.to_owned(), since);
    let names = ["aachen", "kyoto", "mayo"];
    let unheard = "not heard of since the coordinator was started";
    assert_eq!(told(), names.map(|name| line(name, unheard, Some(START))));
    for name in names {
        coordinator.beat(name, Activity::Idle).await;
    }
    assert_eq!(told(), names.map(|name| line(name, "has not joined", Some(START))));
    coordinator.clock.advance(Duration::from_secs(10));
    coordinator.join(&["kyoto"]).await;
    assert_eq!(told()[0], line("kyoto", "joined, waits for the round to begin", at(10)));
    coordinator.join(&["aachen", "mayo"]).await;
    assert_eq!(told()[0], line("aachen", "joined, has not begun to train", at(10)));

    coordinator.clock.advance(Duration::from_secs(5));
    for step in [1, 7] {
        let progress = Progress { step, steps: 200, loss: Some(0.5) };
        coordinator.beat("aachen", Activity::Training(round(1, 1), progress)).await;
        coordinator.clock.advance(Duration::from_secs(1));
    }
    coordinator.beat("kyoto", Activity::Withdrawing(round(1, 1), Withdrawal::OutOfMemory)).await;
    coordinator.clock.advance(Duration::from_secs(13));
    let heard = Timestamp::from_second(10).unwrap();
    assert_eq!(
        told(),
        [
            line("aachen", "training, step 7 of 200", at(15)),
            line("kyoto", "withdrew: the trainer ran out of memory", at(17)),
            line("mayo", &format!("not heard of since {heard}"), at(10)),
        ]
    );
    let coordinator = coordinator.restart().await;
    let missing = coordinator.handle.run_now(&brain()).unwrap().1.missing;
    assert_eq!(missing[0].to_string(), "not heard of since the coordinator was started");
    assert_eq!((missing[0].since, missing[1].since), (at(30), at(17)), "what a row tells is kept");
}

#[tokio::test]
async fn a_site_that_trains_late_is_shown_with_the_round_it_trains() {
    let coordinator = Coordinator::start_with(folding()).await;
    coordinator.join(&["mayo"]).await;
    coordinator.commit_without_mayo(1).await;
    coordinator.until(|_, round| round.id.number == 2).await;
    let progress = Progress { step: 9, steps: 200, loss: Some(0.5) };
    coordinator.beat("mayo", Activity::Training(round(1, 1), progress)).await;
    let missing = coordinator.handle.run_now(&brain()).unwrap().1.missing;
    let mayo = missing.iter().find(|missing| missing.site.as_str() == "mayo").unwrap();
    assert_eq!(mayo.to_string(), "late: trains round brain/1.1, step 9 of 200");
    let heard = coordinator.clock.now();
    coordinator.clock.advance(Duration::from_secs(16));
    let missing = coordinator.handle.run_now(&brain()).unwrap().1.missing;
    let mayo = missing.iter().find(|missing| missing.site.as_str() == "mayo").unwrap();
    assert_eq!(mayo.to_string(), format!("not heard of since {heard}"), "nobody trains it");
    let gone = Activity::Withdrawing(round(1, 1), Withdrawal::TrainerDied);
    assert!(matches!(coordinator.beat("mayo", gone).await, Directive::Join { .. }));
    let state = coordinator.handle.state.borrow().clone();
    let straggler = state.run(&brain()).unwrap().straggler(&round(1, 1), &site("mayo")).unwrap();
    assert!(matches!(straggler.late, Late::Dropped { .. }));
}

#[tokio::test]
async fn a_site_that_does_not_join_is_shown_as_what_it_is_silent_or_busy_with_another_run() {
    let coordinator = Coordinator::start_with(plan(1, 2)).await;
    coordinator.join(&["aachen", "kyoto", "mayo"]).await;
    coordinator.clock.advance(Duration::from_secs(10));
    let (handle, liver) = (&coordinator.handle, "liver".parse().unwrap());
    let base = coordinator.put("base", BASE);
    handle.create_run(&ada(), &liver, plan(1, 2), base).await.unwrap();
    coordinator.submit(round(1, 1), "kyoto", 4.0, 1).await;
    for name in ["aachen", "kyoto"] {
        coordinator.beat(name, Activity::Idle).await;
    }
    coordinator.clock.advance(Duration::from_secs(8));
    let told = handle.run_now(&liver).unwrap().1.missing;
    let told: Vec<_> = told.iter().map(|missing| (missing.to_string(), missing.since)).collect();
    let at = |seconds| Some(Timestamp::from_second(seconds).unwrap());
    assert_eq!(
        told,
        [
            ("busy with round brain/1.1 of another run".to_owned(), at(0)),
            ("has not joined".to_owned(), at(10)),
            (format!("not heard of since {START}"), at(0)),
        ]
    );
}
