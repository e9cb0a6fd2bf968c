//! What is refused, by which name, and that a refusal tells nothing of the patient.

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use rand::RngExt;

use super::*;
use crate::data::stream::stream;

/// Why a folder is refused. The text is checked on the way.
fn refused(folder: &Path) -> Refusal {
    let refusal = read(folder).unwrap_err().refusal;
    assert_discreet(&refusal.to_string());
    refusal
}

/// Why the fixture is refused once `change` was made to its file `IM0002`.
fn refused_with(change: impl Fn(&mut DefaultDicomObject)) -> Refusal {
    let folder = altered(|object, index| {
        if index == 2 {
            change(object);
        }
    });
    refused(folder.path())
}

#[test]
fn each_defect_of_a_file_is_refused_by_its_own_name() {
    let put = |tag, vr, value: &'static str| {
        refused_with(move |object| drop(object.put_str(tag, vr, value)))
    };
    let drop_tag = |tag| refused_with(move |object| assert!(object.remove_element(tag)));
    assert_eq!(put(tags::BURNED_IN_ANNOTATION, VR::CS, "YES"), Refusal::BurnedIn);
    assert_eq!(put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "YBR_FULL"), Refusal::Colour);
    let slope = Refusal::Attribute("RescaleSlope");
    assert_eq!(put(tags::RESCALE_SLOPE, VR::DS, "0"), slope);
    assert_eq!(drop_tag(tags::PIXEL_SPACING), Refusal::Attribute("PixelSpacing"));
    let position = Refusal::Attribute("ImagePositionPatient");
    assert_eq!(drop_tag(tags::IMAGE_POSITION_PATIENT), position);
    assert_eq!(put(tags::IMAGE_POSITION_PATIENT, VR::DS, "1\\2"), position);
    assert_eq!(put(tags::IMAGE_POSITION_PATIENT, VR::DS, "1\\geheim\\2"), position);
    let orientation = Refusal::Attribute("ImageOrientationPatient");
    assert_eq!(drop_tag(tags::IMAGE_ORIENTATION_PATIENT), orientation);
    assert_eq!(drop_tag(tags::PIXEL_DATA), Refusal::NoPixels);
    assert_eq!(put(tags::PIXEL_SPACING, VR::DS, "0.9\\0.9"), Refusal::PixelSpacingChanges);
    let turned = put(tags::IMAGE_ORIENTATION_PATIENT, VR::DS, "1\\0\\0\\0\\1\\0");
    assert_eq!(turned, Refusal::OrientationChanges);
    let rows = refused_with(|object| {
        object.put(DataElement::new(tags::ROWS, VR::US, PrimitiveValue::from(11_u16)));
    });
    assert_eq!(rows, Refusal::SizeChanges);
    // Without its identity a file belongs to no series.
    assert_eq!(drop_tag(tags::SERIES_INSTANCE_UID), Refusal::Damaged(1));
    assert_eq!(put(tags::SERIES_INSTANCE_UID, VR::UI, "1.2.3"), Refusal::SeveralSeries(2));
}

#[test]
fn short_or_long_pixel_data_and_a_file_cut_anywhere_are_refused() {
    let short = refused_with(|object| {
        let pixels = PrimitiveValue::U16(vec![0; 100].into());
        object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, pixels));
    });
    assert_eq!(short, Refusal::Truncated { expected: 240, found: 200 });
    let folder = altered(|_, _| {});
    let path = folder.path().join("IM0003");
    let whole = std::fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(7) {
        std::fs::write(&path, &whole[..length]).unwrap();
        match refused(folder.path()) {
            Refusal::Truncated { expected: 240, .. } => assert!(length + 240 > whole.len()),
            Refusal::Damaged(1) | Refusal::Attribute(_) | Refusal::NoPixels => {}
            // Cut before its magic word it is no DICOM file, and its slice is missing.
            Refusal::MissingSlices(1) => assert!(length < 132),
            other => panic!("{length}: {other}"),
        }
    }
}

#[test]
fn copies_and_several_series_and_an_empty_folder_are_refused() {
    let folder = altered(|_, _| {});
    std::fs::copy(folder.path().join("IM0001"), folder.path().join("copy")).unwrap();
    assert_eq!(refused(folder.path()), Refusal::DuplicatePosition(1));
    assert_eq!(refused(tempfile::tempdir().unwrap().path()), Refusal::NoSeries);
    assert_eq!(refused(&fixture("study")), Refusal::SeveralSeries(11));
    assert!(matches!(refused(&fixture("absent")), Refusal::Io(std::io::ErrorKind::NotFound)));
}

/// The fixture `plain`, whose files say that they are in another transfer syntax.
fn in_syntax(uid: &str) -> tempfile::TempDir {
    let folder = altered(|_, _| {});
    for index in 0..6 {
        let path = folder.path().join(format!("IM{index:04}"));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, renamed_syntax(&bytes, uid)).unwrap();
    }
    folder
}

