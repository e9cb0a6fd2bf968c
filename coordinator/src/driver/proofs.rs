//! What the coordinator proves of its audit log: a part of the [`Handle`].

use fedpaint_proto::log::SignedHead;
use fedpaint_proto::merkle::{Hash, consistency, inclusion};
use fedpaint_proto::names::{Blob, Digest, RoundId, RunName};
use fedpaint_proto::plan::RunPlan;
use fedpaint_proto::signing::Signed;
use fedpaint_proto::statement::{Manifest, Receipt};

use super::error::Error;
use super::handle::Handle;
use super::work::Message;
use crate::evidence::export::{Line, VERSION};
use crate::evidence::made;
use crate::records::{Document, DocumentKind, EventRow, Log};
use crate::round::Phase;

/// How many entries of the log are read at a time.
const PAGE: u32 = 200;

/// What a site is given for its update.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The coordinator's word.
    pub receipt: Signed<Receipt>,
    /// The log's entry.
    pub entry: EventRow,
    /// A head over the log with it.
    pub head: SignedHead,
    /// That the entry is in the log of that head.
    pub inclusion: Vec<Hash>,
}

/// An export of the log under way.
#[derive(Debug)]
pub struct Export {
    head: SignedHead,
    /// The newest entry that was read.
    seq: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begin,
    Entries,
    Over,
}

impl Handle {
    /// A head over `log`, which was this coordinator's, and the proof that it begins with the `known`
    /// entries that the caller has seen a head of. None where the coordinator signs nothing. Who knows
    /// more entries than there are is given no proof, for there is none.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn proven(
        &self,
        log: &Log,
        known: u64,
    ) -> Result<Option<(SignedHead, Vec<Hash>)>, Error> {
        let Some(notary) = &self.notary else { return Ok(None) };
        let proof = self.store.proof(&consistency(known, log.tree.size())).await?;
        Ok(Some((notary.head(log, self.clock.now()), proof)))
    }

    /// The receipt for an update that was taken: the coordinator's word, the entry, and the proof that it
    /// is in the log. None where the coordinator signs nothing or the update was not signed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn receipt(&self, envelope: Option<Digest>) -> Result<Option<Taken>, Error> {
        let (Some(notary), Some(envelope)) = (&self.notary, envelope) else { return Ok(None) };
        let Some(entry) = self.store.entry_about(&envelope).await? else { return Ok(None) };
        let log = self.ask(Message::Log).await?;
        let inclusion = inclusion(entry.seq.saturating_sub(1), log.tree.size());
        let inclusion = self.store.proof(&inclusion).await?;
        let receipt = notary.receipt(envelope, &entry);
        Ok(Some(Taken { receipt, entry, head: notary.head(&log, self.clock.now()), inclusion }))
    }

    /// What the model of a version of a run is made of; version 0 is what the run started from.
    ///
    /// # Errors
    /// If the coordinator signs nothing, there is no such model, or the database fails.
    pub async fn manifest(&self, run: &RunName, version: u32) -> Result<Signed<Manifest>, Error> {
        let notary = self.notary.as_ref().ok_or(Error::SignsNothing)?;
        let view = self.run(run)?;
        let federation = notary.federation();
        if version == 0 {
            let first = made::first(federation, run, &view.plan, view.initial_model);
            return Ok(notary.manifest(first));
        }
        let id = RoundId { run: run.clone(), number: version, attempt: 0 };
        let round = self.store.round(&id, &view.plan.round).await?;
        let round = round.ok_or_else(|| Error::RoundUnknown(id.clone()))?;
        let Phase::Committed(made) = round.phase() else { return Err(Error::RoundUnknown(id)) };
        Ok(notary.manifest(made::by(federation, &view.plan, &round, (made, round.standings()))))
    }

    /// The manifest of what a new run starts from, where the coordinator signs.
    pub(super) fn first_manifest(
        &self,
        run: &RunName,
        plan: &RunPlan,
        initial: Blob,
    ) -> Option<Document> {
        let notary = self.notary.as_ref()?;
        let first = made::first(notary.federation(), run, plan, initial);
        Some(Document::of(DocumentKind::Manifest, &notary.manifest(first)))
    }

    /// A head over the log as it is now.
    ///
    /// # Errors
    /// If the coordinator signs nothing, or the database fails.
    pub async fn log_head(&self) -> Result<SignedHead, Error> {
        let notary = self.notary.as_ref().ok_or(Error::SignsNothing)?;
        let log = self.ask(Message::Log).await?;
        Ok(notary.head(&log, self.clock.now()))
    }

    /// Begins an export of the log as it is now.
    ///
    /// # Errors
    /// If the coordinator signs nothing, or the database fails.
    pub async fn export(&self) -> Result<Export, Error> {
        Ok(Export { head: self.log_head().await?, seq: 0, stage: Stage::Begin })
    }

    /// The next lines of an export; none after its end.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn export_more(&self, export: &mut Export) -> Result<Option<Vec<Line>>, Error> {
        let head = &export.head;
        let (federation, size) = (&head.statement.federation, head.statement.size);
        match export.stage {
            Stage::Over => return Ok(None),
            Stage::Begin => {
                export.stage = Stage::Entries;
                let federation = federation.clone();
                return Ok(Some(vec![Line::Begin { version: VERSION, federation }]));
            }
            Stage::Entries => {}
        }
        let page = self.store.vouched(federation, (export.seq, size), PAGE).await?;
        let Some(newest) = page.last() else {
            export.stage = Stage::Over;
            return Ok(Some(vec![Line::End { head: head.clone() }]));
        };
        export.seq = newest.entry.seq;
        let lines = page.into_iter().flat_map(|vouched| {
            let entry = Line::Entry { entry: vouched.entry, leaf: vouched.leaf };
            let document = vouched.document.and_then(|document| Line::of_document(&document));
            [Some(entry), document, vouched.head.map(|head| Line::Head { head })]
        });
        Ok(Some(lines.flatten().collect()))
    }
}
