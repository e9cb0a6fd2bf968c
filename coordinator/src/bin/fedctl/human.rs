//! Quantities as people read them: sizes, times, counts.

use jiff::Timestamp;

/// What stands where there is nothing.
pub(crate) const NONE: &str = "-";

/// A size in the largest binary unit it has at least one of.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A count with its thousands apart.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time as its distance from now: `5 s ago`, `in 3 min`.
pub(crate) fn ago(now: Timestamp, time: Option<Timestamp>) -> String {
    let Some(time) = time else { return NONE.to_owned() };
    let seconds = now.as_second() - time.as_second();
    let distance = duration(seconds.unsigned_abs());
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("{distance} ago"),
        _ => format!("in {distance}"),
    }
}

/// A time of day for a log, in UTC.
pub(crate) fn clock(time: Timestamp) -> String {
    time.strftime("%H:%M:%S").to_string()
}

/// A loss with as many digits as tell two rounds apart.
pub(crate) fn loss(loss: f64) -> String {
    format!("{loss:.4}")
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_times_are_short() {
        for (n, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (8 << 30, "8.0 GiB")] {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(n), text);
        }
        let now = Timestamp::constant(1_000_000, 0);
        for (offset, text) in [
            (0, "now"),
            (-5, "5 s ago"),
            (-119, "119 s ago"),
            (-180, "3 min ago"),
            (-7_200, "2 h ago"),
            (-200_000, "2 d ago"),
            (90, "in 90 s"),
        ] {
            let time = Timestamp::from_second(1_000_000 + offset).unwrap();
            assert_eq!(ago(now, Some(time)), text);
        }
        assert_eq!(ago(now, None), "-");
    }
}
