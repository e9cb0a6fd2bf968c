//! Numbers in fewer bits: golden bytes of `tests/reference/blocks.py`, and what holds of any values.

use proptest::prelude::*;

use super::*;

const LOSSY: [Encoding; 3] = [Encoding::Bf16, Encoding::Int8, Encoding::Int4];

fn encoded(encoding: Encoding, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(encoding, values, &mut bytes).unwrap();
    assert_eq!(bytes.len(), self::bytes(encoding, values.len()));
    bytes
}

fn decoded(encoding: Encoding, bytes: &[u8], count: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; count];
    decode(encoding, bytes, &mut values).unwrap();
    values
}

fn again(encoding: Encoding, values: &[f32]) -> Vec<f32> {
    decoded(encoding, &encoded(encoding, values), values.len())
}

/// The reference's `numbers`.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let sign = if state >> 31 == 1 { -1.0 } else { 1.0 };
        let power = [1.0, 0.1, 0.01, 0.001][(state >> 24 & 3) as usize];
        (sign * f64::from(state >> 8 & 0xffff) / 65536.0 * power) as f32
    };
    (0..count).map(next).collect()
}

#[test]
fn every_encoding_gives_the_bytes_of_the_reference() {
    let cases: [(Vec<f32>, [&str; 3]); 4] = [
        (
            vec![7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5],
            ["e040003fc03f204000bfc0bf20c0", "623d7f091b2df7e5d3", "803f0722e00e"],
        ),
        (vec![0.0, -0.0, 0.0], ["000000800000", "0000000000", "00000000"]),
        (vec![1e-45, -3e-45, 2e-40], ["000000800200", "0100000002", "01000002"]),
        (
            numbers(70),
            [
                "083faf3b0dbce6be703fc43b5ebb7cbb643e2abaec3d043e63b927bb383ecab8c6be323af5bb5bbd9339\
                 f93b1c3a823dbf3cb4bbb3bc2a3ca5396dbe2abb1d3d5e3d3abafa399abeac39b5bb45bc9eba93bc75bd\
                 2f3a9f392dbab23d0b38043f18ba46b9253f6a3ff8b9c9385fbfcf3b303b7e3ae83e6a3d8cb9d53e923d\
                 d2beb0b919bc0c3c623abeb99fbd",
                "f33b4801ffc37f0100ff1e00101100001800cc00fff90001000903fffd0100e10005070000d800fffe00\
                 fef80000000c00460000577b00008a0100003d0800380ac900ff010000f6",
                "0a3e04d00700021100010d0000000000e00000e00000000010400075000a000330d1363cf00190",
            ],
        ),
    ];
    for (values, expected) in cases {
        for (encoding, expected) in LOSSY.into_iter().zip(expected) {
            let found: String =
                encoded(encoding, &values).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, expected.replace(char::is_whitespace, ""), "{encoding:?} {values:?}");
        }
    }
}

#[test]
fn a_scale_that_is_none_and_a_value_that_is_not_finite_are_refused() {
    for encoding in [Encoding::Int8, Encoding::Int4] {
        for scale in [0x7f80_u16, 0x7fc0, 0xff80, 0xbf80, 0x8000] {
            let mut bytes = encoded(encoding, &[1.0]);
            bytes[..2].copy_from_slice(&scale.to_le_bytes());
            assert_eq!(decode(encoding, &bytes, &mut [0.0]), Err(Error::Scale), "{scale:x}");
        }
    }
    for encoding in LOSSY.into_iter().chain([Encoding::F32]) {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let refused = encode(encoding, &[0.0, value], &mut Vec::new());
            assert_eq!(refused, Err(Error::NotFinite), "{encoding:?} {value}");
        }
    }
    for encoding in LOSSY {
        let refused = encode(encoding, &[f32::MAX], &mut Vec::new());
        assert_eq!(refused, Err(Error::NotFinite), "{encoding:?} rounds up beyond f32");
        assert!(again(encoding, &[1e38, -1e38]).iter().all(|value| value.is_finite()));
    }
}