/// A file whose file meta group names another transfer syntax, and whose rest is as it was.
fn renamed_syntax(file: &[u8], uid: &str) -> Vec<u8> {
    let mut padded = uid.as_bytes().to_vec();
    padded.resize(padded.len().next_multiple_of(2), 0);
    let at = file.windows(6).position(|head| head == b"\x02\0\x10\0UI").unwrap();
    let length = usize::from(u16::from_le_bytes([file[at + 6], file[at + 7]]));
    let meta = u32::from_le_bytes(file[140..144].try_into().unwrap()) as usize;
    let meta = (meta - length + padded.len()) as u32;
    let length_of = (padded.len() as u16).to_le_bytes();
    let parts = [&file[..140], &meta.to_le_bytes(), &file[144..at + 6], &length_of, &padded];
    [&parts.concat(), &file[at + 8 + length..]].concat()
}

#[test]
fn transfer_syntaxes_without_a_decoder_are_refused_by_name() {
    for (name, told) in [
        ("MR_small_jpeg_ls_lossless", "JPEG-LS Lossless (1.2.840.10008.1.2.4.80)"),
        ("MR_small_jp2klossless", "JPEG 2000 Lossless (1.2.840.10008.1.2.4.90)"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(fixture(&format!("real/{name}.dcm")), folder.path().join("a")).unwrap();
        let text = refused(folder.path()).to_string();
        assert!(text.contains(told) && text.contains("gdcmconv"), "{text}");
    }
}

#[test]
fn every_registered_transfer_syntax_is_read_or_refused_by_its_name() {
    let registered = std::fs::read_to_string(fixture("transfer_syntaxes.tsv")).unwrap();
    let since = [
        ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
        ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
        ("1.2.840.113619.5.2", "GE Private"),
    ];
    let lines = registered.lines().map(|line| line.split_once('\t').unwrap());
    let mut read_ones = Vec::new();
    for (uid, name) in lines.chain(since) {
        match syntax::check(uid) {
            Ok(()) => read_ones.push(uid),
            Err(Refusal::Syntax { name: ours, uid: same }) => {
                assert_eq!(same, uid);
                // Some names are shortened; what they begin with says which family it is.
                assert_eq!(ours.split([' ', ',']).next(), name.split([' ', ',']).next(), "{uid}");
                let folder = in_syntax(uid);
                assert_eq!(refused(folder.path()), Refusal::Syntax { name: ours, uid: same });
            }
            Err(other) => panic!("{uid}: {other}"),
        }
    }
    let in_five = ["", ".1", ".2", ".4.50", ".4.51", ".4.57", ".4.70", ".5"];
    assert_eq!(read_ones, in_five.map(|end| format!("1.2.840.10008.1.2{end}")));
}

#[test]
fn a_transfer_syntax_that_is_not_registered_is_refused_without_repeating_it() {
    for uid in ["1.2.826.0.1.4711", "GEHEIM"] {
        let folder = in_syntax(uid);
        assert_eq!(refused(folder.path()), Refusal::UnknownSyntax);
        let found = folder::find(folder.path(), &mut |_, _| {}).unwrap();
        assert_eq!(found.refused, [(Refusal::UnknownSyntax, 6)]);
        assert_eq!(found.passed.damaged, 0);
    }
    // No syntax at all is damage.
    assert_eq!(refused(in_syntax("").path()), Refusal::Damaged(6));
}

#[test]
fn pixels_of_more_bits_than_a_decoder_gives_are_refused_by_name_before_they_are_decoded() {
    for (uid, name) in [
        ("1.2.840.10008.1.2.4.50", "JPEG Baseline (Process 1)"),
        ("1.2.840.10008.1.2.4.51", "JPEG Extended (Process 2 and 4)"),
    ] {
        let folder = in_syntax(uid);
        assert_eq!(refused(folder.path()), Refusal::SyntaxBits { name, uid, bits: 16 });
        let found = folder::find(folder.path(), &mut |_, _| {}).unwrap();
        let listed = intake::list(&found);
        assert_eq!(listed[0].problem, Some(Refusal::SyntaxBits { name, uid, bits: 16 }));
    }
    assert_eq!(syntax::check_bytes("1.2.840.10008.1.2.4.51", 1), Ok(()));
    assert_eq!(syntax::check_bytes("1.2.840.10008.1.2.4.70", 2), Ok(()));
    assert!(syntax::check_bytes("1.2.840.10008.1.2.5", 4).is_err());
}

#[test]
fn what_a_header_says_of_its_characters_is_in_nothing_that_is_told() {
    let folder = altered(|_, _| {});
    for index in 0..6 {
        let path = folder.path().join(format!("IM{index:04}"));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(10).position(|text| text == b"ISO_IR 100").unwrap();
        bytes[at..at + 10].copy_from_slice(b"GEHEIM4711");
        std::fs::write(&path, bytes).unwrap();
    }
    // The character set has nothing to do with the voxels.
    let found = folder::find(folder.path(), &mut |_, _| {}).unwrap();
    assert_discreet(&serde_json::to_string(&intake::list(&found)).unwrap());
    assert_eq!(read(folder.path()).unwrap(), read(&fixture("plain")).unwrap());
    std::fs::remove_file(folder.path().join("IM0003")).unwrap();
    assert_discreet(&refused(folder.path()).to_string());
}

#[test]
fn what_comes_after_compressed_pixels_is_not_read() {
    let path = fixture("rle/IM0000");
    let folder = tempfile::tempdir().unwrap();
    let longer = folder.path().join("longer");
    let original = std::fs::read(&path).unwrap();
    let frames = |path: &Path| {
        let object = file::whole(path).unwrap();
        object.get(tags::PIXEL_DATA).unwrap().fragments().unwrap().to_vec()
    };
    // Three gigabytes of an attribute that belongs behind the pixels, or in front of them.
    for tag in [[0xFC, 0xFF, 0xFC, 0xFF], [0x10, 0x00, 0x00, 0x40]] {
        let claim = [b'O', b'W', 0, 0, 0, 0, 0, 0xC0];
        std::fs::write(&longer, [&original[..], &tag, &claim].concat()).unwrap();
        assert_eq!(frames(&longer), frames(&path));
    }
}

#[test]
fn one_real_slice_is_no_volume() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("real/MR_small.dcm"), folder.path().join("a")).unwrap();
    assert_eq!(refused(folder.path()), Refusal::TooFewSlices(1));
}

