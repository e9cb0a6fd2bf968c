//! The last look at an update before it leaves, and where it goes in a dry run.

use std::path::Path;

use super::{Bench, Error, Prepared, Task, in_background};
use crate::agent::dry_run;
use crate::pipe::Trained;
use crate::policy::judge::Verdict;
use crate::workspace::{model_path, update_path};

/// What the policy says of an update that is about to leave, and of everything before it once more.
pub(super) async fn leaving(
    bench: &Bench,
    task: &Task,
    prepared: &Prepared,
    trained: &Trained,
) -> Result<Vec<Verdict>, Error> {
    let plan = prepared.plan.clone();
    let (bench, task, trained) = (bench.clone(), task.clone(), *trained);
    in_background(move || {
        let folder = bench.workspace.folder();
        let base = model_path(folder, task.base.digest);
        let update = update_path(folder, trained.update.digest);
        let verdicts = [
            bench.gate.verdicts(&plan),
            bench.gate.round(task.cohort, plan.plan.exchange, &base)?,
            bench.gate.update(&trained, plan.plan.exchange, &update, &base)?,
        ];
        Ok::<_, Error>(verdicts.concat())
    })
    .await
}

/// Writes what would leave into the folder of a dry run.
pub(super) async fn rehearsed(
    bench: &Bench,
    task: &Task,
    prepared: &Prepared,
    trained: Trained,
    folder: &Path,
) -> Result<(), Error> {
    let verdicts = leaving(bench, task, prepared, &trained).await?;
    let plan = prepared.plan.plan.digest();
    let (bench, task, folder) = (bench.clone(), task.clone(), folder.to_owned());
    in_background(move || {
        let workspace = bench.workspace.folder();
        let round = dry_run::Round {
            id: &task.round,
            plan,
            base: &model_path(workspace, task.base.digest),
            update: &update_path(workspace, trained.update.digest),
            trained: &trained,
            verdicts: &verdicts,
        };
        dry_run::write(&folder, bench.gate.policy(), &round)
    })
    .await?;
    Ok(())
}
