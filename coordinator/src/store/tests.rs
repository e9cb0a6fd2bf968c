//! Every query, on SQLite and, where `TEST_POSTGRES_URL` names one, on PostgreSQL.

mod checksum;
mod copies;
mod lease;
mod migration;
mod readers;
mod resent;
mod roster;
mod told;

use fedpaint_proto::names::{Blob, SiteName};
use fedpaint_proto::plan::SignedPlan;
use sqlx::AssertSqlSafe;
use tokio::sync::{Mutex, MutexGuard};

use super::rows::Columns;
use super::*;
use crate::aggregate::{Aggregate, Made};
use crate::round::{Event, Report, Update, Withdrawal};
use crate::run::State;
use crate::standing::{Outlier, Standing};
use crate::testing::{START, blob, plan, plan_signer};

fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

fn row(name: &str) -> SiteRow {
    SiteRow::by_name(site(name), START)
}

/// Numbers of which a decimal keeps no more than it must.
fn standings() -> Vec<Standing> {
    let one = |name: &str, norm, cosine, outlier| Standing {
        site: site(name),
        late: outlier == Some(Outlier::Direction),
        norm,
        cosine,
        nearest: cosine,
        outlier,
        excluded: outlier.is_some(),
    };
    vec![
        one("kyoto", 1.0 / 3.0, Some(0.1), None),
        one("mayo", f32::MAX, None, Some(Outlier::Length)),
        one("oslo", f32::MIN_POSITIVE / 8.0, Some(-0.7), Some(Outlier::Direction)),
        one("paris", 1.0, Some(0.999_999_9), Some(Outlier::Twin)),
        one("turin", 1.0, Some(0.3), Some(Outlier::Replay)),
    ]
}

fn event(seq: u64) -> EventRow {
    let (actor, kind) = ("operator/ada".to_owned(), "run_created".to_owned());
    let detail = "run brain: it's \"quoted\"".to_owned();
    EventRow { seq, at: START, actor, kind, detail, document: None }
}

fn update(text: &str) -> Update {
    let report = Report { steps: 7, loss_mean: 0.25, ..Report::default() };
    Update { weights: blob(text), examples: 1 << 32, report }
}

/// A model with everything beside it that a round can keep.
fn kept(model: &str) -> Aggregate<Blob> {
    Aggregate {
        model: blob(model),
        ema: Some(blob(&format!("{model}'s average"))),
        momentum: Some(blob(&format!("{model}'s momentum"))),
        second_moment: Some(blob(&format!("{model}'s second moment"))),
    }
}

/// There is one PostgreSQL to test on, which a test has for itself.
static POSTGRES: Mutex<()> = Mutex::const_new(());

fn sqlite_url(folder: &tempfile::TempDir) -> String {
    let path = folder.path().join("a folder").join("coordinator.db");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    format!("sqlite:{}", path.display())
}

async fn sqlite(folder: &tempfile::TempDir) -> Store {
    Store::open(&sqlite_url(folder)).await.unwrap()
}

/// An empty PostgreSQL, or none with a word about it.
async fn postgres() -> Option<(String, MutexGuard<'static, ()>)> {
    let Ok(url) = std::env::var("TEST_POSTGRES_URL") else {
        println!("not tested on PostgreSQL: TEST_POSTGRES_URL is not set");
        return None;
    };
    let guard = POSTGRES.lock().await;
    sqlx::any::install_default_drivers();
    let pool = AnyPool::connect(&url).await.unwrap();
    let reset = "DROP SCHEMA public CASCADE; CREATE SCHEMA public;";
    sqlx::raw_sql(reset).execute(&pool).await.unwrap();
    pool.close().await;
    Some((url, guard))
}

/// Saves a change of one run and gives the run back for the next one.
async fn save(store: &Store, before: Option<&Run>, after: Run) -> Run {
    let change = Change { runs: vec![(before, &after)], ..Change::default() };
    store.save(&change).await.unwrap();
    after
}

