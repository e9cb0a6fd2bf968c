//! What a segmentation's numbers mean.
//!
//! The meaning is said by whoever brings the data: in a manifest, in the configuration, on the command
//! line. It is never guessed, neither from file names nor from the numbers that happen to occur: 1, 2,
//! 3 may be a tumour of 2023, the rest of one after surgery, or three lesions.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::data::example::Region;
use crate::data::volume::Volume;

/// Different numbers that one segmentation may hold. A tumour has four at most; a few hundred
/// lesions may be numbered one by one; a scan taken for a segmentation has thousands.
pub const LABELS_MAX: usize = 1_000;

/// A convention of segmentation labels. 0 is background in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelScheme {
    /// BraTS up to 2022: 1 necrosis, 2 oedema, 4 enhancing tumour.
    Brats2021,
    /// BraTS since 2023: 1 necrosis, 2 oedema, 3 enhancing tumour.
    Brats2023,
    /// BraTS after treatment: 1 non-enhancing core, 2 oedema, 3 enhancing tumour, 4 resection cavity.
    /// A cavity is no component of a tumour: it is hidden with it when healthy tissue is painted, and
    /// no case that has one is painted with tumour.
    BratsPost,
    /// Any positive number is a lesion of one unnamed kind.
    Lesion,
}

/// A segmentation that cannot be understood. It names the case, so it may not leave the site.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("case {case}: {fault}")]
pub struct Error {
    /// The case's name.
    pub case: String,
    /// What is wrong with its segmentation.
    #[source]
    pub fault: Fault,
}

/// Why a segmentation cannot be understood, without the name of its case.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// A number has no meaning in the scheme.
    #[error(
        "label {label} in {voxels} voxels has no meaning in the scheme {scheme}, set `label_scheme` \
         to the scheme of this data ({fitting})",
        fitting = Fitting(fitting)
    )]
    Unknown {
        /// The smallest unknown number.
        label: f32,
        /// How many voxels have an unknown number.
        voxels: usize,
        /// The scheme in use.
        scheme: LabelScheme,
        /// The schemes in which every number has a meaning.
        fitting: Vec<LabelScheme>,
    },
    /// Nobody has said what the numbers mean.
    #[error(
        "nothing says what its labels mean, set `label_scheme` ({fitting})",
        fitting = Fitting(fitting)
    )]
    NoScheme {
        /// The schemes in which every number has a meaning.
        fitting: Vec<LabelScheme>,
    },
    /// There are more numbers than a segmentation has.
    #[error("more than {LABELS_MAX} different labels, this is no segmentation")]
    TooMany,
}

/// A word that names no scheme.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("no label scheme has this name, choose brats2021, brats2023, brats_post or lesion")]
pub struct NoSuchScheme;

impl LabelScheme {
    /// Every scheme.
    pub const ALL: [LabelScheme; 4] = [
        LabelScheme::Brats2021,
        LabelScheme::Brats2023,
        LabelScheme::BratsPost,
        LabelScheme::Lesion,
    ];

    /// How it is written in configurations, manifests and on the command line.
    pub fn name(self) -> &'static str {
        ["brats2021", "brats2023", "brats_post", "lesion"][self as usize]
    }

    /// The region of a label: `Some(None)` for background, `None` for an unknown label. A region that
    /// is hidden but never painted is [`Region::Mixed`].
    pub fn region_of(self, label: f32) -> Option<Option<Region>> {
        use LabelScheme::{Brats2021, Brats2023, BratsPost, Lesion};
        if label == 0.0 {
            return Some(None);
        }
        let region = match self {
            Lesion if label > 0.0 => Region::Mixed,
            Brats2021 | Brats2023 | BratsPost if label == 1.0 => Region::Necrosis,
            Brats2021 | Brats2023 | BratsPost if label == 2.0 => Region::Oedema,
            Brats2021 if label == 4.0 => Region::Enhancing,
            Brats2023 | BratsPost if label == 3.0 => Region::Enhancing,
            BratsPost if label == 4.0 => Region::Mixed,
            Brats2021 | Brats2023 | BratsPost | Lesion => return None,
        };
        Some(Some(region))
    }

    /// What a label is called in the scheme.
    pub fn meaning(self, label: f32) -> Option<&'static str> {
        Some(match self.region_of(label)?? {
            Region::Necrosis if self == LabelScheme::BratsPost => "non-enhancing core",
            Region::Necrosis => "necrosis",
            Region::Oedema => "oedema",
            Region::Enhancing => "enhancing",
            _ if self == LabelScheme::BratsPost => "cavity",
            _ => "lesion",
        })
    }

    /// The schemes in which every one of `labels` has a meaning.
    pub fn fitting(labels: impl IntoIterator<Item = f32> + Clone) -> Vec<LabelScheme> {
        let fits = |scheme: &LabelScheme| {
            labels.clone().into_iter().all(|label| scheme.region_of(label).is_some())
        };
        LabelScheme::ALL.into_iter().filter(fits).collect()
    }
}