#[test]
fn a_real_file_that_is_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("real/MR_truncated.dcm"), folder.path().join("a")).unwrap();
    let refusal = refused(folder.path());
    assert!(matches!(refusal, Refusal::Truncated { expected: 8192, .. }), "{refusal}");
}

#[test]
fn nesting_and_lengths_that_no_file_has_are_refused_before_the_parser_sees_them() {
    let meta = std::fs::read(fixture("plain/IM0000")).unwrap();
    // The file meta group ends where group 0008 begins.
    let end = meta.windows(4).position(|tag| tag == [8, 0, 5, 0]).unwrap();
    let check = |body: &[u8]| {
        let file = [&meta[..end], body].concat();
        nesting::check(std::io::Cursor::new(&file), file.len() as u64).map(|_| ())
    };
    assert_eq!(check(&[]), Ok(()));
    let sequence = [0x40, 0x00, 0x30, 0xA7, b'S', b'Q', 0, 0, 255, 255, 255, 255];
    let item = [0xFE, 0xFF, 0x00, 0xE0, 255, 255, 255, 255];
    let level = [&sequence[..], &item[..]].concat();
    assert_eq!(check(&level.repeat(100_000)), Err(Refusal::DataSet));
    // Half a number, after which the parser would read the next element from amid this one.
    let number = |vr: &[u8; 2], length: u8| {
        let head = [&[0x28, 0x00, 0x10, 0x00], &vr[..], &[length, 0]].concat();
        check(&[head, vec![0; usize::from(length)]].concat())
    };
    for (vr, unit) in [(b"US", 2), (b"UL", 4), (b"FL", 4), (b"FD", 8), (b"AT", 4)] {
        assert_eq!(number(vr, 3 * unit), Ok(()));
        assert_eq!(number(vr, 3 * unit - 1), Err(Refusal::DataSet));
    }
    // Fragments that end as an item does, or with a delimiter that has a value.
    let pixels = [0xE0, 0x7F, 0x10, 0x00, b'O', b'B', 0, 0, 255, 255, 255, 255];
    let fragment = [0xFE, 0xFF, 0x00, 0xE0, 2, 0, 0, 0, 7, 7];
    let ended = |last, length| {
        check(&[&pixels[..], &fragment, &[0xFE, 0xFF, last, 0xE0, length, 0, 0, 0]].concat())
    };
    assert_eq!(ended(0xDD, 0), Ok(()));
    assert_eq!((ended(0x0D, 0), ended(0xDD, 1)), (Err(Refusal::DataSet), Err(Refusal::DataSet)));
    // Four gigabytes of a comment.
    let claim = [0x10, 0x00, 0x00, 0x40, b'U', b'T', 0, 0, 0, 255, 255, 255];
    assert_eq!(check(&claim), Err(Refusal::DataSet));
}

#[test]
fn no_damage_to_a_file_makes_the_reader_panic_or_tell_of_the_patient() {
    let mut rng = stream("tests: damaged DICOM", &[]);
    for name in
        ["plain/IM0000", "rle/IM0000", "jpeg_lossless/IM0000", "enhanced_rle/IM", "implicit/IM0001"]
    {
        let whole = std::fs::read(fixture(name)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(132..bytes.len());
                bytes[at] = rng.random();
            }
            let path = folder.path().join("IM");
            std::fs::write(&path, bytes).unwrap();
            let Ok(found) = folder::find(folder.path(), &mut |_, _| {}) else { continue };
            for series in &found.series {
                let instance = series.first();
                if let Ok(image) = &instance.image
                    && let Ok(object) = file::whole(&instance.path)
                {
                    let area = image.frames[0].plane.rows * image.frames[0].plane.columns;
                    let _ = pixels::bytes(&object, &image.storage, area * image.frames.len());
                }
                if let Err(refusal) = series::read(series) {
                    assert_discreet(&refusal.to_string());
                }
            }
        }
    }
}
