//! What the coordinator makes of updates that are unlike the others, all but one, sent again, or none: told, left
//! out by the plan, counted again by an operator, the same after a restart and computed again.

use std::sync::Arc;

use fedpaint_coordinator::clock::SystemClock;
use fedpaint_coordinator::config::Config;
use fedpaint_coordinator::maintenance;
use fedpaint_proto::limits::EXAMPLES_MAX;
use fedpaint_proto::reason::Reason;
use fedpaint_proto::v1::{
    BlobRef, CreateRunRequest, GetRoundRequest, GetRunRequest, ListEventsRequest, Outlier,
    ReadmitSiteRequest, Round, RoundPhase, Run,
};

use crate::blobs::{download, upload};
use crate::federation::{CONFIG, Client, Federation};
use crate::rounds::{blob, initial, model, values};

const SITES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

const BASE: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// What a site moves the base model by: all go one way, `f` the other, `g` a thousand times as far.
fn moves(at: usize) -> [f32; 4] {
    let own = at as f32 * 0.01;
    match SITES[at] {
        "f" => [-0.5, -0.5, -0.5, -0.5],
        "g" => [500.0, 500.0, -500.0, 500.0],
        _ => [0.5 + own, 0.5 - own, 0.5, 0.5 + own],
    }
}

fn moved(base: &[f32], at: usize) -> Vec<f32> {
    base.iter().zip(moves(at)).map(|(base, by)| base + by).collect()
}

async fn create(operator: &mut Client, aggregation: &str) {
    let bytes = model(&BASE);
    upload(operator, initial(), &bytes).await.unwrap();
    let plan_toml = format!(
        "version = 1\nrounds = 3\n[round]\nsites_min = 5\nsites_goal = 7\n\
         [aggregation]\nema_decay = 0.0\n{aggregation}"
    );
    let (initial_model, name) = (Some(blob(&bytes)), "t1".into());
    let request = CreateRunRequest { name, plan_toml, initial_model, plan_signature: None };
    operator.admin.create_run(request).await.unwrap();
}

/// Has every site join and report what it has moved; what the round has become.
async fn play(sites: &mut [Client], operator: &mut Client, number: u32) -> Round {
    play_with(sites, operator, number, moved).await
}

/// The same with what a site makes of the base model.
async fn play_with(
    sites: &mut [Client],
    operator: &mut Client,
    number: u32,
    trained: impl Fn(&[f32], usize) -> Vec<f32>,
) -> Round {
    for site in sites.iter_mut() {
        // The round opens when the last one's average is made.
        while site.join_if_asked().await.is_none_or(|round| round.number != number) {}
    }
    for (at, site) in sites.iter_mut().enumerate() {
        let train = site.train().await;
        let base = fetch(site, train.base_model.as_ref()).await;
        site.report(&train, &trained(&base, at), 10).await.unwrap();
    }
    loop {
        let found = round(operator, number).await;
        if found.phase() == RoundPhase::Committed {
            return found;
        }
        assert_eq!(found.phase(), RoundPhase::Aggregating, "{}", found.reason);
    }
}

async fn fetch(client: &mut Client, model: Option<&BlobRef>) -> Vec<f32> {
    values(&download(client, &model.unwrap().digest, 0).await.unwrap())
}

async fn round(operator: &mut Client, number: u32) -> Round {
    let request = GetRoundRequest { run: "t1".into(), number, attempt: 0 };
    operator.admin.get_round(request).await.unwrap().into_inner().round.unwrap()
}

async fn run(operator: &mut Client) -> Run {
    let request = GetRunRequest { name: "t1".into() };
    operator.admin.get_run(request).await.unwrap().into_inner().run.unwrap()
}

async fn entries(operator: &mut Client, kind: &str) -> Vec<String> {
    let request = ListEventsRequest { after_seq: 0, limit: 0 };
    let events = operator.admin.list_events(request).await.unwrap().into_inner().events;
    events.into_iter().filter(|event| event.kind == kind).map(|event| event.detail).collect()
}

/// Whose update was told to be unlike the others, in what, and whether it was left out.
fn outliers(round: &Round) -> Vec<(&str, Outlier, bool)> {
    let told = round.standings.iter().filter(|s| s.outlier() != Outlier::Unspecified);
    told.map(|s| (s.site.as_str(), s.outlier(), s.excluded)).collect()
}

