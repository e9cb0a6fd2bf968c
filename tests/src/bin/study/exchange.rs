//! What a site of a federated arm sends: its trained model in the form that the plan asks for, made as the
//! trainer makes it. What an update leaves out is kept beside the round's model, as a site keeps it for the
//! next round.

use std::path::{Path, PathBuf};

use anyhow::Context;
use fedpaint_proto::names::SiteName;
use fedpaint_proto::plan::ExchangePlan;
use fedpaint_proto::weights::{Sources, encode};

use crate::shop::{beside, finish};

/// An update, and what it leaves out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// The form in which it travels.
    pub(crate) form: ExchangePlan,
    pub(crate) site: &'a SiteName,
    /// The model that the round begins from.
    pub(crate) base: &'a Path,
    /// The round's model, which is not there yet.
    pub(crate) next: &'a Path,
}

impl Sender<'_> {
    /// Makes the update of a trained model, in its place where that is what travels.
    pub(crate) fn send(&self, trained: PathBuf) -> anyhow::Result<PathBuf> {
        let Sender { form, site, base, next } = *self;
        if form.is_whole_model() {
            return Ok(trained);
        }
        let remainder = |model: &Path| beside(model, &format!(".remainder-{site}"));
        let before = Some(remainder(base)).filter(|path| path.exists());
        let (update, left) = (beside(&trained, ".update"), beside(&trained, ".remainder"));
        let sources = Sources { base, trained: &trained, remainder: before.as_deref() };
        let made = encode(form, sources, &update, &left)?;
        if made.remainder.is_some() {
            finish(&left, &remainder(next))?;
        }
        std::fs::remove_file(&trained).with_context(|| trained.display().to_string())?;
        Ok(update)
    }
}
