//! `fedctl audit`: the audit log as evidence. What was exported is checked without a coordinator, by the
//! federation's root alone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use fedpaint_coordinator::evidence::export::{LINE_BYTES_MAX, Line};
use fedpaint_coordinator::evidence::verify::{Check, Verified};
use fedpaint_proto::failpoint::reach;
use fedpaint_proto::identity::Validity;
use fedpaint_proto::log::{self, SignedHead, TreeHead};
use fedpaint_proto::names::Digest;
use fedpaint_proto::note::ModelNote;
use fedpaint_proto::signing::{Authority, Signed};
use fedpaint_proto::statement::Manifest;
use fedpaint_proto::v1;
use fedpaint_proto::weights::sync_folder;

use crate::cli::{AuditVerb, Connection};
use crate::connect::{ask, connect};
use crate::event;
use crate::output::Output;
use crate::problem::{Usage, of_status};
use crate::save;
use crate::view::{LogExported, LogHead};

/// The longest file with a head that is read.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// The longest manifest that is read: one of ten thousand sites.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;

/// Carries out a verb.
pub(crate) async fn run(
    verb: AuditVerb,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    match verb {
        AuditVerb::List(asked) => event::run(asked, settings, output).await,
        AuditVerb::Export { out, force } => export(&out, force, settings, output).await,
        AuditVerb::Head { out } => head(&out, settings, output).await,
        AuditVerb::Verify { file, heads, model } => {
            let root = settings.ca.as_deref().ok_or_else(|| {
                Usage("give --ca FILE, the federation's root certificate `ca.pem`".into())
            })?;
            output.show(&verify(&file, root, &heads, model.as_deref())?)
        }
    }
}

/// Writes the whole log to a file, which appears whole or not.
async fn export(
    out: &Path,
    force: bool,
    settings: &Connection,
    output: &Output,
) -> anyhow::Result<()> {
    if !force && out.exists() {
        bail!("{} is there already; give --force to replace it", out.display());
    }
    let mut session = connect(settings, output.now()).await?;
    let reply = session.admin.export_log(ask(v1::ExportLogRequest {})).await;
    let mut stream = reply.map_err(|s| of_status(&s))?.into_inner();
    let failed = || format!("cannot write {}", out.display());
    let mut file = save::beside(out).with_context(failed)?;
    let (mut bytes, mut last) = (0, String::new());
    while let Some(message) = stream.message().await.map_err(|s| of_status(&s))? {
        let written = reach("audit.export_write");
        let written = written.and_then(|()| file.write_all(message.lines.as_bytes()));
        written.with_context(failed)?;
        bytes += message.lines.len() as u64;
        last = message.lines.lines().next_back().unwrap_or_default().to_owned();
    }
    let Ok(Line::End { head }) = serde_json::from_str(&last) else {
        bail!("the coordinator's export has no end; ask again")
    };
    reach("audit.export_sync").and_then(|()| file.as_file().sync_all()).with_context(failed)?;
    file.persist(out).with_context(failed)?;
    sync_folder(out).with_context(failed)?;
    let entries = head.statement.size;
    output.show(&LogExported { file: out.display().to_string(), entries, bytes })
}

/// Writes the head over the log as it is now to a new file, which appears whole or not.
async fn head(out: &Path, settings: &Connection, output: &Output) -> anyhow::Result<()> {
    if out.exists() {
        bail!("{} is there already; a head that is kept is not replaced", out.display());
    }
    let mut session = connect(settings, output.now()).await?;
    let reply = session.admin.get_log_head(ask(v1::GetLogHeadRequest {})).await;
    let head = reply.map_err(|s| of_status(&s))?.into_inner().head;
    let head = head.context("the coordinator gave no head")?;
    let head = log::from_wire(&session.federation, head)?;
    save::whole("audit.head_write", out, &serde_json::to_vec_pretty(&head)?, false)
        .with_context(|| format!("cannot write {}", out.display()))?;
    let (file, TreeHead { size, root, at, .. }) = (out.display().to_string(), head.statement);
    output.show(&LogHead { file, size, root: root.to_string(), at })
}

/// Checks an exported log.
fn verify(
    file: &Path,
    root: &Path,
    heads: &[PathBuf],
    model: Option<&Path>,
) -> anyhow::Result<Verified> {
    let heads = heads.iter().map(|path| kept_head(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let read = || format!("cannot read {}", file.display());
    let mut lines = BufReader::new(File::open(file).with_context(read)?);
    let mut text = String::new();
    let mut next = |text: &mut String| -> anyhow::Result<bool> {
        text.clear();
        let limit = LINE_BYTES_MAX as u64;
        let bytes = (&mut lines).take(limit).read_line(text).with_context(read)?;
        if bytes as u64 == limit {
            bail!("{} has a line that is too long for an exported log", file.display());
        }
        Ok(bytes > 0)
    };
    next(&mut text)?;
    // The root certifies nobody of another federation, so it does not matter who says its name.
    let Ok(Line::Begin { federation, .. }) = serde_json::from_str(&text) else {
        bail!("{} is no exported log: its first line does not say whose it is", file.display());
    };
    let authority = Authority::load(federation, root)?;
    let broken = || format!("{} is not the log that was signed", file.display());
    let mut check = Check::new(&authority, &heads).with_context(broken)?;
    loop {
        check.text(&text).with_context(broken)?;
        if !next(&mut text)? {
            if let Some(model) = model {
                vouched_for(&authority, &check, model)?;
            }
            return check.done().with_context(broken);
        }
    }
}

/// That the manifest beside a model is signed, is that of the file, and is in the log.
fn vouched_for(authority: &Authority, check: &Check<'_>, model: &Path) -> anyhow::Result<()> {
    let path = ModelNote::manifest_beside(model);
    let read = || format!("cannot read the manifest {}", path.display());
    let mut text = String::new();
    let file = File::open(&path).with_context(read)?;
    file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text).with_context(read)?;
    let manifest: Signed<Manifest> = serde_json::from_str(&text).with_context(read)?;
    let not = |what: &str| format!("{} {what}", path.display());
    // When it was signed is not said in it, so the key has to have been certified at any time.
    let held = Validity::of_certificate(&manifest.certificate)?;
    manifest.by_coordinator(authority, held.not_before).with_context(|| not("does not count"))?;
    if !check.holds(&manifest.statement) {
        bail!(not("is not among the manifests that the log vouches for"));
    }
    if manifest.statement.federation != *authority.federation() {
        bail!(not("is of another federation"));
    }
    let mut hasher = blake3::Hasher::new();
    let name = || format!("cannot read the model {}", model.display());
    let mut bytes = File::open(model).with_context(name)?;
    std::io::copy(&mut bytes, &mut hasher).with_context(name)?;
    let digest = Digest::from(hasher.finalize());
    let Manifest { model: raw, ema, .. } = &manifest.statement;
    if digest != raw.digest && ema.is_none_or(|ema| ema.digest != digest) {
        bail!("{} is not the model of {}", model.display(), path.display());
    }
    Ok(())
}

fn kept_head(path: &Path) -> anyhow::Result<SignedHead> {
    let mut text = String::new();
    let read = || format!("cannot read the head {}", path.display());
    let file = File::open(path).with_context(read)?;
    file.take(HEAD_BYTES_MAX).read_to_string(&mut text).with_context(read)?;
    serde_json::from_str(&text).with_context(read)
}
