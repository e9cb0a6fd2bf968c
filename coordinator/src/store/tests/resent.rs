//! Which updates are files that were sent for an earlier round, whenever it is asked.

use fedpaint_proto::plan::LatePolicy;

use super::*;

/// A run by hand: sites join and report, and what is saved is what is asked.
struct Hand {
    store: Store,
    run: Run,
}

impl Hand {
    async fn new(url: &str) -> Hand {
        let store = Store::open(url).await.unwrap();
        let sites = ["kyoto", "mayo", "oslo", "paris"].map(row);
        let change = Change { sites: sites.iter().collect(), ..Change::default() };
        store.save(&change).await.unwrap();
        let mut plan = plan(9, 1);
        plan.round.sites_goal = 9;
        plan.round.late = LatePolicy::Fold;
        let run = Run::create("brain".parse().unwrap(), plan, blob("base"), START);
        let run = save(&store, None, run).await;
        Hand { store, run }
    }

    async fn apply(&mut self, id: &RoundId, event: Event) {
        let mut next = self.run.clone();
        next.apply_to(id, event, START).unwrap();
        self.run = save(&self.store, Some(&self.run), next).await;
    }

    /// These sites join the round in hand and report these files, and others join and do not.
    async fn seal(&mut self, reports: &[(&str, &str)], silent: &[&str]) -> RoundId {
        let id = self.run.round().id().clone();
        for name in reports.iter().map(|(name, _)| name).chain(silent) {
            self.apply(&id, Event::Joined(site(name))).await;
        }
        self.apply(&id, Event::Closed).await;
        for (name, file) in reports {
            self.apply(&id, Event::Reported(site(name), update(file))).await;
        }
        if !silent.is_empty() {
            self.apply(&id, Event::Closed).await;
        }
        id
    }

    /// The round in hand ends, and the next one is opened.
    async fn end(&mut self, event: Event) {
        let id = self.run.round().id().clone();
        self.apply(&id, event).await;
        let mut next = self.run.clone();
        next.open_round(START);
        self.run = save(&self.store, Some(&self.run), next).await;
    }

    async fn commit(&mut self) {
        let made = kept(&format!("model {}", self.run.round().id().number));
        self.end(Event::Aggregated(made.into())).await;
    }

    /// Whose updates of a round were sent before, and for which round they are.
    async fn resent(&self, id: &RoundId) -> Vec<(String, u32)> {
        let resent = self.store.resent(id).await.unwrap();
        resent.into_iter().map(|(site, number)| (site.to_string(), number)).collect()
    }
}

async fn files_are_sent_again(url: &str) {
    let mut hand = Hand::new(url).await;
    let of = |name: &str, number| vec![(name.to_owned(), number)];
    let none: Vec<(String, u32)> = Vec::new();
    // A round that is tried again is trained to the same files.
    let first = hand.seal(&[("kyoto", "b"), ("mayo", "a")], &[]).await;
    assert_eq!(hand.resent(&first).await, none);
    hand.end(Event::AggregationFailed("disk".to_owned())).await;
    let first = hand.seal(&[("kyoto", "b"), ("mayo", "a")], &["oslo"]).await;
    assert_eq!((hand.resent(&first).await, first.attempt), (none.clone(), 2));
    hand.commit().await;

    // A late update was not sent before because it is late.
    hand.apply(&first, Event::Reported(site("oslo"), update("c"))).await;
    let second = hand.seal(&[("kyoto", "b"), ("mayo", "d")], &[]).await;
    assert_eq!(hand.run.round().late().len(), 1);
    assert_eq!(hand.resent(&second).await, of("kyoto", 2));
    hand.commit().await;

    // Another site's file is one that was sent, also where it came late.
    let third = hand.seal(&[("kyoto", "e"), ("mayo", "c")], &["oslo", "paris"]).await;
    assert_eq!(hand.resent(&third).await, of("mayo", 3));
    hand.commit().await;

    // So is one that comes late itself, by the round that it is for.
    hand.apply(&third, Event::Reported(site("paris"), update("d"))).await;
    let fourth = hand.seal(&[("kyoto", "f"), ("mayo", "g")], &[]).await;
    assert_eq!(hand.resent(&fourth).await, of("paris", 3));
    hand.commit().await;

    // What comes later changes no round that is past, for whatever round it is.
    hand.apply(&third, Event::Reported(site("oslo"), update("g"))).await;
    assert_eq!(hand.resent(&fourth).await, of("paris", 3));
    let fifth = hand.seal(&[("kyoto", "h"), ("mayo", "i")], &[]).await;
    assert_eq!(hand.resent(&fifth).await, none);
    hand.commit().await;
    for (id, expected) in
        [(first, none), (second, of("kyoto", 2)), (third, of("mayo", 3)), (fourth, of("paris", 3))]
    {
        assert_eq!(hand.resent(&id).await, expected, "{id}");
    }
    hand.store.close().await;
}

#[tokio::test]
async fn a_file_that_a_run_was_sent_for_an_earlier_round_is_found_at_any_time_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    files_are_sent_again(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn a_file_that_a_run_was_sent_for_an_earlier_round_is_found_at_any_time_on_postgres() {
    let Some((url, _guard)) = postgres().await else { return };
    files_are_sent_again(&url).await;
}

#[tokio::test]
async fn another_runs_files_are_none_that_were_sent_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut hand = Hand::new(&sqlite_url(&folder)).await;
    hand.seal(&[("mayo", "a")], &[]).await;
    hand.commit().await;
    let liver = Run::create("liver".parse().unwrap(), plan(9, 1), blob("base"), START);
    hand.run = save(&hand.store, None, liver).await;
    hand.seal(&[("mayo", "b")], &[]).await;
    hand.commit().await;
    let second = hand.seal(&[("mayo", "a")], &[]).await;
    assert_eq!(hand.resent(&second).await, Vec::<(String, u32)>::new());
}
