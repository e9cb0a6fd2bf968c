//! Where each frame of a file lies and how its pixels are scaled.
//!
//! A classic file has one frame, whose attributes lie at the top; an Enhanced file has many, whose
//! attributes lie in functional groups (PS3.3 C.7.6.16). It never looks at pixels.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

use crate::data::dicom::limits::FRAMES_MAX;
use crate::data::dicom::refusal::Refusal;
use crate::data::dicom::stack::Plane;
use crate::data::dicom::tags::{integer, item, items, number, numbers};

/// The owner of Philips' scale slope (2005,xx0E).
const PHILIPS: &str = "Philips MR Imaging DD 001";

/// The owner of the sequence (2005,xx0F) that holds it in an Enhanced file of Philips.
const PHILIPS_ENHANCED: &str = "Philips MR Imaging DD 005";

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
    let philips = object.private_element(0x2005, PHILIPS, 0x0E).ok();
    let philips = philips.and_then(|element| element.to_float64().ok());
    Ok(Frame { plane, scale: scale(object, philips)? })
}

/// A frame of an Enhanced file.
fn enhanced(object: &InMemDicomObject, groups: Groups<'_>) -> Result<Frame, Refusal> {
    let plane = plane(
        object,
        groups.item(tags::PLANE_POSITION_SEQUENCE),
        groups.item(tags::PLANE_ORIENTATION_SEQUENCE),
        groups.item(tags::PIXEL_MEASURES_SEQUENCE),
    )?;
    let philips = groups.0.iter().flatten().find_map(|group| {
        let inner = group.private_element(0x2005, PHILIPS_ENHANCED, 0x0F).ok()?;
        let slope = inner.items()?.first()?.private_element(0x2005, PHILIPS, 0x0E).ok()?;
        slope.to_float64().ok()
    });
    let transformation = groups.item(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE);
    Ok(Frame { plane, scale: scale(transformation.unwrap_or(object), philips)? })
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
    if !factor.is_finite() || factor <= 0.0 {
        return Err(Refusal::Attribute("Philips' scale slope (2005,100E)"));
    }
    Ok(Scale { slope: 1.0 / factor, intercept: scale.intercept / (scale.slope * factor) })
}

#[cfg(test)]
mod tests {
    use dicom_core::{DataElement, PrimitiveValue, VR};

    use super::*;

    fn philips(slope: &str, intercept: &str, factor: f32) -> InMemDicomObject {
        let mut object = InMemDicomObject::new_empty();
        object.put_str(tags::RESCALE_SLOPE, VR::DS, slope);
        object.put_str(tags::RESCALE_INTERCEPT, VR::DS, intercept);
        object.put_str(Tag(0x2005, 0x0010), VR::LO, PHILIPS);
        object.put(DataElement::new(Tag(0x2005, 0x100E), VR::FL, PrimitiveValue::from(factor)));
        object
    }

    fn scale_of(object: &InMemDicomObject) -> Result<Scale, Refusal> {
        let philips = object.private_element(0x2005, PHILIPS, 0x0E).ok();
        scale(object, philips.and_then(|element| element.to_float64().ok()))
    }

    #[test]
    fn the_scale_of_philips_gives_one_tissue_one_value_however_a_slice_is_stored() {
        // The reconstruction had 250 in both slices: stored 1000 with SS 4, and 500 with SS 2.
        for (stored, factor, slope) in [(1000.0, 4.0, "2.5"), (500.0, 2.0, "5")] {
            let scale = scale_of(&philips(slope, "0", factor)).unwrap();
            assert_eq!(scale.slope * stored + scale.intercept, 250.0);
        }
        let shifted = scale_of(&philips("2", "-8", 4.0)).unwrap();
        assert_eq!(shifted, Scale { slope: 0.25, intercept: -1.0 });
    }

    #[test]
    fn a_scale_of_zero_is_refused_and_an_absent_one_is_one() {
        let refused = |object| matches!(scale_of(&object), Err(Refusal::Attribute(_)));
        assert!(refused(philips("0", "0", 1.0)));
        assert!(refused(philips("1", "0", 0.0)));
        assert!(refused(philips("1", "0", f32::INFINITY)));
        let absent = scale_of(&InMemDicomObject::new_empty()).unwrap();
        assert_eq!(absent, Scale { slope: 1.0, intercept: 0.0 });
    }
}
