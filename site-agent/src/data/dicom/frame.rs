//! Where each frame of a file lies and how its pixels are scaled.
//!
//! A classic file has one frame, whose attributes lie at the top; an Enhanced file has many, whose
//! attributes lie in functional groups (PS3.3 C.7.6.16). It never looks at pixels.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use crate::data::dicom::limits::FRAMES_MAX;
use crate::data::dicom::philips;
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::stack::Plane;
use crate::data::dicom::tags::{integer, item, items, number, numbers};

/// How a stored pixel becomes a real value: `slope * stored + intercept`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The factor.
    pub slope: f64,
    /// What a stored 0 means.
    pub intercept: f64,
}

/// One frame of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// Where it lies.
    pub plane: Plane,
    /// How it is scaled.
    pub scale: Scale,
    /// Whether that is by Philips' private slope.
    pub by_philips: bool,
}

/// The groups in which the attributes of one frame are looked up: its own, then the shared ones.
#[derive(Clone, Copy)]
pub(super) struct Groups<'a>(pub [Option<&'a InMemDicomObject>; 2]);

impl<'a> Groups<'a> {
    /// The macro of a functional group.
    pub(super) fn item(&self, tag: Tag) -> Option<&'a InMemDicomObject> {
        self.0.iter().flatten().find_map(|group| item(group, tag))
    }
}

/// The groups of the first frame: what holds for a whole series is the same in all.
pub(super) fn first_groups(object: &InMemDicomObject) -> Groups<'_> {
    let shared = item(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
    Groups([item(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE), shared])
}

/// The frames of a file, in the order of its pixels.
///
/// # Errors
/// A [`Refusal`] that names the attribute that is missing.
pub(super) fn frames(object: &InMemDicomObject) -> Result<Vec<Frame>, Refusal> {
    let count = integer(object, tags::NUMBER_OF_FRAMES).unwrap_or(1);
    let own = items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    if count > FRAMES_MAX {
        return Err(Refusal::TooManyFrames(count));
    }
    if own.is_empty() && count == 1 {
        return classic(object).map(|frame| vec![frame]);
    }
    if own.len() != count {
        return Err(Refusal::Attribute("PerFrameFunctionalGroupsSequence"));
    }
    let shared = item(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
    own.iter().map(|own| enhanced(object, Groups([Some(own), shared]))).collect()
}

/// The one frame of a classic file.
fn classic(object: &InMemDicomObject) -> Result<Frame, Refusal> {
    let plane = plane(object, Some(object), Some(object), Some(object))?;
    let slope = philips::classic(object)?;
    Ok(Frame { plane, scale: scale(object, slope)?, by_philips: slope.is_some() })
}

/// A frame of an Enhanced file.
fn enhanced(object: &InMemDicomObject, groups: Groups<'_>) -> Result<Frame, Refusal> {
    let plane = plane(
        object,
        groups.item(tags::PLANE_POSITION_SEQUENCE),
        groups.item(tags::PLANE_ORIENTATION_SEQUENCE),
        groups.item(tags::PIXEL_MEASURES_SEQUENCE),
    )?;
    let slope = philips::enhanced(object, &groups.0)?;
    let transformation = groups.item(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE);
    let scale = scale(transformation.unwrap_or(object), slope)?;
    Ok(Frame { plane, scale, by_philips: slope.is_some() })
}

fn plane(
    object: &InMemDicomObject,
    position: Option<&InMemDicomObject>,
    orientation: Option<&InMemDicomObject>,
    measures: Option<&InMemDicomObject>,
) -> Result<Plane, Refusal> {
    let size =
        |tag, name| integer(object, tag).filter(|&size| size > 0).ok_or(Refusal::Attribute(name));
    let (rows, columns) = (size(tags::ROWS, "Rows")?, size(tags::COLUMNS, "Columns")?);
    let position_mm = position
        .and_then(|item| numbers(item, tags::IMAGE_POSITION_PATIENT))
        .ok_or(Refusal::Attribute("ImagePositionPatient"))?;
    let [a, b, c, d, e, f] = orientation
        .and_then(|item| numbers(item, tags::IMAGE_ORIENTATION_PATIENT))
        .ok_or(Refusal::Attribute("ImageOrientationPatient"))?;
    // PixelSpacing gives the distance of rows first, which is the one along a column.
    let [along_column, along_row] = measures
        .and_then(|item| numbers(item, tags::PIXEL_SPACING))
        .ok_or(Refusal::Attribute("PixelSpacing"))?;
    Ok(Plane {
        columns,
        rows,
        position_mm,
        across: [a, b, c],
        down: [d, e, f],
        spacing_mm: [along_row, along_column],
    })
}

/// The scale of a frame.
///
/// Philips stores each image with a scale of its own: RescaleSlope RS and RescaleIntercept RI lead to
/// what its console displays, which differs from series to series and may from slice to slice, and the
/// private scale slope SS leads on to the value the reconstruction had,
/// `(stored * RS + RI) / (RS * SS)`. Where SS is there this value is used, because it alone makes the
/// slices of a patient comparable (Chenevert et al. 2014, "Errors in quantitative image analysis due
/// to platform-dependent image scaling", eq. 2). It differs from the displayed one by a factor, which
/// normalising takes away.
fn scale(object: &InMemDicomObject, philips: Option<f64>) -> Result<Scale, Refusal> {
    let intercept = number(object, tags::RESCALE_INTERCEPT);
    let slope = number(object, tags::RESCALE_SLOPE);
    let scale = Scale { slope: slope.unwrap_or(1.0), intercept: intercept.unwrap_or(0.0) };
    if scale.slope == 0.0 {
        return Err(Refusal::Attribute("RescaleSlope"));
    }
    let Some(factor) = philips else { return Ok(scale) };
    Ok(Scale { slope: 1.0 / factor, intercept: scale.intercept / (scale.slope * factor) })
}

#[cfg(test)]
mod tests {
    use dicom_core::VR;

    use super::*;

    fn stored(slope: &str, intercept: &str) -> InMemDicomObject {
        let mut object = InMemDicomObject::new_empty();
        object.put_str(tags::RESCALE_SLOPE, VR::DS, slope);
        object.put_str(tags::RESCALE_INTERCEPT, VR::DS, intercept);
        object
    }

    #[test]
    fn the_scale_of_philips_gives_one_tissue_one_value_however_a_slice_is_stored() {
        // The reconstruction had 250 in both slices: stored 1000 with SS 4, and 500 with SS 2.
        for (pixel, factor, slope) in [(1000.0, 4.0, "2.5"), (500.0, 2.0, "5")] {
            let scale = scale(&stored(slope, "0"), Some(factor)).unwrap();
            assert_eq!(scale.slope * pixel + scale.intercept, 250.0);
        }
        let shifted = scale(&stored("2", "-8"), Some(4.0)).unwrap();
        assert_eq!(shifted, Scale { slope: 0.25, intercept: -1.0 });
    }

    #[test]
    fn a_scale_of_zero_is_refused_and_an_absent_one_is_one() {
        let refused = scale(&stored("0", "0"), Some(1.0)).unwrap_err();
        assert_eq!(refused, Refusal::Attribute("RescaleSlope"));
        let absent = scale(&InMemDicomObject::new_empty(), None).unwrap();
        assert_eq!(absent, Scale { slope: 1.0, intercept: 0.0 });
    }
}
