//! What a segmentation's numbers mean.
//!
//! The meaning comes from the configuration or from the convention of the file names, never from the
//! numbers that happen to occur: 1, 2, 3 may be a tumour of 2023 or three lesions.

use serde::{Deserialize, Serialize};

use crate::data::example::Region;
use crate::data::volume::Volume;

/// A convention of segmentation labels. 0 is background in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelScheme {
    /// BraTS up to 2022: 1 necrosis, 2 oedema, 4 enhancing tumour.
    Brats2021,
    /// BraTS since 2023: 1 necrosis, 2 oedema, 3 enhancing tumour.
    Brats2023,
    /// Any number is a lesion of one unnamed kind.
    Lesion,
}

/// A number that the scheme has no meaning for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "case {case}: label {label} in {voxels} voxels has no meaning in the scheme {scheme:?}, set \
     `labels` to the scheme of this data"
)]
pub struct Error {
    /// The case's name. It may not leave the site.
    pub case: String,
    /// The smallest unknown number.
    pub label: f32,
    /// How many voxels have an unknown number.
    pub voxels: usize,
    /// The scheme in use.
    pub scheme: LabelScheme,
}

impl LabelScheme {
    /// The region of a label: `Some(None)` for background, `None` for an unknown label.
    pub fn region_of(self, label: f32) -> Option<Option<Region>> {
        if label == 0.0 {
            return Some(None);
        }
        let region = match self {
            LabelScheme::Lesion => Region::Mixed,
            LabelScheme::Brats2021 | LabelScheme::Brats2023 if label == 1.0 => Region::Necrosis,
            LabelScheme::Brats2021 | LabelScheme::Brats2023 if label == 2.0 => Region::Oedema,
            LabelScheme::Brats2021 if label == 4.0 => Region::Enhancing,
            LabelScheme::Brats2023 if label == 3.0 => Region::Enhancing,
            LabelScheme::Brats2021 | LabelScheme::Brats2023 => return None,
        };
        Some(Some(region))
    }
}

/// The region of every voxel of a segmentation, `None` where it is background. `[nz * ny * nx]`
///
/// # Errors
/// [`Error`] naming `case` if a label has no meaning in `scheme`.
pub fn regions(
    segmentation: &Volume,
    scheme: LabelScheme,
    case: &str,
) -> Result<Vec<Option<Region>>, Error> {
    let mut unknown: Option<(f32, usize)> = None;
    let mut note = |label: f32| {
        let (smallest, voxels) = unknown.unwrap_or((label, 0));
        unknown = Some((smallest.min(label), voxels + 1));
        None
    };
    let regions = segmentation
        .voxels
        .iter()
        .map(|&label| scheme.region_of(label).unwrap_or_else(|| note(label)))
        .collect();
    match unknown {
        None => Ok(regions),
        Some((label, voxels)) => Err(Error { case: case.to_string(), label, voxels, scheme }),
    }
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
        let seen = regions(&segmentation(&[0.0, 1.0, 2.0, 4.0]), LabelScheme::Brats2021, "x");
        let expected =
            [None, Some(Region::Necrosis), Some(Region::Oedema), Some(Region::Enhancing)];
        assert_eq!(seen.unwrap(), expected);
        let seen = regions(&segmentation(&[0.0, 1.0, 2.0, 3.0]), LabelScheme::Brats2023, "x");
        assert_eq!(seen.unwrap(), expected);
    }

    #[test]
    fn an_unexpected_label_is_an_error_that_names_the_case_and_counts_the_voxels() {
        let wrong = regions(&segmentation(&[4.0, 9.0, 3.0]), LabelScheme::Brats2023, "GLI-7");
        let wrong = wrong.unwrap_err();
        assert_eq!((wrong.label, wrong.voxels), (4.0, 2));
        assert!(wrong.to_string().contains("GLI-7"), "{wrong}");
        assert!(regions(&segmentation(&[0.5]), LabelScheme::Brats2021, "x").is_err());
    }

    #[test]
    fn any_number_is_a_lesion_in_the_lesion_scheme() {
        let seen = regions(&segmentation(&[0.0, 1.0, 7.0]), LabelScheme::Lesion, "x").unwrap();
        assert_eq!(seen, [None, Some(Region::Mixed), Some(Region::Mixed)]);
    }
}
