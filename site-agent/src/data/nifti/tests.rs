//! What a reader meets in real files. Headers are built here from the standard's offsets, so that
//! reading is not tested by writing.

use super::*;

/// A file in parts, little-endian unless `big`.
#[derive(Clone)]
pub(super) struct Raw {
    big: bool,
    dim: Vec<i16>,
    data_type: i16,
    bits: i16,
    slope: f32,
    inter: f32,
    pub(super) sform: Option<[[f32; 4]; 3]>,
    offset: f32,
    voxels: Vec<u8>,
}

const RAS: [[f32; 4]; 3] = [[1.0, 0.0, 0.0, -10.0], [0.0, 1.0, 0.0, -20.0], [0.0, 0.0, 2.0, -30.0]];

impl Raw {
    pub(super) fn new(dim: &[i16], data_type: i16, bits: i16, voxels: Vec<u8>) -> Raw {
        let (slope, inter) = (0.0, 0.0);
        Raw {
            big: false,
            dim: dim.to_vec(),
            data_type,
            bits,
            slope,
            inter,
            sform: Some(RAS),
            offset: 352.0,
            voxels,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut raw = vec![0; 352];
        let mut put = |at: usize, bytes: [u8; 4], n: usize| {
            // `bytes` is big-endian, in its last `n` bytes.
            let mut value = bytes[4 - n..].to_vec();
            if !self.big {
                value.reverse();
            }
            raw[at..at + n].copy_from_slice(&value);
        };
        let short = |value: i16| i32::from(value).to_be_bytes();
        put(0, 348_i32.to_be_bytes(), 4);
        put(40, short(self.dim.len() as i16), 2);
        for (i, &d) in self.dim.iter().enumerate() {
            put(42 + 2 * i, short(d), 2);
        }
        put(70, short(self.data_type), 2);
        put(72, short(self.bits), 2);
        for (i, size) in [1.0_f32, 1.0, 1.0, 2.0].into_iter().enumerate() {
            put(76 + 4 * i, size.to_be_bytes(), 4);
        }
        put(108, self.offset.to_be_bytes(), 4);
        put(112, self.slope.to_be_bytes(), 4);
        put(116, self.inter.to_be_bytes(), 4);
        if let Some(rows) = self.sform {
            put(254, short(1), 2);
            for (i, value) in rows.as_flattened().iter().enumerate() {
                put(280 + 4 * i, value.to_be_bytes(), 4);
            }
        }
        raw[344..348].copy_from_slice(b"n+1\0");
        raw.resize((self.offset as usize).max(352), 7);
        raw.extend(&self.voxels);
        raw
    }

    fn read(&self) -> Result<Scan, Fault> {
        decode(self.bytes().as_slice())
    }
}

fn ramp(count: u8) -> Vec<u8> {
    (0..count).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_real_voxel_type_of_both_byte_orders_is_read() {
    macro_rules! check {
        ($code:expr, $number:ty, $values:expr) => {
            let values: [$number; 2] = $values;
            let expected: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            let bits = 8 * size_of::<$number>() as i16;
            let little: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut raw = Raw::new(&[2, 1, 1], $code, bits, little);
            assert_eq!(raw.read().unwrap().volume.voxels, expected);
            raw.big = true;
            raw.voxels = values.iter().flat_map(|v| v.to_be_bytes()).collect();
            assert_eq!(raw.read().unwrap().volume.voxels, expected);
        };
    }
    check!(2, u8, [0, 255]);
    check!(4, i16, [-136, 15462]);
    check!(8, i32, [-70_000, 70_000]);
    check!(16, f32, [-1.5, 0.25]);
    check!(64, f64, [0.1, 1e9]);
    check!(256, i8, [-128, 127]);
    check!(512, u16, [1, 65_535]);
    check!(768, u32, [3, 16_777_216]);
}

#[test]
fn slope_and_intercept_are_applied_and_a_slope_of_zero_or_nan_is_none() {
    let mut raw = Raw::new(&[2, 1, 1], 2, 8, vec![0, 10]);
    (raw.slope, raw.inter) = (0.5, -3.0);
    assert_eq!(raw.read().unwrap().volume.voxels, [-3.0, 2.0]);
    for none in [0.0, f32::NAN, f32::INFINITY] {
        raw.slope = none;
        assert_eq!(raw.read().unwrap().volume.voxels, [0.0, 10.0]);
    }
}

#[test]
fn the_same_head_in_ras_las_and_lps_is_one_volume() {
    let ras = Raw::new(&[2, 3, 2], 2, 8, ramp(12));
    let expected = ras.read().unwrap();
    assert_eq!(expected.volume.voxels, ramp(12).iter().map(|&v| v.into()).collect::<Vec<f32>>());
    assert_eq!(expected.volume.spacing_mm, [1.0, 1.0, 2.0]);
    assert_eq!(expected.volume.origin_mm, [-10.0, -20.0, -30.0]);

    let mut las = ras.clone();
    las.voxels = ramp(12).chunks(2).flat_map(|row| row.iter().rev().copied()).collect();
    las.sform.as_mut().unwrap()[0] = [-1.0, 0.0, 0.0, -9.0];
    let las = las.read().unwrap();
    assert_eq!((las.geometry.axis_codes(), las.volume), ("LAS".into(), expected.volume.clone()));

    let mut lps = ras.clone();
    lps.voxels = ramp(12).chunks(6).flat_map(|plane| plane.iter().rev().copied()).collect();
    lps.sform = Some([[-1.0, 0.0, 0.0, -9.0], [0.0, -1.0, 0.0, -18.0], [0.0, 0.0, 2.0, -30.0]]);
    let lps = lps.read().unwrap();
    assert_eq!((lps.geometry.axis_codes(), lps.volume), ("LPS".into(), expected.volume.clone()));

    // Sagittal storage: the file's axes are y, z, x.
    let mut sagittal = ras.clone();
    sagittal.dim = vec![3, 2, 2];
    let at = |x: usize, y: usize, z: usize| (x + 2 * (y + 3 * z)) as u8;
    sagittal.voxels = (0..12).map(|i| at(i / 6, i % 3, i / 3 % 2)).collect();
    sagittal.sform = Some([[0.0, 0.0, 1.0, -10.0], [1.0, 0.0, 0.0, -20.0], [0.0, 2.0, 0.0, -30.0]]);
    let sagittal = sagittal.read().unwrap();
    assert_eq!((sagittal.geometry.axis_codes(), sagittal.volume), ("ASR".into(), expected.volume));
}

#[test]
fn without_sform_and_qform_the_voxel_sizes_alone_place_the_scan() {
    let mut raw = Raw::new(&[2, 1, 2], 2, 8, ramp(4));
    raw.sform = None;
    let scan = raw.read().unwrap();
    assert_eq!(scan.geometry.axis_codes(), "RAS");
    assert_eq!(scan.volume.spacing_mm, [1.0, 1.0, 2.0]);
}

#[test]
fn trailing_dimensions_of_one_are_accepted_and_others_refused() {
    assert_eq!(Raw::new(&[2, 3, 2, 1, 1], 2, 8, ramp(12)).read().unwrap().volume.dims, [2, 3, 2]);
    for dim in [&[2, 3, 1, 2][..], &[2, 6], &[0, 3, 2], &[-2, 3, 2], &[]] {
        let refused = Raw::new(dim, 2, 8, ramp(12)).read();
        assert!(
            matches!(refused, Err(Fault::NotThreeDimensional(_) | Fault::TooManyVoxels(_))),
            "{dim:?}: {refused:?}"
        );
    }
}

#[test]
fn a_header_that_claims_a_huge_image_is_refused_before_memory_is_taken() {
    for dim in [[1025, 1, 1], [1024, 1024, 1024], [i16::MAX, i16::MAX, i16::MAX]] {
        let refused = Raw::new(&dim, 64, 64, Vec::new()).read();
        assert!(matches!(refused, Err(Fault::TooManyVoxels(_))), "{refused:?}");
    }
    // Within the limits, but with nothing behind it: memory grows only with what is there.
    let bomb = gzip(&Raw::new(&[512, 512, 512], 64, 64, Vec::new()).bytes());
    let refused = decode(bomb.as_slice());
    assert!(matches!(refused, Err(Fault::Truncated { found: 0, .. })), "{refused:?}");
}

#[test]
fn a_truncated_file_says_how_much_is_missing() {
    // Bytes that do not compress, so that the cut falls into the voxels.
    let voxels = (0..128_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let whole = Raw::new(&[4, 4, 4], 4, 16, voxels).bytes();
    let cut = decode(&whole[..whole.len() - 5]);
    assert!(matches!(cut, Err(Fault::Truncated { expected: 128, found: 123 })), "{cut:?}");
    let compressed = gzip(&whole);
    let cut = decode(&compressed[..compressed.len() - 12]);
    assert!(matches!(cut, Err(Fault::Truncated { expected: 128, .. })), "{cut:?}");
}

#[test]
fn a_gzip_stream_with_one_wrong_bit_is_damaged_wherever_the_bit_is() {
    let voxels = (0..128_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let raw = Raw::new(&[4, 4, 4], 4, 16, voxels);
    // Stored, not deflated, so that only the check sum can tell.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&raw.bytes()).unwrap();
    let mut stored = encoder.finish().unwrap();
    assert!(decode(&stored).is_ok());
    for at in [400, stored.len() - 8 - 1, stored.len() - 6] {
        stored[at] ^= 4;
        let refused = decode(&stored);
        assert!(matches!(refused, Err(Fault::Corrupt)), "{at}: {refused:?}");
        stored[at] ^= 4;
    }
    let refused = decode(&stored[..stored.len() - 3]);
    assert!(matches!(refused, Err(Fault::Truncated { expected: 128, found: 128 })), "{refused:?}");
}

#[test]
fn a_file_with_more_slices_than_its_header_says_is_refused_and_padding_is_not() {
    let mut raw = Raw::new(&[3, 2, 2], 4, 16, ramp(24));
    let whole = raw.read().unwrap();
    raw.voxels.extend([0; 11]);
    assert_eq!(raw.read().unwrap(), whole);
    assert_eq!(decode(&gzip(&raw.bytes())).unwrap(), whole);
    raw.voxels.push(0);
    assert!(matches!(raw.read(), Err(Fault::Surplus(24))));
    assert!(matches!(decode(&gzip(&raw.bytes())), Err(Fault::Surplus(24))));
}

#[test]
fn a_folder_and_a_pipe_are_no_scans_and_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let refused = read(folder.path()).unwrap_err();
    assert!(matches!(refused.fault, Fault::NotAFile), "{refused}");
    let pipe = folder.path().join("pipe.nii");
    if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()) {
        assert!(matches!(read(&pipe).unwrap_err().fault, Fault::NotAFile));
    }
}

#[test]
fn bytes_that_are_no_nifti_file_are_refused_by_name() {
    assert!(matches!(decode(&b"hello"[..]), Err(Fault::NotNifti)));
    assert!(matches!(decode(&b""[..]), Err(Fault::NotNifti)));
    assert!(matches!(decode([0x41; 4000].as_slice()), Err(Fault::NotNifti)));
    let good = Raw::new(&[2, 1, 1], 2, 8, ramp(2)).bytes();
    let mut magic = good.clone();
    magic[344] = b'x';
    assert!(matches!(decode(magic.as_slice()), Err(Fault::NotNifti)));
    magic[344..348].copy_from_slice(b"ni1\0");
    assert!(matches!(decode(magic.as_slice()), Err(Fault::Pair)));
    // The length of a NIfTI-2 header alone makes none.
    let mut two = [good.clone(), vec![0; 300]].concat();
    two[0..4].copy_from_slice(&540_i32.to_le_bytes());
    assert!(matches!(decode(&two), Err(Fault::NotNifti)));
    two[4..12].copy_from_slice(b"ni2\0\r\n\x1a\n");
    assert!(matches!(decode(&two), Err(Fault::Pair)));
}

#[test]
fn impossible_types_bits_and_offsets_are_refused() {
    assert!(matches!(Raw::new(&[1, 1, 1], 32, 64, vec![0; 8]).read(), Err(Fault::DataType(32))));
    assert!(matches!(Raw::new(&[1, 1, 1], 99, 8, vec![0; 8]).read(), Err(Fault::DataType(99))));
    let bits = Raw::new(&[1, 1, 1], 4, 8, vec![0; 8]).read();
    assert!(matches!(bits, Err(Fault::BitsPerVoxel { expected: 16, .. })), "{bits:?}");
    for offset in [-4.0, 12.0, 352.5, 1e12, f32::NAN] {
        let mut bytes = Raw::new(&[1, 1, 1], 2, 8, vec![0; 8]).bytes();
        bytes[108..112].copy_from_slice(&f32::to_le_bytes(offset));
        assert!(matches!(decode(bytes.as_slice()), Err(Fault::VoxelOffset(_))), "{offset}");
    }
}

#[test]
fn voxels_start_where_the_header_says_and_after_the_header_where_it_says_nothing() {
    let mut raw = Raw::new(&[2, 1, 1], 2, 8, vec![3, 4]);
    raw.offset = 400.0;
    assert_eq!(raw.read().unwrap().volume.voxels, [3.0, 4.0]);
    raw.offset = 0.0;
    assert_eq!(raw.read().unwrap().volume.voxels, [3.0, 4.0]);
}

#[test]
fn voxels_that_are_no_numbers_are_counted_in_the_error() {
    let voxels = [1.0, f32::NAN, f32::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect();
    let refused = Raw::new(&[3, 1, 1], 16, 32, voxels).read();
    assert!(matches!(refused, Err(Fault::NotFinite(2))), "{refused:?}");
}

#[test]
fn a_result_lies_exactly_over_its_input() {
    let folder = tempfile::tempdir().unwrap();
    for big in [false, true] {
        let mut raw = Raw::new(&[2, 3, 2, 1], 2, 8, ramp(12));
        raw.big = big;
        (raw.slope, raw.inter) = (2.0, 1.0);
        raw.sform = Some([[0.0, -1.0, 0.1, 5.0], [-1.0, 0.0, 0.0, 6.0], [0.0, 0.1, 2.0, 7.0]]);
        let scan = raw.read().unwrap();
        let halves = scan.volume.voxels.iter().map(|v| v + 0.5).collect();
        let result = scan.volume.with_voxels(halves);
        for name in ["result.nii", "result.nii.gz"] {
            let path = folder.path().join(name);
            write_like(&path, &result, &scan.geometry, "SYNTHETIC").unwrap();
            let back = read(&path).unwrap();
            assert_eq!(back.volume, result);
            assert_eq!(back.geometry.affine(), scan.geometry.affine());
            assert_eq!(read_like(&path, &scan.geometry).unwrap(), result);
        }
        // Byte for byte the input's header, but for type, scaling, display range and description.
        let written = std::fs::read(folder.path().join("result.nii")).unwrap();
        let original = raw.bytes();
        let changed: Vec<usize> = (0..348).filter(|&i| written[i] != original[i]).collect();
        let may =
            |i: &usize| (70..74).contains(i) || (112..120).contains(i) || (148..228).contains(i);
        assert!(changed.iter().all(may), "{changed:?}");
        assert_eq!(&written[148..157], b"SYNTHETIC");
        assert_eq!(written.len(), 352 + 12 * 4);
        // The first voxel of the file is still the first voxel of the file.
        let first: [u8; 4] = written[352..356].try_into().unwrap();
        let first = if big { f32::from_be_bytes(first) } else { f32::from_le_bytes(first) };
        assert_eq!(first, 1.5);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file was left");
}

#[test]
fn a_new_file_has_the_affine_of_brats_and_keeps_its_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let volume = Volume {
        dims: [3, 4, 2],
        spacing_mm: [2.0; 3],
        origin_mm: [-4.0, 0.0, 0.0],
        voxels: (0..24).map(|i| i as f32 * 100.0 - 300.0).collect(),
    };
    let path = folder.path().join("x.nii.gz");
    write_new(&path, &volume, Storage::I16, "SYNTHETIC").unwrap();
    let back = read(&path).unwrap();
    assert_eq!(back.volume, volume);
    assert_eq!(back.geometry.axis_codes(), "LPS");
    // sform and qform agree.
    let mut bytes = Vec::new();
    MultiGzDecoder::new(BufReader::new(File::open(&path).unwrap()))
        .read_to_end(&mut bytes)
        .unwrap();
    bytes[254..256].fill(0);
    assert_eq!(decode(bytes.as_slice()).unwrap().volume, volume);
    bytes[252..254].fill(0);
    assert_eq!(&bytes[268..280], [0.0_f32, 6.0, 0.0].map(f32::to_le_bytes).as_flattened());

    let refused = write_new(&path, &volume, Storage::U8, "").unwrap_err();
    assert!(matches!(refused.fault, Fault::Range(_)), "{refused}");
    assert_eq!(read(&path).unwrap().volume, volume, "a refused write touched the file");
}

#[test]
fn a_mask_of_another_shape_or_place_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = Raw::new(&[2, 3, 2], 2, 8, ramp(12)).read().unwrap();
    let path = folder.path().join("mask.nii");
    let mut mask = Raw::new(&[2, 3, 2], 16, 32, Vec::new());
    let values = [0.0_f32, 1.0, 0.4, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0];
    mask.voxels = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(&path, mask.bytes()).unwrap();
    let read_back = read_mask(&path, &image.geometry).unwrap();
    assert_eq!(read_back.voxels, [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);

    let mut moved = mask.clone();
    moved.sform.as_mut().unwrap()[1][3] += 0.5;
    std::fs::write(&path, moved.bytes()).unwrap();
    let refused = read_mask(&path, &image.geometry).unwrap_err();
    assert!(matches!(refused.fault, Fault::Place(d) if (d - 0.5).abs() < 1e-6), "{refused}");
    assert!(refused.to_string().contains("mask.nii"), "{refused}");
    assert!(!refused.fault.to_string().contains("mask.nii"), "{refused}");

    let mut shape = mask.clone();
    shape.dim = vec![3, 2, 2];
    std::fs::write(&path, shape.bytes()).unwrap();
    let refused = read_mask(&path, &image.geometry).unwrap_err();
    assert!(matches!(refused.fault, Fault::Shape { .. }), "{refused}");

    let mut empty = mask;
    empty.voxels.fill(0);
    std::fs::write(&path, empty.bytes()).unwrap();
    let refused = read_mask(&path, &image.geometry).unwrap_err();
    assert!(matches!(refused.fault, Fault::EmptyMask), "{refused}");
}

#[test]
fn a_mask_in_another_voxel_order_on_the_same_grid_is_the_same_mask() {
    let folder = tempfile::tempdir().unwrap();
    let image = Raw::new(&[2, 3, 2], 2, 8, ramp(12)).read().unwrap();
    let mut las = Raw::new(&[2, 3, 2], 2, 8, vec![0; 12]);
    las.voxels[0] = 1;
    las.sform.as_mut().unwrap()[0] = [-1.0, 0.0, 0.0, -9.0];
    let path = folder.path().join("mask.nii");
    std::fs::write(&path, las.bytes()).unwrap();
    let mask = read_mask(&path, &image.geometry).unwrap();
    assert_eq!(mask.at(1, 0, 0), 1.0);
    assert_eq!(mask.voxels.iter().sum::<f32>(), 1.0);
}

#[test]
fn a_missing_file_is_an_error_with_its_name() {
    let refused = read(Path::new("/nowhere/at-all.nii.gz")).unwrap_err();
    assert!(refused.to_string().contains("at-all.nii.gz"), "{refused}");
    assert!(matches!(refused.fault, Fault::Io(_)));
}

#[test]
#[ignore = "reads ../shared/data"]
fn a_real_scan_reads_and_a_result_lies_over_it() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/tiny");
    let scan = read(&tiny.join("LJ-MS-26-crop-t1n.nii.gz")).unwrap();
    assert_eq!(scan.volume.dims, [96, 96, 8]);
    read_mask(&tiny.join("LJ-MS-26-crop-seg.nii.gz"), &scan.geometry).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result.nii.gz");
    write_like(&path, &scan.volume, &scan.geometry, "SYNTHETIC").unwrap();
    assert_eq!(read_like(&path, &scan.geometry).unwrap(), scan.volume);
}
