//! A database that the first version left, brought up to date by a real coordinator that finds the disk full before
//! every step of the schema, and dies behind every one.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use fedpaint_proto::names::Digest;
use fedpaint_tests::failpoints::Failpoints;
use fedpaint_tests::lab::{Lab, LabOptions};
use sqlx::SqlSafeStr;
use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{Migration, MigrationType, Migrator};

use crate::house::root;

/// The schema of the first version.
const FIRST: &str = include_str!("../coordinator/migrations/0001_initial.sql");

/// What it held of a site and of a run that is over.
const ROWS: [&str; 4] = [
    "INSERT INTO site VALUES ('mayo', 5, NULL)",
    "INSERT INTO run VALUES ('brain', 'version = 1\nrounds = 1\n[round]\nsites_min = 1', \
     $base, 4, $one, 3, 'finished', NULL, 1, 0, 0)",
    "INSERT INTO round VALUES ('brain', 1, 1, 'committed', NULL, $base, 4, $one, 3, NULL, 1, 2)",
    "INSERT INTO event VALUES (1, 0, 'operator/ada', 'run_created', 'run brain')",
];

/// The number of SIGKILL.
const SIGKILL: i32 = 9;

/// Makes the database where the coordinator will look for it.
async fn first_database(data: &Path) {
    std::fs::create_dir_all(data).unwrap();
    sqlx::any::install_default_drivers();
    let url = format!("sqlite:{}?mode=rwc", data.join("coordinator.db").display());
    let pool = AnyPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
    let sql = FIRST.into_sql_str();
    let step = Migration::new(1, "initial".into(), MigrationType::Simple, sql, false);
    Migrator::with_migrations(vec![step]).run(&pool).await.unwrap();
    for row in ROWS {
        let digest = |text: &str| format!("'{}'", Digest::of(text.as_bytes()));
        let row = row.replace("$base", &digest("base")).replace("$one", &digest("one"));
        sqlx::raw_sql(sqlx::AssertSqlSafe(row)).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

/// Whether the coordinator was killed on its way up; if not, it serves.
fn dies(lab: &mut Lab) -> bool {
    if lab.start_coordinator().is_ok() {
        return false;
    }
    let status = lab.coordinator().unwrap().stop().unwrap();
    assert_eq!(status.signal(), Some(SIGKILL), "{}", lab.log());
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_database_survives_a_full_disk_before_and_a_crash_behind_every_step_of_the_schema()
{
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut points = Failpoints::new(folder, "coordinator").unwrap();
    let environment = vec![points.variable()];
    let mut lab =
        Lab::prepare(folder, LabOptions { environment, ..LabOptions::default() }).unwrap();
    first_database(&folder.join("coordinator")).await;
    // Every process finds the disk full before a step, takes that step the next time, and dies before another one.
    points.arm("db.migrate enospc@1\ndb.migrate kill@3").unwrap();
    let steps = std::fs::read_dir(root().join("coordinator/migrations")).unwrap().count() - 1;
    let mut deaths = 0;
    while dies(&mut lab) {
        deaths += 1;
        assert!(deaths < steps, "it takes no step: {}", lab.log());
    }
    assert_eq!(deaths, steps - 1, "every step but the last is followed by a death");
    let passed = points.reached().unwrap();
    let passed = passed.iter().filter(|place| *place == "db.migrate").count();
    assert_eq!(passed, 3 * deaths + 2);
    points.disarm().unwrap();
    assert!(lab.log().contains("the disk can be used again"), "{}", lab.log());
    let sites = lab.fedctl_json(&["site", "list"]).unwrap();
    assert_eq!(sites["sites"][0]["name"], "mayo", "{sites}");
    let runs = lab.fedctl_json(&["run", "list"]).unwrap().to_string();
    assert!(runs.contains("\"brain\"") && runs.contains("finished"), "{runs}");
}
