//! `fedctl model`: the global models of a run, and bringing one home with a note of where it is from.

use std::path::Path;

use anyhow::{Context, bail};
use fedpaint_proto::budget::Budget;
use fedpaint_proto::limits::MESSAGE_BYTES_MAX;
use fedpaint_proto::names::{Blob, RunName};
use fedpaint_proto::note::{ModelKind, ModelNote};
use fedpaint_proto::reason::Reason;
use fedpaint_proto::signing::Signed;
use fedpaint_proto::statement::{Manifest, manifest_from_wire};
use fedpaint_proto::v1::blob_service_client::BlobServiceClient;
use fedpaint_proto::{text, transfer, v1};
use tonic::{Code, Status};

use crate::cli::{Connection, ModelVerb};
use crate::connect::{Session, ask, connect};
use crate::output::{Output, transfer_bar};
use crate::pages;
use crate::problem::of_status;
use crate::save;
use crate::view::{self, Exported, Model, Models};

/// Carries out a verb.
pub(crate) async fn run(
    verb: ModelVerb,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    match verb {
        ModelVerb::List { run } => {
            let mut session = connect(settings, output.now()).await?;
            let models = list(&mut session, &run).await?;
            output.show(&Models { models: models.into_iter().map(Model::from).collect() })
        }
        // The raw model is the default: it is the one that every other page names by its digest,
        // and the one a new run goes on from. `--raw` only says so.
        ModelVerb::Export { run, round, ema, raw: _, out, force } => {
            let kind = if ema { ModelKind::Ema } else { ModelKind::Raw };
            let mut session = connect(settings, output.now()).await?;
            let model = pick(one(&mut session, &run, round).await?, round)
                .with_context(|| no_model(&run, round))?;
            let blob = blob(&model, kind)?;
            let note = ModelNote { run, round: model.round, kind, digest: blob.digest };
            if !force && out.exists() {
                again(&out, &note, blob.size).await?;
            }
            let bar = transfer_bar("downloading", blob.size);
            let mut progress = |done, _| bar.set_position(done);
            let budget = Budget::default();
            let moved =
                transfer::download(&session.channel, blob, &out, &budget, &mut progress).await;
            bar.finish_and_clear();
            moved?;
            write_note(&out, &note)?;
            let manifest = manifest(&mut session, &note).await?;
            let manifest = manifest.map(|manifest| write_manifest(&out, &manifest)).transpose()?;
            let file = out.display().to_string();
            let Model { run, round, created_at, .. } = Model::from(model);
            let blob = Some(view::Blob::from(blob));
            output.show(&Exported { run, round, kind, blob, created_at, file, manifest })
        }
    }
}

/// Looks whether the file at `out` is the model that is wanted, which an export that failed may have left: that is
/// gone on with. Any other file, and the note of another round, is kept.
async fn again(out: &Path, wanted: &ModelNote, size: u64) -> anyhow::Result<()> {
    let blob = Blob { digest: wanted.digest, size };
    let is_of_another = ModelNote::beside(out, wanted.digest).is_some_and(|note| note != *wanted);
    if is_of_another || !transfer::is_there(blob, out).await? {
        bail!("{} is there already; give --force to replace it", out.display());
    }
    eprintln!("{}", text::line(&format!("{} is there already", out.display()), usize::MAX));
    Ok(())
}

