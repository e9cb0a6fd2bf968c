//! What is named, what is spent, copies of the database, and a database that is full.

use std::collections::{BTreeMap, HashSet};

use sqlx::Row;

use super::*;
use crate::share::Share;

/// A run that has committed `n` rounds of mayo's and opened the next.
async fn history(store: &Store, n: u32) {
    let mayo = row("mayo");
    store.save(&Change { sites: vec![&mayo], ..Change::default() }).await.unwrap();
    let run = Run::create("brain".parse().unwrap(), plan(n + 1, 1), blob("base"), START);
    let mut run = save(store, None, run).await;
    for number in 1..=n {
        let update = update(&format!("update {number}"));
        let made = kept(&format!("model {number}"));
        for event in [
            Event::Joined(site("mayo")),
            Event::Closed,
            Event::Reported(site("mayo"), update),
            Event::Aggregated(made.into()),
        ] {
            let mut next = run.clone();
            next.apply(event, START).unwrap();
            run = save(store, Some(&run), next).await;
        }
        let mut next = run.clone();
        next.open_round(START);
        run = save(store, Some(&run), next).await;
    }
    store.save(&Change { events: vec![event(1), event(2)], ..Change::default() }).await.unwrap();
}

fn digests(named: &[Named]) -> HashSet<fedpaint_proto::names::Digest> {
    named.iter().map(|named| named.blob.digest).collect()
}

async fn blobs_are_named(url: &str) {
    let store = Store::open(url).await.unwrap();
    history(&store, 3).await;
    let named = store.named().await.unwrap();
    let mut expected = HashSet::from([blob("base").digest]);
    for number in 1..=3 {
        expected.insert(blob(&format!("update {number}")).digest);
        expected.extend(kept(&format!("model {number}")).parts().map(|blob| blob.digest));
    }
    assert_eq!(digests(&named), expected);
    let whats: Vec<&str> = named.iter().map(|named| named.what.as_str()).collect();
    assert!(whats.contains(&"the update of mayo in round brain/2.1"), "{whats:?}");

    let mut shares = Vec::new();
    for share in Share::of(1 << 18) {
        let part = store.named_of(&share).await.unwrap();
        assert!(part.iter().all(|named| share.has(&named.blob.digest)));
        shares.extend(part);
    }
    let whats = |named: &[Named]| {
        let mut whats: Vec<String> = named.iter().map(|named| named.what.clone()).collect();
        whats.sort();
        whats
    };
    assert_eq!(whats(&shares), whats(&named));

    let spent = async |rounds| store.spent(&named, rounds).await.unwrap();
    let update = |number: u32| blob(&format!("update {number}")).digest;
    assert_eq!(spent(Some(1)).await, HashSet::from([update(1), update(2)]));
    assert_eq!(spent(Some(2)).await, HashSet::from([update(1)]));
    assert_eq!(spent(Some(3)).await, HashSet::new());
    assert_eq!(spent(None).await, HashSet::new());
    // What is noted is spent, however much is to be kept later.
    let brain: fedpaint_proto::names::RunName = "brain".parse().unwrap();
    let let_go = async |until| {
        let change = Change { let_go: vec![(&brain, until)], ..Change::default() };
        store.save(&change).await.unwrap();
        let noted = BTreeMap::from([(brain.clone(), until)]);
        assert_eq!(store.load().await.unwrap().let_go, noted);
    };
    let_go(1).await;
    for rounds in [None, Some(3), Some(2)] {
        assert_eq!(spent(rounds).await, HashSet::from([update(1)]));
    }
    assert_eq!(spent(Some(1)).await, HashSet::from([update(1), update(2)]));
    let_go(2).await;
    assert_eq!(spent(None).await, HashSet::from([update(1), update(2)]));
    assert_eq!(store.unsound().await.unwrap(), (vec![], 0));
}

#[tokio::test]
async fn every_blob_of_a_history_is_named_and_only_old_updates_are_spent_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    blobs_are_named(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn every_blob_of_a_history_is_named_and_only_old_updates_are_spent_on_postgres() {
    let Some((url, _guard)) = postgres().await else { return };
    blobs_are_named(&url).await;
}

#[tokio::test]
async fn no_column_with_a_digest_is_forgotten_by_who_asks_what_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let columns = sqlx::query(
        "SELECT CAST(t.name AS TEXT) AS place, CAST(c.name AS TEXT) AS name \
         FROM sqlite_master AS t, pragma_table_info(t.name) AS c \
         WHERE t.type = 'table' AND c.name LIKE '%digest'",
    );
    let columns = columns.fetch_all(&store.pool).await.unwrap();
    assert!(columns.len() >= 8, "{}", columns.len());
    for row in columns {
        let (table, column): (String, String) = (row.get("place"), row.get("name"));
        let selects = super::super::named::NAMED.split("UNION ALL");
        let mut of_table = selects.filter(|select| select.contains(&format!("FROM {table}")));
        assert!(of_table.any(|select| select.contains(&column)), "{table}.{column}");
    }
}