impl fmt::Display for LabelScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LabelScheme {
    type Err = NoSuchScheme;

    fn from_str(word: &str) -> Result<LabelScheme, NoSuchScheme> {
        LabelScheme::ALL.into_iter().find(|scheme| scheme.name() == word).ok_or(NoSuchScheme)
    }
}

/// Schemes as they are suggested to a reader.
struct Fitting<'a>(&'a [LabelScheme]);

impl fmt::Display for Fitting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|scheme| scheme.name()).collect();
        match names[..] {
            [] => f.write_str("its labels fit none of brats2021, brats2023, brats_post, lesion"),
            [only] => write!(f, "its labels would fit {only}"),
            [ref first @ .., last] => {
                write!(f, "its labels would fit {} or {last}", first.join(", "))
            }
        }
    }
}

/// How many voxels hold each label other than 0, the labels ascending.
///
/// # Errors
/// [`Fault::TooMany`].
pub fn counts(segmentation: &Volume) -> Result<Vec<(f32, usize)>, Fault> {
    let mut counts: Vec<(f32, usize)> = Vec::new();
    // Neighbours mostly share a label, so the last place is nearly always the right one.
    let mut last = 0;
    for &label in segmentation.voxels.iter().filter(|&&label| label != 0.0) {
        if !counts.get(last).is_some_and(|(seen, _)| *seen == label) {
            last = match counts.binary_search_by(|(seen, _)| seen.total_cmp(&label)) {
                Ok(place) => place,
                Err(_) if counts.len() == LABELS_MAX => return Err(Fault::TooMany),
                Err(place) => {
                    counts.insert(place, (label, 0));
                    place
                }
            };
        }
        counts[last].1 += 1;
    }
    Ok(counts)
}

/// The scheme that the labels of `counts` are read by: somebody must have given it, and it must have a
/// meaning for each.
///
/// # Errors
/// [`Fault::NoScheme`] or [`Fault::Unknown`], with the schemes that would fit.
pub fn checked(scheme: Option<LabelScheme>, counts: &[(f32, usize)]) -> Result<LabelScheme, Fault> {
    let fitting = || LabelScheme::fitting(counts.iter().map(|&(label, _)| label));
    let Some(scheme) = scheme else { return Err(Fault::NoScheme { fitting: fitting() }) };
    let unknown = || counts.iter().filter(|(label, _)| scheme.region_of(*label).is_none());
    let Some(&(label, _)) = unknown().next() else { return Ok(scheme) };
    let voxels = unknown().map(|(_, voxels)| voxels).sum();
    Err(Fault::Unknown { label, voxels, scheme, fitting: fitting() })
}