#[test]
fn bytes_are_a_quarter_and_an_eighth_and_little_more() {
    let of = |encoding, values| bytes(encoding, values) as f64 / (4 * values) as f64;
    assert!(of(Encoding::Int8, 100_000) < 0.253 && of(Encoding::Int4, 100_000) < 0.134);
    assert_eq!(bytes(Encoding::Int4, 65), 34 + 3);
    assert_eq!(bytes(Encoding::Int8, 257), 258 + 3);
    assert!(LOSSY.iter().all(|encoding| bytes(*encoding, 0) == 0));
}

fn values() -> impl Strategy<Value = Vec<f32>> {
    let any_size =
        (-1.0_f32..1.0, -40_i32..30).prop_map(|(value, power)| value * 10_f32.powi(power));
    let value = prop_oneof![8 => -1.0_f32..1.0, 2 => any_size, 1 => Just(0.0), 1 => Just(-0.0)];
    prop::collection::vec(value, 0..700)
}

proptest! {
    #[test]
    fn what_is_lost_is_at_most_half_a_step(values in values()) {
        for encoding in [Encoding::Int8, Encoding::Int4] {
            let max = if encoding == Encoding::Int8 { 127.0 } else { 7.0 };
            let block = block(encoding);
            for (values, found) in values.chunks(block).zip(again(encoding, &values).chunks(block)) {
                let greatest = values.iter().fold(0.0_f64, |a, v| a.max(f64::from(*v).abs()));
                // A bf16 has 8 digits, so a scale is at most 1/128 above the least that would do; the least
                // bf16 of all bounds it below.
                let step = (greatest / max * (1.0 + 1.0 / 128.0)).max(2_f64.powi(-133));
                for (value, found) in values.iter().zip(found) {
                    let error = (f64::from(*value) - f64::from(*found)).abs();
                    prop_assert!(error <= step / 2.0, "{value} {found} {step}");
                }
            }
        }
        for (value, found) in values.iter().zip(again(Encoding::Bf16, &values)) {
            let error = (f64::from(*value) - f64::from(found)).abs();
            let half = (f64::from(*value).abs() / 256.0).max(2_f64.powi(-134));
            prop_assert!(error <= half, "{value} {found}");
        }
    }

    #[test]
    fn what_was_read_is_written_as_it_was(values in values()) {
        let once = again(Encoding::Bf16, &values);
        prop_assert_eq!(again(Encoding::Bf16, &once), once);
        // Of 7 steps the greatest value takes all, of 127 it may take 126, and then the scale is finer; among
        // the least numbers of all scales lie too far apart for either.
        let block = block(Encoding::Int4);
        for values in values.chunks(block) {
            let once = again(Encoding::Int4, values);
            let greatest = once.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
            prop_assume!(greatest == 0.0 || greatest > 1e-36);
            prop_assert_eq!(again(Encoding::Int4, &once), once);
        }
    }

    #[test]
    fn a_range_that_begins_with_a_block_reads_as_in_the_whole(
        values in values(), from in 0_usize..5, blocks in 1_usize..4,
    ) {
        for encoding in LOSSY.into_iter().chain([Encoding::F32]) {
            let whole = encoded(encoding, &values);
            let first = (from * block(encoding)).min(values.len() / block(encoding) * block(encoding));
            let last = (first + blocks * block(encoding)).min(values.len());
            let part = &whole[bytes(encoding, first)..bytes(encoding, last)];
            let found = decoded(encoding, part, last - first);
            let expected = decoded(encoding, &whole, values.len());
            prop_assert_eq!(&found[..], &expected[first..last]);
            // And is written as in the whole.
            prop_assert_eq!(encoded(encoding, &values[first..last]), part);
        }
    }

    #[test]
    fn any_bytes_are_values_or_an_error_and_never_a_panic(
        noise in prop::collection::vec(any::<u8>(), 700), count in 0_usize..300,
    ) {
        for encoding in LOSSY {
            let mut values = vec![0.0; count];
            let _ = decode(encoding, &noise[..bytes(encoding, count)], &mut values);
        }
    }
}
