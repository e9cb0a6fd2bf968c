//! `fedctl run`: from a plan and a model to a training, and what can be done to it.

use std::path::Path;

use anyhow::{Context, bail};
use fedpaint_proto::budget::Budget;
use fedpaint_proto::limits::PLAN_BYTES_MAX;
use fedpaint_proto::names::RunName;
use fedpaint_proto::plan::{PlanSignature, RunPlan};
use fedpaint_proto::v1::admin_service_client::AdminServiceClient;
use fedpaint_proto::weights::ModelFile;
use fedpaint_proto::{transfer, v1};
use tonic::transport::Channel;

use crate::cli::{Connection, RunVerb};
use crate::connect::{Session, ask, connect};
use crate::output::{Output, transfer_bar};
use crate::plan::read_signature;
use crate::problem::of_status;
use crate::view::{Round, Run, RunNow, Runs};
use crate::watch;

/// Carries out a verb.
pub(crate) async fn run(
    verb: RunVerb,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    // Files are looked at before the coordinator is: their mistakes are cheaper to tell.
    let signed = match &verb {
        RunVerb::Create { plan, model, signature, .. } => {
            check_model(model)?;
            let plan_toml = read_plan(plan)?;
            let signature = signature.as_deref().map(|file| read_signature(file, &plan_toml));
            (plan_toml, signature.transpose()?)
        }
        _ => Default::default(),
    };
    let mut session = connect(settings, output.now()).await?;
    let admin = &mut session.admin;
    let run = match verb {
        RunVerb::Create { name, model, .. } => create(&mut session, name, signed, &model).await?,
        RunVerb::List => {
            let reply = admin.list_runs(ask(v1::ListRunsRequest {})).await;
            let runs = reply.map_err(|s| of_status(&s))?.into_inner().runs;
            return output.show(&Runs { runs: runs.into_iter().map(Run::from).collect() });
        }
        RunVerb::Watch { name } => return watch::run(session, name, output).await,
        RunVerb::Show { name } => {
            let reply = admin.get_run(ask(v1::GetRunRequest { name: name.into() })).await;
            let v1::GetRunResponse { run, round } = reply.map_err(|s| of_status(&s))?.into_inner();
            let run = Run::from(run.context("the coordinator answered without a run")?);
            return output.show(&RunNow { run, round: round.map(Round::from) });
        }
        RunVerb::Pause { name } => {
            let round = newest(admin, &name).await?;
            let request = v1::PauseRunRequest { name: name.into(), round };
            let reply = admin.pause_run(ask(request)).await;
            reply.map_err(|s| of_status(&s))?.into_inner().run
        }
        RunVerb::Resume { name } => {
            let round = newest(admin, &name).await?;
            let request = v1::ResumeRunRequest { name: name.into(), round };
            let reply = admin.resume_run(ask(request)).await;
            reply.map_err(|s| of_status(&s))?.into_inner().run
        }
        RunVerb::Readmit { name, site } => {
            let request = v1::ReadmitSiteRequest { run: name.into(), site: site.into() };
            let reply = admin.readmit_site(ask(request)).await;
            reply.map_err(|s| of_status(&s))?.into_inner().run
        }
        RunVerb::Stop { name } => {
            let reply = admin.stop_run(ask(v1::StopRunRequest { name: name.into() })).await;
            reply.map_err(|s| of_status(&s))?.into_inner().run
        }
    };
    output.show(&Run::from(run.context("the coordinator answered without a run")?))
}

/// The newest round of a run. A call that names it pauses or resumes what was seen, however late it arrives.
async fn newest(
    admin: &mut AdminServiceClient<Channel>,
    run: &RunName,
) -> anyhow::Result<Option<v1::RoundRef>> {
    let reply = admin.get_run(ask(v1::GetRunRequest { name: run.to_string() })).await;
    let round = reply.map_err(|s| of_status(&s))?.into_inner().round;
    Ok(round.and_then(|round| round.r#ref))
}

/// Uploads the model, unless it is there, and starts the run.
async fn create(
    session: &mut Session,
    name: RunName,
    (plan_toml, signature): (String, Option<PlanSignature>),
    model: &Path,
) -> anyhow::Result<Option<v1::Run>> {
    let blob = transfer::blob_of(model).await?;
    let initial = v1::upload_purpose::Purpose::InitialModel(v1::InitialModel {});
    let purpose = v1::UploadPurpose { purpose: Some(initial) };
    let bar = transfer_bar("uploading", blob.size);
    let mut progress = |done, _| bar.set_position(done);
    let (channel, budget) = (&session.channel, Budget::default());
    let moved = transfer::upload(channel, purpose, blob, model, &budget, &mut progress).await;
    bar.finish_and_clear();
    moved?;
    let (initial_model, plan_signature) = (Some(blob.into()), signature.map(|s| s.to_wire()));
    let name = name.into();
    let request = v1::CreateRunRequest { name, plan_toml, initial_model, plan_signature };
    let reply = session.admin.create_run(ask(request)).await;
    Ok(reply.map_err(|s| of_status(&s))?.into_inner().run)
}

/// The plan as it was written, once it is known to be one.
pub(crate) fn read_plan(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let length =
        std::fs::metadata(path).with_context(|| format!("cannot read the plan {shown}"))?;
    if length.len() > PLAN_BYTES_MAX as u64 {
        bail!("{shown} has {} bytes, a plan may have {PLAN_BYTES_MAX}", length.len());
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the plan {shown}"))?;
    RunPlan::from_toml(&text).with_context(|| shown.to_string())?;
    Ok(text)
}

/// Refuses what is not a model before any of it is uploaded.
fn check_model(path: &Path) -> anyhow::Result<()> {
    let model = ModelFile::open(path).with_context(|| format!("the model {}", path.display()))?;
    if model.tensors().is_empty() {
        bail!("the model {} has no tensors", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::one_line;

    #[test]
    fn the_sample_plan_is_one() {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/run.toml");
        let text = read_plan(Path::new(sample)).unwrap();
        let plan = RunPlan::from_toml(&text).unwrap();
        // The sample writes every value out, so that it shows all there is to set.
        for line in plan.to_toml().lines().filter(|line| line.contains('=')) {
            let field = line.split('=').next().unwrap();
            assert!(text.contains(field), "{field} is not in the sample");
        }
    }

    #[test]
    fn a_wrong_plan_or_model_is_refused_with_its_file_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, "version = 1\nrounds = 0").unwrap();
        let error = one_line(&read_plan(&path).unwrap_err());
        assert!(error.contains("run.toml: the plan's rounds is 0"), "{error}");
        std::fs::write(&path, "version = 1\nrounds = 1\n[training]\nstepz = 2").unwrap();
        let error = one_line(&read_plan(&path).unwrap_err());
        assert!(error.contains("stepz"), "{error}");
        let error = one_line(&check_model(&path).unwrap_err());
        assert!(error.contains("run.toml: "), "{error}");
        let error = one_line(&check_model(&folder.path().join("none")).unwrap_err());
        assert!(error.contains("No such file"), "{error}");
    }
}
