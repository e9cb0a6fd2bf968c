//! The kinds of federations in which programs die and disks are bad, one after the other: each passes places that
//! those before it do not.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::Args;
use crate::federation::Shape;
use crate::lanes::{LANES, LANES_WAITING};
use crate::leftovers::Leftovers;
use crate::material::Material;

/// The encoding that loses nothing, and the one that is tried beside it.
const F32: &str = "f32";
const INT8: &str = "int8";

/// How long the runs take of those who wait, in steps of a second: longer than until certificates are looked at
/// and renewed at the second try; a little longer than until a coordinator collects what nobody needs, a minute.
const STEPS_RENEWING: u32 = 14;
const STEPS_AGED: u32 = 72;
const SECOND_MS: u32 = 1_000;

/// In how many rounds the latter: two of them are over by then, and the updates of the first may go.
const ROUNDS_AGED: u32 = 3;

/// What the coordinator's configuration says so by.
const RETENTION: &str = "[retention]\nupdates_rounds = 1\n";

/// A kind of federation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Its sites rehearse, and their updates travel so.
    Rehearsed(String),
    /// Its sites really train, on prepared scans.
    Trained,
    /// Its certificates are due.
    Renewing,
    /// It runs until the coordinator collects what nobody needs.
    Aged,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scenario::Rehearsed(encoding) => encoding,
            Scenario::Trained => "trained",
            Scenario::Renewing => "renewing",
            Scenario::Aged => "aged",
        })
    }
}

impl Scenario {
    /// All of them, or that of one encoding.
    pub(crate) fn all(encoding: Option<&str>) -> Vec<Scenario> {
        let rehearsed = |encoding: &str| Scenario::Rehearsed(encoding.to_owned());
        match encoding {
            Some(encoding) => vec![rehearsed(encoding)],
            None => {
                let waiting = [Scenario::Renewing, Scenario::Aged];
                let working = [rehearsed(F32), rehearsed(INT8), Scenario::Trained];
                working.into_iter().chain(waiting).collect()
            }
        }
    }

    /// All of them, or that of one encoding, with what each is like: as many sites and rounds as were asked for, or
    /// one site, and as few rounds as pass all there is. What they train on is made in `work`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn shapes(args: &Args, work: &Path) -> anyhow::Result<Vec<(Scenario, Shape)>> {
        let mut shapes = Vec::new();
        for scenario in Scenario::all(args.encoding.as_deref()) {
            let mut shape = scenario.shape(args.sites.unwrap_or(1), work)?;
            shape.rounds = args.rounds.unwrap_or(shape.rounds);
            if scenario == Scenario::Aged {
                // However many rounds there are, they last as long together.
                shape.steps = STEPS_AGED.div_ceil(shape.rounds);
            }
            shapes.push((scenario, shape));
        }
        Ok(shapes)
    }

    fn shape(&self, sites: usize, work: &Path) -> anyhow::Result<Shape> {
        let plain = Shape { sites, leftovers: Some(Leftovers::LongPart), ..Shape::default() };
        Ok(match self {
            Scenario::Rehearsed(encoding) if encoding == F32 => plain,
            // The second update is made with what the first has left out.
            Scenario::Rehearsed(encoding) => Shape {
                rounds: 2,
                more: exchange(encoding),
                leftovers: Some(Leftovers::WrongPart),
                ..plain
            },
            Scenario::Trained => {
                let material = Some(Arc::new(Material::make(&work.join("material"), sites)?));
                Shape { steps: 3, material, ..plain }
            }
            Scenario::Renewing => {
                Shape { steps: STEPS_RENEWING, steps_ms: SECOND_MS, due: true, ..plain }
            }
            Scenario::Aged => Shape {
                rounds: ROUNDS_AGED,
                steps_ms: SECOND_MS,
                coordinator: RETENTION.into(),
                ..plain
            },
        })
    }

    /// Whether it does little but wait.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Scenario::Renewing | Scenario::Aged)
    }
}

/// How many federations run side by side, of such that wait or of others.
pub(crate) fn lanes(waits: bool) -> usize {
    if waits { LANES_WAITING } else { LANES }
}

/// The plan's table that has updates travel so.
pub(crate) fn exchange(encoding: &str) -> String {
    format!("\n[exchange]\nencoding = \"{encoding}\"\n")
}

/// When in the life of a federation a program passes a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// As the coordinator starts for the first time.
    FirstStart,
    /// As a site is enrolled.
    Enrolment,
    /// Once from a later start on.
    Start,
    /// In every round.
    Round,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Moment::FirstStart => "first-start",
            Moment::Enrolment => "enrolment",
            Moment::Start => "start",
            Moment::Round => "round",
        })
    }
}

/// The place that is passed as a site is enrolled, and by nothing else.
pub(crate) const ENROLMENT: &str = "db.site";
