//! The hours of a day in which a site trains: `["19:00-06:00"]`, or `"always"`. None by default.

use jiff::civil::Time;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// The most spans of a day.
const SPANS_MAX: usize = 24;

/// Hours of a day, in the machine's time zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hours {
    /// None.
    #[default]
    Never,
    /// All of them.
    Always,
    /// From a time until before another, over midnight where the other is the earlier one.
    Within(Vec<(Time, Time)>),
}

impl Hours {
    /// All hours.
    pub fn always() -> Hours {
        Hours::Always
    }

    /// Whether `time` is one of them.
    pub fn contain(&self, time: Time) -> bool {
        match self {
            Hours::Never => false,
            Hours::Always => true,
            Hours::Within(spans) => spans.iter().any(|&(from, until)| {
                if from <= until {
                    from <= time && time < until
                } else {
                    time >= from || time < until
                }
            }),
        }
    }

    fn of_spans(spans: &[String]) -> Result<Hours, String> {
        if spans.len() > SPANS_MAX {
            return Err(format!("hours has more than {SPANS_MAX} spans"));
        }
        let time = |text: &str| -> Option<Time> { Time::strptime("%H:%M", text.trim()).ok() };
        let span = |text: &String| {
            let (from, until) = text.split_once('-')?;
            Some((time(from)?, time(until)?)).filter(|(from, until)| from != until)
        };
        let read = |text: &String| {
            span(text).ok_or_else(|| format!("hours has {text:?}, write spans as \"19:00-06:00\""))
        };
        match spans {
            [] => Ok(Hours::Never),
            spans => spans.iter().map(read).collect::<Result<_, _>>().map(Hours::Within),
        }
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hours, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "hours must be \"always\" or spans such as [\"19:00-06:00\"]"
        )]
        enum Said {
            Word(String),
            Spans(Vec<String>),
        }
        match Said::deserialize(deserializer)? {
            Said::Word(word) if word == "always" => Ok(Hours::Always),
            Said::Word(word) => {
                let must = "\"always\" or spans such as [\"19:00-06:00\"]";
                Err(D::Error::custom(format!("hours is {word:?}, it must be {must}")))
            }
            Said::Spans(spans) => Hours::of_spans(&spans).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::time;

    use super::*;

    #[test]
    fn hours_go_over_midnight_begin_with_their_first_minute_and_end_before_their_last() {
        let night = Hours::of_spans(&["19:00-06:00".into(), "12:00-13:30".into()]).unwrap();
        for (hour, minute, is_in) in [
            (18, 59, false),
            (19, 0, true),
            (23, 59, true),
            (0, 0, true),
            (5, 59, true),
            (6, 0, false),
            (12, 0, true),
            (13, 29, true),
            (13, 30, false),
        ] {
            assert_eq!(night.contain(time(hour, minute, 0, 0)), is_in, "{hour}:{minute}");
        }
        assert!(!Hours::default().contain(time(12, 0, 0, 0)));
        assert!(Hours::always().contain(time(12, 0, 0, 0)));
        assert_eq!(Hours::of_spans(&[]).unwrap(), Hours::Never);
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for wrong in ["19:00", "25:00-06:00", "19:00-19:00", "-", "7pm-6am"] {
            assert!(Hours::of_spans(&[wrong.into()]).is_err(), "{wrong}");
        }
    }
}