/// One run through every phase a row can hold; what is loaded is what was saved, at every step.
async fn every_query(store: &Store) {
    let policy = plan(5, 1).round;
    let loaded = store.load().await.unwrap();
    assert_eq!((loaded.sites.len(), loaded.runs.len(), loaded.log.tree.size()), (0, 0, 0));

    let mut sites = [row("kyoto"), row("mayo"), row("oslo")];
    let events = vec![event(1), event(2), event(3)];
    let change = Change { sites: sites.iter().collect(), events, ..Change::default() };
    store.save(&change).await.unwrap();
    sites[2].revoked_at = Some(START);
    let change = Change { sites: vec![&sites[2]], ..Change::default() };
    store.save(&change).await.unwrap();
    assert_eq!(store.load().await.unwrap().sites, sites);
    assert_eq!(store.events(1, 10).await.unwrap(), [event(2), event(3)]);
    assert_eq!(store.events(0, 1).await.unwrap(), [event(1)]);
    assert_eq!(store.events(u64::MAX, 1).await.unwrap(), []);

    let signature = Some(plan_signer().sign(&plan(5, 1)));
    let signed = SignedPlan { plan: plan(5, 1), signature };
    let run = Run::create("brain".parse().unwrap(), signed, blob("base"), START);
    let mut run = save(store, None, run).await;
    let mut rounds = vec![];
    for event in [
        Event::Joined(site("mayo")),
        Event::Joined(site("oslo")),
        Event::Withdrew(site("oslo"), Withdrawal::Stopping),
        Event::Joined(site("kyoto")),
        Event::Closed,
        Event::Reported(site("mayo"), update("mayo")),
        Event::Withdrew(site("kyoto"), Withdrawal::OutOfMemory),
        Event::AggregationFailed("disk".to_owned()),
    ] {
        let mut next = run.clone();
        next.apply(event, START).unwrap();
        run = save(store, Some(&run), next).await;
        assert_eq!(store.load().await.unwrap().runs, [run.clone()]);
    }
    rounds.push(run.round().clone());
    let mut next = run.clone();
    next.open_round(START);
    run = save(store, Some(&run), next).await;
    for event in [
        Event::Joined(site("mayo")),
        Event::Closed,
        Event::Reported(site("mayo"), update("mayo")),
        Event::Aggregated(Made { files: kept("m1"), standings: standings() }),
    ] {
        let mut next = run.clone();
        next.apply(event, START).unwrap();
        run = save(store, Some(&run), next).await;
    }
    rounds.push(run.round().clone());
    assert_eq!(store.load().await.unwrap().runs[0].newest(), kept("m1"));
    assert_eq!(store.load().await.unwrap().runs[0].round().standings(), standings());
    let mut paused = run.clone();
    paused.readmit(site("oslo"), START).unwrap();
    paused.pause(START).unwrap();
    paused.resume().unwrap();
    paused.pause(START).unwrap();
    let run = save(store, Some(&run), paused).await;

    let loaded = store.load().await.unwrap();
    assert!(matches!(loaded.runs[0].state(), State::Paused { .. }));
    assert_eq!(loaded.runs, std::slice::from_ref(&run));
    assert_eq!(loaded.log.tree.size(), 3);
    for (name, is_model) in [
        ("base", true),
        ("m1", true),
        ("m1's average", true),
        ("m1's momentum", false),
        ("mayo", false),
    ] {
        let found = store.global_model(&blob(name).digest).await.unwrap();
        assert_eq!(found, is_model.then(|| blob(name)), "{name}");
    }
    let ema = Some(blob("m1's average"));
    let model = ModelRow { round: 1, blob: blob("m1"), ema, committed_at: START };
    assert_eq!(store.models(run.name(), None, 9).await.unwrap(), [model]);

    let page =
        async |before, limit| store.rounds(run.name(), &policy, before, limit).await.unwrap();
    assert_eq!(page(None, 10).await, rounds);
    assert_eq!(page(None, 1).await, rounds[1..]);
    let outcomes = Outcomes { committed: 1, abandoned: 1, seq: 3 };
    assert_eq!(store.outcomes().await.unwrap(), outcomes);
    let newest = rounds[1].id();
    assert_eq!(page(Some((newest.number, newest.attempt)), 10).await, rounds[..1]);
    assert_eq!(page(Some((newest.number, newest.attempt + 1)), 10).await, rounds);
    assert_eq!(page(Some((1, 1)), 10).await, []);
    assert_eq!(store.models(run.name(), Some(1), 9).await.unwrap(), []);
    assert_eq!(store.models(run.name(), None, 0).await.unwrap(), []);
    let id = |attempt| RoundId { run: run.name().clone(), number: 1, attempt };
    assert_eq!(store.round(&id(1), &policy).await.unwrap().as_ref(), Some(&rounds[0]));
    assert_eq!(store.round(&id(0), &policy).await.unwrap().as_ref(), Some(&rounds[1]));
    assert_eq!(store.round(&id(3), &policy).await.unwrap(), None);
}

