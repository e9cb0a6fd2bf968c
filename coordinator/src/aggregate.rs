//! What an aggregation makes, named once: the same parts as blobs in a round and as files on the
//! disk. It holds names and never a weight.

use crate::standing::Standing;

/// The global model of a round with what is kept beside it. `T` is how a part is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aggregate<T> {
    /// The model that the next round trains from.
    pub model: T,
    /// The moving average of the models, where the plan asks for one: to be used, not trained from.
    pub ema: Option<T>,
    /// The server optimiser's momentum; for `momentum` and `adam`.
    pub momentum: Option<T>,
    /// The server optimiser's second moment; for `adam`.
    pub second_moment: Option<T>,
}

impl<T> Aggregate<T> {
    /// A model with nothing beside it, such as the one that a run starts from.
    pub fn of(model: T) -> Aggregate<T> {
        Aggregate { model, ema: None, momentum: None, second_moment: None }
    }

    /// The same parts under other names.
    pub fn map<U>(self, mut name: impl FnMut(T) -> U) -> Aggregate<U> {
        Aggregate {
            model: name(self.model),
            ema: self.ema.map(&mut name),
            momentum: self.momentum.map(&mut name),
            second_moment: self.second_moment.map(&mut name),
        }
    }

    /// The parts that are there.
    pub fn parts(&self) -> impl Iterator<Item = &T> {
        let Aggregate { model, ema, momentum, second_moment } = self;
        [Some(model), ema.as_ref(), momentum.as_ref(), second_moment.as_ref()].into_iter().flatten()
    }
}

/// What a round has come to. `T` is how a file is named.
#[derive(Clone, Debug, PartialEq)]
pub struct Made<T> {
    /// The files.
    pub files: Aggregate<T>,
    /// How each update lies to the others: fresh ones in the order of the sites' names, then late ones.
    pub standings: Vec<Standing>,
}

impl<T> Made<T> {
    /// The same under other names.
    pub fn map<U>(self, name: impl FnMut(T) -> U) -> Made<U> {
        Made { files: self.files.map(name), standings: self.standings }
    }
}

/// Files alone, of which nothing is told.
impl<T> From<Aggregate<T>> for Made<T> {
    fn from(files: Aggregate<T>) -> Made<T> {
        Made { files, standings: Vec::new() }
    }
}
