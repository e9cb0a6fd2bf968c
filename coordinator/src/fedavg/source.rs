//! The files that a round's model is made of, read by runs of the base model's tensors. It writes nothing and
//! knows no plan.
//!
//! Of a file no more is in memory than where its tensors lie, and of that one copy for all that lie alike;
//! beyond [`OPEN_FILES_MAX`] files none stays open. So what is in memory grows with neither the model nor,
//! noticeably, with the number of sites.

use std::collections::HashMap;
use std::path::Path;

use fedpaint_proto::names::SiteName;
use fedpaint_proto::weights::{ModelFile, Ranges, TensorSpec, Update};

use super::blocks::Block;
use super::screen::Voice;
use super::{Contribution, Error, discount};

/// The most updates that are open at once; the others are opened for every block. A coordinator has a
/// connection open for every site besides.
pub(crate) const OPEN_FILES_MAX: usize = 256;

/// A file whose tensors are read by the base model's order of tensors.
pub(super) struct Tensors(Ranges);

impl Tensors {
    /// Opens the file at `path`, which people call `whose`, for the tensors that the base model describes.
    ///
    /// # Errors
    /// If it lacks one of them, has another number of values or element type, or does not read.
    pub(super) fn open(path: &Path, whose: &str, specs: &[TensorSpec]) -> Result<Tensors, Error> {
        let model = ModelFile::open(path)?;
        let places: HashMap<&str, usize> =
            model.tensors().iter().enumerate().map(|(at, t)| (t.name.as_str(), at)).collect();
        let position = |spec: &TensorSpec| {
            let (whose, tensor, expected) = (whose.to_owned(), spec.name.clone(), spec.len());
            let Some(position) = places.get(spec.name.as_str()) else {
                return Err(Error::Missing { whose, tensor });
            };
            let found = model.tensors()[*position].len();
            if found == expected {
                Ok(*position)
            } else {
                Err(Error::Length { whose, tensor, found, expected })
            }
        };
        let positions = specs.iter().map(position).collect::<Result<Vec<usize>, Error>>()?;
        Ok(Tensors(Ranges::new(model, &positions)?))
    }

    /// [`Tensors::open`] of an update, in whatever form it travels; one that is a whole model is opened as
    /// any other.
    ///
    /// # Errors
    /// As [`Tensors::open`].
    fn open_update(path: &Path, whose: &str, specs: &[TensorSpec]) -> Result<Tensors, Error> {
        let update = Update::open(path)?;
        if update.form().is_whole_model() {
            return Tensors::open(path, whose, specs);
        }
        Ok(Tensors(update.values(specs)?))
    }

    /// Fills `values` with the block's of an update, beside those of the model that it was trained from.
    /// Whatever an update holds becomes a number here and nowhere else.
    ///
    /// # Errors
    /// If the file does not read, or holds what is no number.
    fn read_beside(&self, block: Block, base: &[f32], values: &mut [f32]) -> Result<(), Error> {
        Ok(self.0.read_beside(block.tensor, block.first, base, values)?)
    }

    /// Fills `values` with the block's.
    ///
    /// # Errors
    /// If the file does not read.
    pub(super) fn read(&self, block: Block, values: &mut [f32]) -> Result<(), Error> {
        Ok(self.0.read_part(block.tensor, block.first, values)?)
    }

    /// The block's values.
    ///
    /// # Errors
    /// As [`Tensors::read`].
    pub(super) fn values(&self, block: Block) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0; block.len];
        self.read(block, &mut values)?;
        Ok(values)
    }
}

/// The sites' updates: fresh ones in the order of the sites' names, then late ones.
pub(super) struct Updates {
    parts: Vec<Part>,
    voices: Vec<Voice>,
    /// How many of them are fresh.
    fresh: usize,
}

/// One update.
struct Part {
    model: Tensors,
    /// The model it was trained from, if that is not the round's base model.
    own_base: Option<Tensors>,
}

/// One block of every update, and of the base model. An update's values are as it has them; those of a late
/// one are where it would stand had it been trained from the base model: w_late + base_now - base_then.
pub(super) struct Rows {
    /// The base model's.
    pub(super) base: Vec<f32>,
    fresh: Vec<f32>,
    late: Vec<f64>,
}

