//! What a file's name says it is. Pure text.

use crate::data::layout::{Companion, Contrast};

/// What a file is to a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// A scan.
    Scan(Contrast),
    /// A segmentation.
    Segmentation,
    /// A scan of the inpainting set with its mask set to 0.
    Voided,
    /// The tumour of the inpainting set.
    MaskUnhealthy,
    /// What the inpainting set hides in all; training draws its own.
    Mask,
    /// What the inpainting set hides of healthy tissue; training draws its own.
    MaskHealthy,
}

impl Role {
    /// What it is beside the files that training reads, if it is such a file.
    pub(super) fn companion(self) -> Option<Companion> {
        match self {
            Role::Voided => Some(Companion::Voided),
            Role::Mask => Some(Companion::Mask),
            Role::MaskHealthy => Some(Companion::MaskHealthy),
            Role::Scan(_) | Role::Segmentation | Role::MaskUnhealthy => None,
        }
    }

    /// The contrast of a scan.
    pub(super) fn contrast(self) -> Option<Contrast> {
        match self {
            Role::Scan(contrast) => Some(contrast),
            _ => None,
        }
    }
}

/// How the names of files end, without `.nii` or `.nii.gz`. No ending is the end of another.
const ENDINGS: [(&str, Role); 14] = [
    ("-t1n", Role::Scan(Contrast::T1n)),
    ("-t1c", Role::Scan(Contrast::T1c)),
    ("-t2w", Role::Scan(Contrast::T2w)),
    ("-t2f", Role::Scan(Contrast::T2f)),
    ("-seg", Role::Segmentation),
    ("-t1n-voided", Role::Voided),
    ("-mask-unhealthy", Role::MaskUnhealthy),
    ("-mask-healthy", Role::MaskHealthy),
    ("-mask", Role::Mask),
    ("_t1", Role::Scan(Contrast::T1n)),
    ("_t1ce", Role::Scan(Contrast::T1c)),
    ("_t2", Role::Scan(Contrast::T2w)),
    ("_flair", Role::Scan(Contrast::T2f)),
    ("_seg", Role::Segmentation),
];

/// The name of the case and the role of `file` in it, if its name has the form of one.
pub(super) fn parse(file: &str) -> Option<(&str, Role)> {
    let stem = stem(file)?;
    let of = |&(ending, role): &(&str, Role)| Some((stem.strip_suffix(ending)?, role));
    ENDINGS.iter().find_map(of).filter(|(case, _)| !case.is_empty())
}

/// The name of a NIfTI file without its extension.
pub(super) fn stem(file: &str) -> Option<&str> {
    file.strip_suffix(".nii.gz").or_else(|| file.strip_suffix(".nii"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_2021_of_2023_and_of_the_inpainting_set_are_understood() {
        for (file, case, role) in [
            ("BraTS2021_00002_t1ce.nii.gz", "BraTS2021_00002", Role::Scan(Contrast::T1c)),
            ("BraTS2021_00002_flair.nii", "BraTS2021_00002", Role::Scan(Contrast::T2f)),
            ("BraTS-GLI-00008-001-t1n.nii.gz", "BraTS-GLI-00008-001", Role::Scan(Contrast::T1n)),
            ("A-1-t1n-voided.nii.gz", "A-1", Role::Voided),
            ("A-1-mask.nii.gz", "A-1", Role::Mask),
            ("A-1-mask-healthy.nii.gz", "A-1", Role::MaskHealthy),
            ("A-1-mask-unhealthy.nii.gz", "A-1", Role::MaskUnhealthy),
            ("A-1_seg.nii", "A-1", Role::Segmentation),
        ] {
            assert_eq!(parse(file), Some((case, role)), "{file}");
        }
    }

    #[test]
    fn other_names_are_no_files_of_a_case() {
        for file in ["-t1n.nii.gz", "colin27_gm.nii.gz", "A-1-t1n.nii.gz.part", "A-1-t1.nii.gz"] {
            assert_eq!(parse(file), None, "{file}");
        }
    }
}