#[tokio::test]
async fn who_is_quarantined_is_told_and_counts_again_once_an_operator_readmits_it() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = Vec::new();
    for name in SITES {
        sites.push(federation.site(name).await);
    }
    create(&mut operator, "quarantine = true").await;
    let first = play(&mut sites, &mut operator, 1).await;
    let left_out = [("f", Outlier::Direction, true), ("g", Outlier::Length, true)];
    assert_eq!(outliers(&first), left_out);
    assert_eq!(first.standings.len(), 7);
    let norm = moves(6).iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    assert!((first.standings[6].norm / norm - 1.0).abs() < 1e-6, "{:?}", first.standings[6]);
    let made = fetch(&mut operator, first.model.as_ref()).await;
    for (at, made) in made.iter().enumerate() {
        let mean = (0..5).map(|site| BASE[at] + moves(site)[at]).sum::<f32>() / 5.0;
        assert!((made - mean).abs() < 1e-6, "{made} for {mean}");
    }
    let told = entries(&mut operator, "update_quarantined").await;
    assert!(told[1].starts_with("round t1/1.1: site g, norm 1.000e3, cosine "), "{told:?}");
    assert!(told[1].ends_with("unlike the others in length; the model has nothing of it"));

    let readmit = |site: &str| ReadmitSiteRequest { run: "t1".into(), site: site.into() };
    let unknown = operator.admin.readmit_site(readmit("nobody")).await.unwrap_err();
    assert_eq!(unknown.message(), "there is no site nobody");
    operator.admin.readmit_site(readmit("f")).await.unwrap();
    operator.admin.readmit_site(readmit("f")).await.unwrap();
    assert_eq!(
        entries(&mut operator, "site_readmitted").await,
        ["run t1: site f, from round 2 on"]
    );

    // What is known of it outlives the coordinator.
    drop((sites, operator));
    let (folder, authority) = federation.stop().await;
    let federation = Federation::start_in(folder, authority, Arc::new(SystemClock)).await;
    let mut operator = federation.operator().await;
    assert_eq!(round(&mut operator, 1).await, first);
    assert_eq!(run(&mut operator).await.readmitted, ["f"]);
    let mut sites = Vec::new();
    for name in SITES {
        sites.push(federation.client(&format!("spiffe://brain/site/{name}")).await);
    }
    let second = play(&mut sites, &mut operator, 2).await;
    let expected = [("f", Outlier::Direction, false), ("g", Outlier::Length, true)];
    assert_eq!(outliers(&second), expected);
    assert_eq!(entries(&mut operator, "update_outlier").await.len(), 1);

    // Each round is computed again with whom it was made without.
    let (folder, _authority) = federation.stop().await;
    let config = Config::parse(CONFIG, &folder.path().join("c.toml")).unwrap();
    let replayed = maintenance::replay(&config, &"t1".parse().unwrap(), None).await.unwrap();
    assert!(replayed.equal && replayed.rounds.len() == 2, "{replayed}");
}

#[tokio::test]
async fn without_a_quarantine_an_outlier_is_told_and_counts_and_a_robust_rule_is_not_moved() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = Vec::new();
    for name in SITES {
        sites.push(federation.site(name).await);
    }
    create(&mut operator, "rule = \"median\"").await;
    let made = play(&mut sites, &mut operator, 1).await;
    assert_eq!(outliers(&made), [("g", Outlier::Length, false)]);
    let model = fetch(&mut operator, made.model.as_ref()).await;
    for (base, made) in BASE.iter().zip(model) {
        assert!((made - base - 0.5).abs() < 0.05, "{made} from {base}");
    }
    federation.stop().await;
}

/// What sites move the base model by that each go a way of their own; `f` and `g` agree on one.
const WAYS: [[f32; 4]; 7] = [
    [1.0, 0.0, 0.5, 0.0],
    [0.0, 1.0, 0.0, 0.5],
    [0.5, 0.0, 1.0, 0.0],
    [0.0, 0.5, 0.0, 1.0],
    [1.0, 0.5, -0.5, 0.5],
    [0.5, 0.75, 0.25, 0.25],
    [0.5, 0.75, 0.25, 0.25],
];