/// One update's values of a block.
#[derive(Clone, Copy)]
pub(super) enum Row<'a> {
    /// As they were sent.
    Fresh(&'a [f32]),
    /// As they were moved.
    Late(&'a [f64]),
}

impl Updates {
    /// Opens the updates of all sites that saw an example, for the tensors that the base model describes.
    ///
    /// # Errors
    /// If none did, or a file does not open or fit.
    pub(super) fn open(
        contributions: &[Contribution],
        exponent: f64,
        specs: &[TensorSpec],
    ) -> Result<Updates, Error> {
        let mut sorted: Vec<&Contribution> =
            contributions.iter().filter(|c| c.examples > 0).collect();
        sorted.sort_by(|a, b| order(a).cmp(&order(b)));
        let mut parts: Vec<Part> = Vec::with_capacity(sorted.len());
        for contribution in &sorted {
            let mut part = Part::open(contribution, specs)?;
            if let Some(last) = parts.last() {
                part = part.map(|ranges| ranges.like(&last.model.0));
            }
            if parts.len() >= OPEN_FILES_MAX {
                part = part.map(Ranges::closed);
            }
            parts.push(part);
        }
        let fresh = sorted.iter().filter(|c| c.stale.is_none()).count();
        let voices: Vec<Voice> = sorted.iter().map(|c| voice(c, exponent)).collect();
        if voices.iter().map(|voice| voice.weight).sum::<f64>() <= 0.0 {
            Err(Error::NoExamples)
        } else {
            Ok(Updates { parts, voices, fresh })
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whose they are and what each counts.
    pub(super) fn voices(&self) -> &[Voice] {
        &self.voices
    }

    /// Room for blocks.
    pub(super) fn rows(&self) -> Rows {
        Rows { base: Vec::new(), fresh: Vec::new(), late: Vec::new() }
    }

    /// Reads one block of every update.
    ///
    /// # Errors
    /// If a file does not read.
    pub(super) fn read(&self, base: &Tensors, block: Block, rows: &mut Rows) -> Result<(), Error> {
        let len = block.len;
        rows.base.resize(len, 0.0);
        base.read(block, &mut rows.base)?;
        rows.fresh.resize(self.fresh * len, 0.0);
        let (fresh, late) = self.parts.split_at(self.fresh);
        for (part, row) in fresh.iter().zip(rows.fresh.chunks_exact_mut(len.max(1))) {
            part.model.read_beside(block, &rows.base, row)?;
        }
        rows.late.clear();
        for part in late {
            let then = part.own_base.as_ref().map(|then| then.values(block)).transpose()?;
            let then = then.as_ref().unwrap_or(&rows.base);
            let mut trained = vec![0.0; len];
            part.model.read_beside(block, then, &mut trained)?;
            let moved = trained.iter().zip(then).zip(&rows.base);
            rows.late.extend(moved.map(|((trained, then), now)| {
                f64::from(*trained) + f64::from(*now) - f64::from(*then)
            }));
        }
        Ok(())
    }
}

impl Rows {
    /// Fresh updates' values, one after the other, beside the base model's.
    #[cfg(test)]
    pub(super) fn of_fresh(base: Vec<f32>, fresh: Vec<f32>) -> Rows {
        Rows { base, fresh, late: Vec::new() }
    }

    /// Every update's values, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let len = self.base.len().max(1);
        let fresh = self.fresh.chunks_exact(len).map(Row::Fresh);
        fresh.chain(self.late.chunks_exact(len).map(Row::Late))
    }
}

impl Part {
    fn open(c: &Contribution, specs: &[TensorSpec]) -> Result<Part, Error> {
        let whose = format!("the update of site {}", c.site);
        let model = Tensors::open_update(&c.weights, &whose, specs)?;
        let own_base = format!("the model that the late update of site {} began from", c.site);
        let own_base = c.stale.as_ref().map(|stale| Tensors::open(&stale.base, &own_base, specs));
        Ok(Part { model, own_base: own_base.transpose()? })
    }

    fn map(self, with: impl Fn(Ranges) -> Ranges) -> Part {
        let own_base = self.own_base.map(|Tensors(ranges)| Tensors(with(ranges)));
        Part { model: Tensors(with(self.model.0)), own_base }
    }
}

fn voice(c: &Contribution, exponent: f64) -> Voice {
    let discount = c.stale.as_ref().map_or(1.0, |stale| discount(stale.rounds, exponent));
    let weight = c.examples as f64 * discount;
    let (site, late) = (c.site.clone(), c.stale.is_some());
    Voice { site, late, weight, discount, resent: c.resent }
}

/// Fresh updates by their sites' names, then late ones by their sites' names.
fn order(c: &Contribution) -> (bool, &SiteName, Option<u32>) {
    (c.stale.is_some(), &c.site, c.stale.as_ref().map(|stale| stale.rounds))
}