#[tokio::test]
async fn no_table_is_forgotten_by_who_copies_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let tables = sqlx::query(
        "SELECT CAST(name AS TEXT) AS name FROM sqlite_master WHERE type = 'table' ORDER BY name",
    );
    let tables = tables.fetch_all(&store.pool).await.unwrap();
    let mut tables: Vec<String> = tables.iter().map(|row| row.get("name")).collect();
    // A copy is nobody's, and has come by its schema by itself.
    tables.retain(|name| name != "lease" && name != "_sqlx_migrations");
    let mut copied = super::super::snapshot::TABLES;
    copied.sort_unstable();
    assert_eq!(tables, copied);
}

/// Everything that is kept, for a comparison.
async fn all(store: &Store) -> String {
    let loaded = store.load().await.unwrap();
    let mut rounds = Vec::new();
    for run in &loaded.runs {
        rounds.push(store.rounds(run.name(), &run.plan().round, None, 99).await.unwrap());
    }
    let events = store.events(0, 99).await.unwrap();
    format!("{loaded:#?}\n{rounds:#?}\n{events:#?}")
}

async fn a_copy_goes_and_comes_back(url: &str) {
    let store = Store::open(url).await.unwrap();
    history(&store, 2).await;
    let holder = Holder { host: "a".into(), pid: 1, folder: "b".into(), since: START };
    let store = store.take_lease(&holder, &[], START).await.unwrap();
    let before = all(&store).await;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("moment.db");
    // The coordinator goes on using its database meanwhile.
    snapshot(url, &file).await.unwrap();
    let copy = Store::open(&sqlite_url_of(&file)).await.unwrap();
    assert!(all(&copy).await == before);
    assert_eq!(copy.lease().await.unwrap(), None, "a copy is nobody's");
    copy.close().await;
    assert!(snapshot(url, &file).await.is_err(), "nothing is written over");

    assert!(matches!(restore(&file, url).await, Err(Error::NotEmpty)));
    store.close().await;
    let other = folder.path().join("other.db");
    let back = match url.starts_with("sqlite:") {
        true => sqlite_url_of(&other),
        false => {
            let pool = AnyPool::connect(url).await.unwrap();
            let reset = "DROP SCHEMA public CASCADE; CREATE SCHEMA public;";
            sqlx::raw_sql(reset).execute(&pool).await.unwrap();
            pool.close().await;
            url.to_owned()
        }
    };
    restore(&file, &back).await.unwrap();
    let restored = Store::open(&back).await.unwrap();
    assert!(all(&restored).await == before);
    assert_eq!(integrity(&back).await.unwrap(), Vec::<String>::new());
    restored.close().await;
}

fn sqlite_url_of(file: &std::path::Path) -> String {
    super::super::sqlite_url(file)
}

#[tokio::test]
async fn a_copy_of_sqlite_holds_every_row_and_comes_back_into_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    a_copy_goes_and_comes_back(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn a_copy_of_postgres_holds_every_row_and_comes_back_into_an_empty_one() {
    let Some((url, _guard)) = postgres().await else { return };
    a_copy_goes_and_comes_back(&url).await;
}

#[tokio::test]
async fn a_row_that_breaks_a_constraint_is_found_by_the_integrity_check() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    history(&store, 1).await;
    assert_eq!(integrity(&sqlite_url(&folder)).await.unwrap(), Vec::<String>::new());
    let breaks = "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; \
                  UPDATE round SET base_size = -1; DELETE FROM site;";
    sqlx::raw_sql(breaks).execute(&store.pool).await.unwrap();
    let found = integrity(&sqlite_url(&folder)).await.unwrap();
    assert!(
        found.iter().any(|line| line.contains("CHECK constraint failed in round")),
        "{found:?}"
    );
    assert!(found.iter().any(|line| line.contains("member row")), "{found:?}");
}

#[tokio::test]
async fn a_full_database_saves_nothing_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let pages = |n: u32| sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {n}")));
    pages(1).execute(&store.pool).await.unwrap();
    let long = |seq| EventRow { detail: "x".repeat(20_000), ..event(seq) };
    let mut full = None;
    for seq in 1..100 {
        let change = Change { events: vec![long(seq)], ..Change::default() };
        if let Err(error) = store.save(&change).await {
            full = Some((seq, error));
            break;
        }
    }
    let (seq, error) = full.expect("it is full at last");
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(error.reason(), fedpaint_proto::reason::Reason::Storage);
    assert_eq!(store.halt.why(), None, "a full disk is no reason to stop");
    assert_eq!(store.load().await.unwrap().log.tree.size(), seq - 1, "all or nothing");
    pages(100_000).execute(&store.pool).await.unwrap();
    store.save(&Change { events: vec![long(seq)], ..Change::default() }).await.unwrap();
    assert_eq!(store.load().await.unwrap().log.tree.size(), seq);
}

/// The driver counts transactions and does not see those that SQLite ends by itself, as it does where a
/// commit finds the disk full.
#[tokio::test]
async fn what_is_saved_after_sqlite_gave_a_transaction_up_by_itself_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let mut given_up = store.pool.begin().await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut *given_up).await.unwrap();
    drop(given_up);
    // The next one fails too and is rolled back.
    drop(store.pool.begin().await.unwrap());
    store.save(&Change { events: vec![event(1)], ..Change::default() }).await.unwrap();
    // Not only whoever saved it sees it: a process that dies now has lost nothing.
    assert_eq!(store.events(0, 9).await.unwrap(), [event(1)]);
    assert_eq!(sqlite(&folder).await.load().await.unwrap().log.tree.size(), 1);
}