/// A change whose last row cannot be written leaves nothing of itself.
async fn all_or_nothing(store: &Store) {
    let before = store.load().await.unwrap();
    let new = row("aachen");
    // The audit log has an entry 1: so would it for a second coordinator.
    let change = Change { sites: vec![&new], events: vec![event(1)], ..Change::default() };
    assert!(matches!(store.save(&change).await, Err(Error::Sql(_))));
    assert_eq!(store.load().await.unwrap().sites, before.sites);
}

#[tokio::test]
async fn every_query_runs_on_sqlite_and_what_is_loaded_is_what_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    every_query(&store).await;
    all_or_nothing(&store).await;
    store.close().await;
    let store = sqlite(&folder).await;
    assert_eq!(
        store.load().await.unwrap().log.tree.size(),
        3,
        "a second opening finds what the first left"
    );
}

#[tokio::test]
async fn every_query_runs_on_postgres_and_what_is_loaded_is_what_was_saved() {
    let Some((url, _guard)) = postgres().await else { return };
    let store = Store::open(&url).await.unwrap();
    every_query(&store).await;
    all_or_nothing(&store).await;
    store.close().await;
}

#[tokio::test]
async fn what_is_part_of_a_round_is_found_without_a_look_at_every_straggler_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let plan = format!("EXPLAIN QUERY PLAN {}", late::FOLDED);
    let plan = sqlx::query(sqlx::AssertSqlSafe(plan)).bind("brain").bind(1_i64).bind(1_i64);
    let plan = plan.fetch_one(&store.pool).await.unwrap().text("detail").unwrap();
    let index = "USING INDEX straggler_into (run=? AND into_number>? AND into_number<?)";
    assert!(plan.contains(index), "{plan}");
}

#[tokio::test]
async fn the_nodes_of_a_proof_are_found_without_a_look_at_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let plan = format!("EXPLAIN QUERY PLAN {}", log::NODES);
    let mut plan = sqlx::query(sqlx::AssertSqlSafe(plan));
    for place in 0..32_i64 {
        plan = plan.bind(place);
    }
    let steps = plan.fetch_all(&store.pool).await.unwrap();
    let steps: Vec<String> = steps.iter().map(|step| step.text("detail").unwrap()).collect();
    assert_eq!(steps.iter().filter(|step| step.contains("(level=? AND idx=?)")).count(), 16);
    assert!(!steps.iter().any(|step| step.contains("SCAN")), "{steps:?}");
}

