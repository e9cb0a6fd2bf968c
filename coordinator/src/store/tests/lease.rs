//! One coordinator per database.

use jiff::Timestamp;

use super::error::is_no_table;
use super::*;

fn holder(pid: u32) -> Holder {
    Holder { host: "node-1".into(), pid, folder: "/srv/data".into(), since: START }
}

fn at(second: u64) -> Timestamp {
    START.checked_add(Duration::from_secs(second)).unwrap()
}

async fn one_writes(url: &str) {
    let open = async || Store::open(url).await.unwrap();
    assert_eq!(open().await.lease().await.unwrap(), None);
    let first = open().await.take_lease(&holder(1), &[], at(0)).await.unwrap();
    let held = first.lease().await.unwrap().unwrap();
    assert_eq!((held.epoch, &held.holder, held.until), (1, &holder(1), at(15)));
    first.save(&Change { events: vec![event(1)], ..Change::default() }).await.unwrap();

    // A second one hears who holds it, since when and until when.
    let refused = open().await.take_lease(&holder(2), &[], at(14)).await.unwrap_err().to_string();
    for told in [
        "process id 1 on node-1",
        "/srv/data",
        "since 1970-01-01T00:00:00Z",
        "until 1970-01-01T00:00:15Z",
    ] {
        assert!(refused.contains(told), "{told} is not in {refused}");
    }
    // A lease that was renewed holds on.
    first.renew_lease(at(10), false).await.unwrap();
    open().await.take_lease(&holder(2), &[], at(16)).await.unwrap_err();

    // The end of the lease, or knowing that its holder is dead, lets another one have it.
    let second = open().await.take_lease(&holder(2), &[], at(25)).await.unwrap();
    let third = open().await.take_lease(&holder(3), &[holder(2)], at(25)).await.unwrap();
    let vacant = [&first, &second, &third].map(|store| store.vacant_since());
    assert_eq!(vacant, [None, Some(at(25)), Some(at(40))]);
    assert_eq!(third.lease().await.unwrap().unwrap().epoch, 3);
    for stale in [&first, &second] {
        assert!(matches!(stale.renew_lease(at(26), false).await, Err(Error::Fenced)));
        let change = Change { events: vec![event(2)], ..Change::default() };
        assert!(matches!(stale.save(&change).await, Err(Error::Fenced)));
        assert!(stale.halt.why().unwrap().contains("another coordinator"), "it has to stop");
        assert!(matches!(stale.save(&change).await, Err(Error::Halted(_))));
    }
    third.save(&Change { events: vec![event(2)], ..Change::default() }).await.unwrap();
    assert_eq!(third.events(0, 9).await.unwrap(), [event(1), event(2)]);

    // A holder that stops gives it back.
    third.renew_lease(at(27), true).await.unwrap();
    open().await.take_lease(&holder(4), &[], at(27)).await.unwrap();
}

#[tokio::test]
async fn only_the_holder_of_the_lease_writes_to_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    one_writes(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn only_the_holder_of_the_lease_writes_to_postgres() {
    let Some((url, _guard)) = postgres().await else { return };
    one_writes(&url).await;
}

/// A database of an older version that another coordinator holds stays as that one knows it.
async fn held_by_an_older_version(url: &str) {
    let store = Store::connect(url).await.unwrap();
    let newest = async || {
        let row = sqlx::query("SELECT MAX(version) AS version FROM _sqlx_migrations");
        row.fetch_one(&store.pool).await.unwrap().number::<i64>("version").unwrap()
    };
    let (older, last) = (&MIGRATIONS[..4], MIGRATIONS.last().unwrap().0);
    migrate(&store.pool, older).await.unwrap();
    let lease = "INSERT INTO lease VALUES (1, 7, 'node-1', 1, '/srv/data', 0, 15000000)";
    sqlx::raw_sql(lease).execute(&store.pool).await.unwrap();
    let taken = store.clone().take_lease(&holder(2), &[], at(14)).await;
    assert!(matches!(taken, Err(Error::Leased(_))), "{taken:?}");
    assert_eq!(newest().await, 4);
    let taken = store.clone().take_lease(&holder(2), &[], at(15)).await.unwrap();
    assert_eq!((newest().await, taken.epoch), (last, Some(8)));
    store.close().await;
}

#[tokio::test]
async fn a_database_on_sqlite_is_brought_up_to_date_by_nobody_but_the_holder_of_its_lease() {
    let folder = tempfile::tempdir().unwrap();
    held_by_an_older_version(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn a_database_on_postgres_is_brought_up_to_date_by_nobody_but_the_holder_of_its_lease() {
    let Some((url, _guard)) = postgres().await else { return };
    held_by_an_older_version(&url).await;
}

/// A lease that cannot be read may be held: it is not taken for one that was never given.
async fn unreadable(url: &str) {
    let store = Store::connect(url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE lease (id BIGINT)").execute(&store.pool).await.unwrap();
    let taken = store.clone().take_lease(&holder(1), &[], at(0)).await;
    assert!(matches!(taken, Err(Error::Sql(_))), "{taken:?}");
    let migrated = sqlx::query("SELECT version FROM _sqlx_migrations").fetch_all(&store.pool).await;
    assert!(migrated.is_err_and(|error| is_no_table(&error)), "the schema was touched");
    store.close().await;
}

#[tokio::test]
async fn a_database_on_sqlite_whose_lease_cannot_be_read_is_nobodys_to_take() {
    let folder = tempfile::tempdir().unwrap();
    unreadable(&sqlite_url(&folder)).await;
}

#[tokio::test]
async fn a_database_on_postgres_whose_lease_cannot_be_read_is_nobodys_to_take() {
    let Some((url, _guard)) = postgres().await else { return };
    unreadable(&url).await;
}

#[tokio::test]
async fn a_database_that_hangs_is_waited_for_no_longer_than_it_may_take() {
    let silent: Result<(), Error> = in_time(Duration::from_millis(1), std::future::pending()).await;
    assert!(matches!(silent, Err(Error::Silent { .. })), "{silent:?}");
    assert_eq!(silent.unwrap_err().reason(), fedpaint_proto::reason::Reason::Storage);
    assert_eq!(in_time(ANSWER_TIMEOUT, async { Ok(7) }).await.unwrap(), 7);
}
