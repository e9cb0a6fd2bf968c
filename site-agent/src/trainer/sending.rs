//! A trained model on its way out: put into the workspace in the form in which the plan has it travel.
//!
//! It is the trainer that encodes, because the weights are here, and what an update leaves out is made of
//! them. Nothing of it depends on time or attempt: the same training makes the same two files.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use fedpaint_proto::failpoint::reach;
use fedpaint_proto::plan::ExchangePlan;
use fedpaint_proto::weights::{self, Encoded, Sources, encode, sync_folder};

use super::stop::Stop;
use super::{Error, WORKSPACE, patiently};
use crate::disk::write_by_digest;
use crate::pipe::Assignment;
use crate::workspace::{model_path, remainder_path, update_path};

const UPDATE: [&str; 3] = ["train.update_create", "train.update_write", "train.update_rename"];

/// What an update and what it leaves out are called until their digests are known.
const IN_THE_MAKING: &str = "made";

/// Where updates are put.
#[derive(Clone, Copy)]
pub(super) struct Outbox<'a> {
    pub(super) workspace: &'a Path,
    pub(super) stop: &'a Stop,
}

impl Outbox<'_> {
    /// Puts the trained model of an assignment, which `write` writes as often as it is asked to, into the
    /// workspace.
    ///
    /// # Errors
    /// If it cannot be encoded, the disk fails for longer than is borne, or the trainer is stopped.
    pub(super) fn put(
        self,
        form: ExchangePlan,
        assignment: &Assignment,
        write: impl Fn(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Encoded, Error> {
        let Outbox { workspace, stop } = self;
        let folder = workspace.join("updates");
        let put = || write_by_digest(&folder, IN_THE_MAKING, UPDATE, &write);
        let trained = patiently(stop, WORKSPACE, put)?;
        if form.is_whole_model() {
            return Ok(Encoded { update: trained, remainder: None });
        }
        // The whole model is read from its file, so that it is in memory but once.
        drop(write);
        let path = update_path(workspace, trained.digest);
        let remainder = assignment.remainder.map(|blob| remainder_path(workspace, blob.digest));
        let base = model_path(workspace, assignment.base.digest);
        let sources = Sources { base: &base, trained: &path, remainder: remainder.as_deref() };
        let made = patiently(stop, WORKSPACE, || self.encode(form, sources))?;
        patiently(stop, WORKSPACE, || fs::remove_file(&path))?;
        made.map_err(Error::Encoding)
    }

    /// Makes both files and gives them the names of what they hold. What is wrong with the numbers and not
    /// the disk is the inner error.
    fn encode(
        self,
        form: ExchangePlan,
        sources: Sources<'_>,
    ) -> io::Result<Result<Encoded, weights::Error>> {
        let update = self.workspace.join("updates").join(IN_THE_MAKING);
        let left = self.workspace.join("remainders").join(IN_THE_MAKING);
        let made = match encode(form, sources, &update, &left) {
            Ok(made) => made,
            Err(weights::Error::Io { source, .. }) => return Err(source),
            Err(error) => return Ok(Err(error)),
        };
        if let Some(remainder) = made.remainder {
            name(&left, &remainder_path(self.workspace, remainder.digest))?;
        }
        name(&update, &update_path(self.workspace, made.update.digest))?;
        Ok(Ok(made))
    }
}

/// Gives a file that is whole and on the disk its name.
fn name(made: &Path, path: &Path) -> io::Result<()> {
    reach("train.encoded_rename")?;
    fs::rename(made, path)?;
    reach("train.encoded_folder")?;
    sync_folder(path)
}