/// What the coordinator says that a model is made of; nothing from one that signs nothing.
async fn manifest(
    session: &mut Session,
    note: &ModelNote,
) -> anyhow::Result<Option<Signed<Manifest>>> {
    let mut blobs = BlobServiceClient::new(session.channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = v1::GetManifestRequest { run: note.run.to_string(), version: note.round };
    let manifest = match blobs.get_manifest(ask(request)).await {
        Ok(reply) => reply.into_inner().manifest.context("the coordinator gave no manifest")?,
        Err(status) if unsigned(&status) => return Ok(None),
        Err(status) => return Err(of_status(&status)),
    };
    let manifest = manifest_from_wire(&session.federation, manifest)?;
    let Manifest { model, ema, .. } = &manifest.statement;
    let digest = match note.kind {
        ModelKind::Raw => Some(model.digest),
        ModelKind::Ema => ema.map(|ema| ema.digest),
    };
    if digest != Some(note.digest) {
        bail!("the coordinator's manifest is of another model than the one that it gave");
    }
    Ok(Some(manifest))
}

/// Whether a coordinator makes no manifests: it has no key, or is from before there were any.
fn unsigned(status: &Status) -> bool {
    Reason::of(status) == Some(Reason::Unsigned) || status.code() == Code::Unimplemented
}

/// Writes the manifest beside the model at `model`. Where it lies.
fn write_manifest(model: &Path, manifest: &Signed<Manifest>) -> anyhow::Result<String> {
    let path = ModelNote::manifest_beside(model);
    write_beside(&path, &serde_json::to_vec_pretty(manifest)?)?;
    Ok(path.display().to_string())
}

/// Writes the note beside the model at `model`; it appears whole or not.
fn write_note(model: &Path, note: &ModelNote) -> anyhow::Result<()> {
    write_beside(&ModelNote::path_beside(model), &serde_json::to_vec_pretty(note)?)
}

fn write_beside(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let written = save::whole("export.beside", path, text, true);
    written.with_context(|| format!("cannot write {}", path.display()))
}

async fn list(session: &mut Session, run: &RunName) -> anyhow::Result<Vec<v1::Model>> {
    pages::all(|model: &v1::Model| model.round, async |before| page(session, run, before, 0).await)
        .await
}

/// The model of `round`, or the newest, if there is one; all of them where the coordinator knows no
/// pages.
async fn one(
    session: &mut Session,
    run: &RunName,
    round: Option<u32>,
) -> anyhow::Result<Vec<v1::Model>> {
    page(session, run, round.map(|round| round.saturating_add(1)), 1).await
}

async fn page(
    session: &mut Session,
    run: &RunName,
    before: Option<u32>,
    limit: u32,
) -> anyhow::Result<Vec<v1::Model>> {
    let before_round = before.unwrap_or_default();
    let request = v1::ListModelsRequest { run: run.to_string(), before_round, limit };
    let reply = session.admin.list_models(ask(request)).await;
    Ok(reply.map_err(|s| of_status(&s))?.into_inner().models)
}

/// The model of `round`, or the newest.
fn pick(models: Vec<v1::Model>, round: Option<u32>) -> Option<v1::Model> {
    let asked = |model: &v1::Model| round.is_none_or(|round| model.round == round);
    models.into_iter().filter(asked).max_by_key(|model| model.round)
}

/// Which file is to be had of a round's two models.
fn blob(model: &v1::Model, kind: ModelKind) -> anyhow::Result<Blob> {
    let (run, round) = (&model.run, model.round);
    let named = match kind {
        ModelKind::Raw => model.blob.as_ref().context("the coordinator named no blob")?,
        ModelKind::Ema => model.ema.as_ref().with_context(|| {
            format!(
                "round {round} of run {run} has no moving average: the initial model has none, nor \
                 has a run whose plan says aggregation.ema_decay = 0; export it with --raw"
            )
        })?,
    };
    Ok(Blob::try_from(named)?)
}

fn no_model(run: &RunName, round: Option<u32>) -> String {
    let which = round.map_or("has no model".to_owned(), |n| format!("has no model of round {n}"));
    format!("run {run} {which}; `fedctl model list {run}` shows what there is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_model_is_exported_unless_a_round_is_asked_for() {
        let model = |round| v1::Model { round, ..v1::Model::default() };
        let models = || vec![model(0), model(2), model(1)];
        assert_eq!(pick(models(), None), Some(model(2)));
        assert_eq!(pick(models(), Some(0)), Some(model(0)));
        assert_eq!(pick(models(), Some(3)), None);
    }
}
