//! A database that an older version left, brought up to date.

use super::*;
use crate::round::Phase;

/// What version 1 of the schema held of a run with one round committed and the next one begun.
const ROWS: &[&str] = &[
    "INSERT INTO site VALUES ('mayo', 5, NULL)",
    "INSERT INTO run VALUES ('brain', 'version = 1\nrounds = 3\n[round]\nsites_min = 1', \
     $base, 4, $one, 3, 'active', NULL, 1, 0, 0)",
    "INSERT INTO round VALUES ('brain', 1, 1, 'abandoned', NULL, $base, 4, NULL, NULL, \
     '{\"too_few_sites\":{\"joined\":0,\"need\":1}}', 0, 1)",
    "INSERT INTO round VALUES ('brain', 1, 2, 'committed', NULL, $base, 4, $one, 3, NULL, 1, 2)",
    "INSERT INTO round VALUES ('brain', 2, 1, 'reporting', 90, $one, 3, NULL, NULL, NULL, 2, NULL)",
    "INSERT INTO member VALUES ('brain', 2, 1, 'mayo', 'joined', NULL, NULL, NULL, NULL, NULL)",
    "INSERT INTO event VALUES (1, 0, 'operator/ada', 'run_created', 'run brain')",
];

/// Makes the old database at `url`, opens it as today's, and lets the run go on.
async fn from_the_first_schema(url: &str) {
    sqlx::any::install_default_drivers();
    let made = if url.starts_with("sqlite:") { format!("{url}?mode=rwc") } else { url.to_owned() };
    let pool = AnyPoolOptions::new().max_connections(1).connect(&made).await.unwrap();
    migrate(&pool, &MIGRATIONS[..1]).await.unwrap();
    for row in ROWS {
        let digest = |text| format!("'{}'", blob(text).digest);
        let row = row.replace("$base", &digest("base")).replace("$one", &digest("one"));
        sqlx::raw_sql(sqlx::AssertSqlSafe(row)).execute(&pool).await.unwrap();
    }
    pool.close().await;

    let store = Store::open(url).await.unwrap();
    assert_eq!(store.unsound().await.unwrap(), (vec![], 6), "its rows have no checksums yet");
    assert_eq!(store.add_checksums().await.unwrap(), 6);
    let mut loaded = store.load().await.unwrap();
    assert_eq!((loaded.sites.len(), loaded.log.tree.size()), (1, 1));
    let run = loaded.runs.remove(0);
    assert_eq!(run.newest(), Aggregate::of(blob("one")), "nothing was kept beside it");
    assert_eq!((run.initial(), run.committed()), (blob("base"), 1));
    assert!(matches!(run.round().phase(), Phase::Reporting { .. }));
    assert!(run.round().members().contains_key(&site("mayo")));
    let rounds = store.rounds(run.name(), &run.plan().round, None, 10).await.unwrap();
    assert_eq!(rounds[1].phase(), &Phase::Committed(Aggregate::of(blob("one"))));
    assert_eq!(rounds.len(), 3);

    let mut next = run.clone();
    for event in
        [Event::Reported(site("mayo"), update("mayo")), Event::Aggregated(kept("two").into())]
    {
        next.apply(event, START).unwrap();
    }
    let next = save(&store, Some(&run), next).await;
    assert_eq!(store.unsound().await.unwrap(), (vec![], 0));
    assert_eq!(store.load().await.unwrap().runs, [next]);
    let models = store.models(run.name(), None, 10).await.unwrap();
    assert_eq!(models.iter().map(|m| m.ema).collect::<Vec<_>>(), [None, kept("two").ema]);
    store.close().await;
}

#[tokio::test]
async fn a_first_database_on_sqlite_keeps_its_rows_and_its_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    from_the_first_schema(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn a_first_database_on_postgres_keeps_its_rows_and_its_run_goes_on() {
    let Some((url, _guard)) = postgres().await else { return };
    from_the_first_schema(&url).await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_by_both_versions_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    let store = Store::open(&url).await.unwrap();
    let newest = MIGRATIONS.last().unwrap().0;
    let later = (newest + 1, "later", "CREATE TABLE later (x BIGINT NOT NULL)");
    migrate(&store.pool, &[MIGRATIONS, &[later]].concat()).await.unwrap();
    store.close().await;
    let refused = Store::open(&url).await.unwrap_err().to_string();
    let (found, known) = (format!("version {}", newest + 1), format!("up to {newest}"));
    assert!(refused.contains(&found) && refused.contains(&known), "{refused}");
}

/// A step that fails in its middle leaves nothing of itself, and the next start takes it.
async fn half_a_step(url: &str) {
    let store = Store::open(url).await.unwrap();
    let newest = MIGRATIONS.last().unwrap().0;
    let step = |sql| [MIGRATIONS, &[(newest + 1, "later", sql)]].concat();
    let broken = step("CREATE TABLE later (x BIGINT NOT NULL); CREATE TABLE later (x BIGINT)");
    migrate(&store.pool, &broken).await.unwrap_err();
    // The process ends, which also gives PostgreSQL's lock of the migration back.
    store.close().await;
    let store = Store::open(url).await.unwrap();
    store.load().await.unwrap();
    migrate(&store.pool, &step("CREATE TABLE later (x BIGINT NOT NULL)")).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing_of_itself_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    half_a_step(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing_of_itself_on_postgres() {
    let Some((url, _guard)) = postgres().await else { return };
    half_a_step(&url).await;
}
