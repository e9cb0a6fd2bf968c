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
use super::{BASE, Error, REMAINDER, WORKSPACE, check, patiently};
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
    /// If it cannot be encoded, what it is made with has changed, the disk fails for longer than is borne, or
    /// the trainer is stopped.
    pub(super) fn put(
        self,
        form: ExchangePlan,
        assignment: &Assignment,
        write: impl Fn(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Encoded, Error> {
        let Outbox { workspace, stop } = self;
        if !form.is_whole_model() {
            look_again(workspace, assignment)?;
        }
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
        patiently(stop, WORKSPACE, || {
            reach("train.trained_drop")?;
            fs::remove_file(&path)
        })?;
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

/// Looks whether what an update is made with is still what it was when the training began, which may be hours
/// ago.
fn look_again(workspace: &Path, assignment: &Assignment) -> Result<(), Error> {
    let Assignment { base, remainder, .. } = assignment;
    check(BASE, &model_path(workspace, base.digest), *base)?;
    match remainder {
        Some(left) => check(REMAINDER, &remainder_path(workspace, left.digest), *left),
        None => Ok(()),
    }
}

/// Gives a file that is whole and on the disk its name.
fn name(made: &Path, path: &Path) -> io::Result<()> {
    reach("train.encoded_rename")?;
    fs::rename(made, path)?;
    reach("train.encoded_folder")?;
    sync_folder(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fedpaint_proto::names::Blob;
    use fedpaint_proto::plan::Encoding;
    use fedpaint_proto::weights::{Dtype, ModelWriter, TensorSpec};

    use super::*;

    /// A model of one tensor in the workspace's folder `sub`, under its digest.
    fn model(workspace: &Path, sub: &str, value: f32) -> Blob {
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![300] };
        let path = workspace.join(sub).join("new");
        let mut writer = ModelWriter::create(&path, vec![spec], &BTreeMap::new()).unwrap();
        writer.write(&[value; 300]).unwrap();
        let blob = writer.finish().unwrap();
        fs::rename(&path, workspace.join(sub).join(blob.digest.to_string())).unwrap();
        blob
    }

    #[test]
    fn nothing_is_encoded_with_a_base_model_or_a_remainder_that_has_changed_in_the_meantime() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path();
        for sub in ["models", "updates", "remainders"] {
            fs::create_dir(workspace.join(sub)).unwrap();
        }
        let base = model(workspace, "models", 1.0);
        let remainder = model(workspace, "remainders", 0.25);
        let trained = model(workspace, "updates", 1.5);
        let trained = fs::read(update_path(workspace, trained.digest)).unwrap();
        let assignment = Assignment {
            run: "brain".parse().unwrap(),
            number: 3,
            site: "mayo".parse().unwrap(),
            plan_toml: String::new(),
            base,
            remainder: Some(remainder),
        };
        let form = ExchangePlan { encoding: Encoding::Int8, ..ExchangePlan::default() };
        let stop = Stop::default();
        let put = || {
            let outbox = Outbox { workspace, stop: &stop };
            outbox.put(form, &assignment, |out| out.write_all(&trained))
        };
        let made = put().unwrap();
        for (path, what) in [
            (model_path(workspace, base.digest), BASE),
            (remainder_path(workspace, remainder.digest), REMAINDER),
        ] {
            let right = fs::read(&path).unwrap();
            let mut wrong = right.clone();
            wrong[right.len() - 1] ^= 1;
            fs::write(&path, wrong).unwrap();
            let refused = put().unwrap_err();
            assert!(matches!(refused, Error::Rotten(told) if told == what), "{refused}");
            fs::write(&path, right).unwrap();
        }
        assert_eq!(put().unwrap(), made);
    }
}