/// The region of every voxel of a segmentation, `None` where it is background. `[nz * ny * nx]`
///
/// # Errors
/// [`Error`] naming `case` if there is no scheme or a label has no meaning in it.
pub fn regions(
    segmentation: &Volume,
    scheme: Option<LabelScheme>,
    case: &str,
) -> Result<Vec<Option<Region>>, Error> {
    let known = counts(segmentation).and_then(|counts| checked(scheme, &counts));
    let scheme = known.map_err(|fault| Error { case: case.to_string(), fault })?;
    Ok(segmentation.voxels.iter().map(|&label| scheme.region_of(label).flatten()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segmentation(voxels: &[f32]) -> Volume {
        let dims = [voxels.len(), 1, 1];
        Volume { dims, spacing_mm: [1.0; 3], origin_mm: [0.0; 3], voxels: voxels.to_vec() }
    }

    #[test]
    fn the_enhancing_label_is_4_until_2022_and_3_since_2023() {
        let seen = regions(&segmentation(&[0.0, 1.0, 2.0, 4.0]), Some(LabelScheme::Brats2021), "x");
        let expected =
            [None, Some(Region::Necrosis), Some(Region::Oedema), Some(Region::Enhancing)];
        assert_eq!(seen.unwrap(), expected);
        let seen = regions(&segmentation(&[0.0, 1.0, 2.0, 3.0]), Some(LabelScheme::Brats2023), "x");
        assert_eq!(seen.unwrap(), expected);
    }

    #[test]
    fn after_treatment_4_is_a_cavity_which_is_hidden_and_never_painted() {
        let seen = regions(&segmentation(&[3.0, 4.0]), Some(LabelScheme::BratsPost), "x").unwrap();
        assert_eq!(seen, [Some(Region::Enhancing), Some(Region::Mixed)]);
        assert_eq!(LabelScheme::BratsPost.meaning(4.0), Some("cavity"));
        assert_eq!(LabelScheme::Brats2021.meaning(4.0), Some("enhancing"));
    }

    #[test]
    fn an_unexpected_label_is_an_error_that_names_the_case_and_what_would_fit() {
        let wrong = regions(&segmentation(&[4.0, 9.0, 3.0]), Some(LabelScheme::Brats2023), "GLI-7");
        let wrong = wrong.unwrap_err();
        let Fault::Unknown { label, voxels, .. } = wrong.fault else { panic!("{wrong}") };
        assert_eq!((label, voxels), (4.0, 2));
        let text = wrong.to_string();
        assert!(
            text.contains("GLI-7") && text.ends_with("(its labels would fit lesion)"),
            "{text}"
        );
        assert!(regions(&segmentation(&[0.5]), Some(LabelScheme::Brats2021), "x").is_err());
    }

    #[test]
    fn any_positive_number_is_a_lesion_in_the_lesion_scheme() {
        let seen =
            regions(&segmentation(&[0.0, 1.0, 7.0]), Some(LabelScheme::Lesion), "x").unwrap();
        assert_eq!(seen, [None, Some(Region::Mixed), Some(Region::Mixed)]);
        assert!(regions(&segmentation(&[-1.0]), Some(LabelScheme::Lesion), "x").is_err());
    }

    #[test]
    fn without_a_scheme_nothing_is_guessed_and_the_schemes_that_would_fit_are_told() {
        let refused = |labels: &[f32]| regions(&segmentation(labels), None, "x").unwrap_err();
        for (labels, told) in [
            (&[0.0, 1.0, 4.0][..], "brats2021, brats_post or lesion"),
            (&[1.0, 2.0, 3.0], "brats2023, brats_post or lesion"),
            (&[3.0, 4.0], "brats_post or lesion"),
            (&[-2.0], "fit none of"),
        ] {
            let text = refused(labels).to_string();
            assert!(text.contains(told), "{labels:?}: {text}");
        }
    }

    #[test]
    fn a_scan_in_the_place_of_a_segmentation_is_refused_in_every_scheme() {
        let ramp: Vec<f32> = (0..=LABELS_MAX + 1).map(|i| i as f32).collect();
        for scheme in LabelScheme::ALL {
            let refused = regions(&segmentation(&ramp), Some(scheme), "x");
            assert_eq!(refused.unwrap_err().fault, Fault::TooMany);
        }
        let seen = counts(&segmentation(&[2.0, 1.0, 2.0, 0.0, 2.0])).unwrap();
        assert_eq!(seen, [(1.0, 1), (2.0, 3)]);
    }

    #[test]
    fn a_scheme_is_read_as_it_is_written() {
        for scheme in LabelScheme::ALL {
            assert_eq!(scheme.name().parse(), Ok(scheme));
            assert_eq!(serde_json::to_value(scheme).unwrap(), scheme.name());
        }
        assert_eq!("Brats2021".parse::<LabelScheme>(), Err(NoSuchScheme));
    }
}
