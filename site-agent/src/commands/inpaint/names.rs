//! Contrasts and tissues as they are typed, and the contrast that a file's name tells.

use clap::ValueEnum;
use serde::Serialize;

use crate::data::example::Region;
use crate::data::layout::Contrast;

/// A contrast as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ContrastName {
    T1n,
    T1c,
    T2w,
    T2f,
}

/// A tissue as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tissue {
    Healthy,
    Necrosis,
    Oedema,
    Enhancing,
    Mixed,
}

/// The contrast that a file's name ends in, before `-voided` as the inpainting set has it.
pub(super) fn guess(name: &str) -> Option<Contrast> {
    let stem = name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".nii")?;
    let stem = stem.strip_suffix("-voided").unwrap_or(stem);
    match stem.rsplit(['-', '_']).next()?.to_ascii_lowercase().as_str() {
        "t1n" | "t1" => Some(Contrast::T1n),
        "t1c" | "t1ce" => Some(Contrast::T1c),
        "t2w" | "t2" => Some(Contrast::T2w),
        "t2f" | "flair" => Some(Contrast::T2f),
        _ => None,
    }
}

impl ContrastName {
    pub(super) fn contrast(self) -> Contrast {
        Contrast::ALL[self as usize]
    }
}

impl Tissue {
    pub(super) fn region(self) -> Region {
        match self {
            Tissue::Healthy => Region::Healthy,
            Tissue::Necrosis => Region::Necrosis,
            Tissue::Oedema => Region::Oedema,
            Tissue::Enhancing => Region::Enhancing,
            Tissue::Mixed => Region::Mixed,
        }
    }

    /// The tissue that a region is; none for the flag of a box.
    pub(super) fn of(region: Region) -> Option<Tissue> {
        Tissue::value_variants().iter().copied().find(|tissue| tissue.region() == region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contrast_is_guessed_from_the_end_of_the_name_alone() {
        for (name, contrast) in [
            ("BraTS-GLI-00008-000-t1c.nii.gz", Some(Contrast::T1c)),
            ("BraTS2021_00002_flair.nii.gz", Some(Contrast::T2f)),
            ("x_T1.nii", Some(Contrast::T1n)),
            ("t2w.nii", Some(Contrast::T2w)),
            ("BraTS-GLI-00002-000-t1n-voided.nii.gz", Some(Contrast::T1n)),
            ("t1n-mask.nii.gz", None),
            ("scan.nii.gz", None),
            ("x-t1n.png", None),
        ] {
            assert_eq!(guess(name), contrast, "{name}");
        }
    }
}