#[tokio::test]
async fn a_commit_on_sqlite_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    for (pragma, expected) in [
        ("SELECT * FROM pragma_synchronous", 2_i64),
        ("SELECT * FROM pragma_foreign_keys", 1),
        ("SELECT * FROM pragma_busy_timeout", 5_000),
    ] {
        let found: i64 = sqlx::query_scalar(pragma).fetch_one(&store.pool).await.unwrap();
        assert_eq!(found, expected, "{pragma}");
    }
    let mode = sqlx::query_scalar("SELECT * FROM pragma_journal_mode").fetch_one(&store.pool);
    let mode: String = mode.await.unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn a_commit_on_postgres_is_on_the_disk_whatever_its_configuration_says() {
    let Some((url, _guard)) = postgres().await else { return };
    let off = if url.contains('?') { "&" } else { "?" };
    let store =
        Store::open(&format!("{url}{off}options=-csynchronous_commit%3Doff")).await.unwrap();
    for pool in [&store.pool, &store.reads] {
        let found: String =
            sqlx::query_scalar("SHOW synchronous_commit").fetch_one(pool).await.unwrap();
        assert_eq!(found, "on");
    }
}

#[tokio::test]
async fn a_database_that_does_not_open_or_is_another_is_an_error_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let missing = format!("sqlite:{}/no/such/folder/x.db", folder.path().display());
    let error = Store::open(&missing).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot open the database"), "{error}");
    let other = folder.path().join("other.db");
    std::fs::write(&other, "this is no database, only a text of some length".repeat(20)).unwrap();
    let error = Store::open(&format!("sqlite:{}", other.display())).await.unwrap_err();
    assert!(error.to_string().contains("not a database"), "{error}");
    let error = Store::open("mongo://localhost/x").await.unwrap_err();
    assert!(matches!(error, Error::Open(_)), "{error}");
}

/// A checksum that is none.
const MARK: &str = "as it was.......................................................";

/// A run, and the same after a site has joined its round.
fn joined() -> (Run, Run) {
    let before = Run::create("brain".parse().unwrap(), plan(2, 1), blob("base"), START);
    let mut after = before.clone();
    after.apply(Event::Joined(site("mayo")), START).unwrap();
    (before, after)
}

#[tokio::test]
async fn a_row_that_has_not_changed_is_not_written_again_and_one_that_has_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let (before, after) = joined();
    store.save(&Change { sites: vec![&row("mayo")], ..Change::default() }).await.unwrap();
    save(&store, None, before.clone()).await;
    for table in ["run", "round"] {
        let mark = AssertSqlSafe(format!("UPDATE {table} SET checksum = $1"));
        sqlx::query(mark).bind(MARK).execute(&store.pool).await.unwrap();
    }
    let marked = async |table: &str| -> i64 {
        let count = format!("SELECT COUNT(*) AS n FROM {table} WHERE checksum = $1");
        let count = sqlx::query(AssertSqlSafe(count)).bind(MARK);
        let row = count.fetch_one(&store.pool).await.unwrap();
        row.get("n")
    };
    // A member is a row of its own.
    let after = save(&store, Some(&before), after).await;
    assert_eq!((marked("run").await, marked("round").await), (1, 1));
    let mut closed = after.clone();
    closed.apply(Event::Closed, START).unwrap();
    let closed = save(&store, Some(&after), closed).await;
    assert_eq!((marked("run").await, marked("round").await), (1, 0));
    let mut paused = closed.clone();
    paused.pause(START).unwrap();
    save(&store, Some(&closed), paused).await;
    assert_eq!((marked("run").await, marked("round").await), (0, 0));
}

#[tokio::test]
async fn more_entries_and_nodes_than_one_statement_takes_are_all_written_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let events: Vec<EventRow> = (1..=3 * write::ROWS_AT_ONCE as u64 + 1).map(event).collect();
    let mut log = Log::default();
    let nodes: Vec<_> = events.iter().flat_map(|event| log.push(event)).collect();
    assert!(nodes.len() > events.len());
    store.save(&Change { events: events.clone(), nodes, ..Change::default() }).await.unwrap();
    assert_eq!(store.events(0, 99).await.unwrap(), events);
    assert_eq!(store.load().await.unwrap().log, log);
}