#[tokio::test]
async fn who_agrees_on_an_update_or_sends_an_old_one_is_left_out_and_so_it_is_computed_again() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = Vec::new();
    for name in SITES {
        sites.push(federation.site(name).await);
    }
    create(&mut operator, "quarantine_twins = true\nquarantine_replays = true").await;
    let go = |base: &[f32], at: usize| -> Vec<f32> {
        base.iter().zip(WAYS[at]).map(|(base, by)| base + by).collect()
    };
    let first = play_with(&mut sites, &mut operator, 1, go).await;
    let twins = [("f", Outlier::Twin, true), ("g", Outlier::Twin, true)];
    assert_eq!(outliers(&first), twins);
    assert!(first.standings[5].nearest_cosine() > 0.999_999, "{:?}", first.standings);
    let made = fetch(&mut operator, first.model.as_ref()).await;
    for (at, made) in made.iter().enumerate() {
        let mean = (0..5).map(|site| BASE[at] + WAYS[site][at]).sum::<f32>() / 5.0;
        assert!((made - mean).abs() < 1e-6, "{made} for {mean}");
    }
    let told = entries(&mut operator, "update_quarantined").await;
    let ends = ", nearest 1.0000, all but the same as another site's; the model has nothing of it";
    assert!(told[0].contains("site f, norm ") && told[0].ends_with(ends), "{told:?}");

    // `a` sends what it has sent before, and `g` goes a way of its own.
    let second = play_with(&mut sites, &mut operator, 2, |base, at| match at {
        0 => go(&BASE, 0),
        6 => base.iter().zip([0.25, 0.25, 0.75, 0.5]).map(|(base, by)| base + by).collect(),
        _ => go(base, at),
    });
    let second = second.await;
    assert_eq!(outliers(&second), [("a", Outlier::Replay, true)]);
    let told = entries(&mut operator, "update_quarantined").await;
    let ends = "the same file as an update for an earlier round; the model has nothing of it";
    assert!(told[2].contains("site a, norm ") && told[2].ends_with(ends), "{told:?}");

    drop((sites, operator));
    let (folder, _authority) = federation.stop().await;
    let config = Config::parse(CONFIG, &folder.path().join("c.toml")).unwrap();
    let replayed = maintenance::replay(&config, &"t1".parse().unwrap(), None).await.unwrap();
    assert!(replayed.equal && replayed.rounds.len() == 2, "{replayed}");
}

#[tokio::test]
async fn a_malformed_update_is_refused_by_its_name_and_the_round_goes_on_without_it() {
    let federation = Federation::start().await;
    let mut operator = federation.operator().await;
    let mut sites = Vec::new();
    for name in SITES {
        sites.push(federation.site(name).await);
    }
    create(&mut operator, "rule = \"trimmed_mean\"").await;
    for site in &mut sites {
        site.join().await;
    }
    let train = sites[0].train().await;
    let other_base = {
        let mut train = train.clone();
        train.base_model = Some(blob(&model(&[9.0; 4])));
        train
    };
    let good = moved(&BASE, 0);
    let with = |at: usize, value: f32| {
        let mut values = good.clone();
        values[at] = value;
        values
    };
    let bad: [(&str, Vec<f32>, u64, bool, Reason); 8] = [
        ("not a number", with(1, f32::NAN), 10, false, Reason::NotFinite),
        ("infinity", with(2, f32::INFINITY), 10, false, Reason::NotFinite),
        ("minus infinity", with(3, f32::NEG_INFINITY), 10, false, Reason::NotFinite),
        ("another base model", good.clone(), 10, true, Reason::WrongBaseModel),
        ("no weight", good.clone(), 0, false, Reason::WrongExamples),
        ("an absurd weight", good.clone(), EXAMPLES_MAX + 1, false, Reason::WrongExamples),
        ("the most absurd weight", good.clone(), u64::MAX, false, Reason::WrongExamples),
        ("another shape", vec![1.0; 5], 10, false, Reason::WrongShape),
    ];
    for (what, values, examples, elsewhere, reason) in &bad {
        for site in [5, 6] {
            let train = if *elsewhere { &other_base } else { &train };
            let refused = sites[site].report(train, values, *examples).await.unwrap_err();
            assert_eq!(Reason::of(&refused), Some(*reason), "{what}: {refused:?}");
        }
    }
    for (at, site) in sites.iter_mut().enumerate().take(5) {
        site.report(&train, &moved(&BASE, at), 10).await.unwrap();
    }
    let found = round(&mut operator, 1).await;
    assert_eq!(found.phase(), RoundPhase::Reporting, "two sites may still send what they should");
    assert_eq!(entries(&mut operator, "update_accepted").await.len(), 5);
    federation.stop().await;
}
