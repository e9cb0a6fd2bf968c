//! Numbers as DICOM writes them: decimal strings of at most 16 characters (PS3.5 6.2, DS).

/// The most characters of a decimal string.
const CHARACTERS_MAX: usize = 16;

/// The decimal string that is nearest to a finite number.
pub(super) fn decimal(value: f64) -> String {
    let whole = format!("{value}");
    if whole.len() <= CHARACTERS_MAX {
        return whole;
    }
    let fixed = (0..CHARACTERS_MAX).rev().map(|digits| format!("{value:.digits$}"));
    let scientific = (0..CHARACTERS_MAX).rev().map(|digits| format!("{value:.digits$e}"));
    let error =
        |text: &String| text.parse().map_or(f64::INFINITY, |read: f64| (read - value).abs());
    let fits = |text: &String| text.len() <= CHARACTERS_MAX;
    let fitting = [fixed.into_iter().find(fits), scientific.into_iter().find(fits)];
    let nearest = fitting.into_iter().flatten().min_by(|a, b| error(a).total_cmp(&error(b)));
    nearest.unwrap_or_else(|| "0".to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::decimal;

    proptest! {
        #[test]
        fn a_decimal_string_fits_and_is_read_back_within_nine_digits(
            mantissa in -1.0_f64..1.0,
            exponent in -20_i32..20,
        ) {
            let value = mantissa * 10_f64.powi(exponent);
            let text = decimal(value);
            prop_assert!(text.len() <= 16, "{text}");
            let read: f64 = text.parse().unwrap();
            prop_assert!((read - value).abs() <= 1e-8 * value.abs(), "{value} {text}");
        }
    }

    #[test]
    fn short_numbers_stay_as_they_are() {
        assert_eq!(decimal(0.5), "0.5");
        assert_eq!(decimal(-120.25), "-120.25");
        assert_eq!(decimal(0.0), "0");
    }
}
