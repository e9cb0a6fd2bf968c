//! What a mode of `chaos` or `trials` found: figures for people and programs, and what must not be. Who reads
//! JSON finds one object on the last line however a program ends.

use std::io::Write;

use serde_json::{Map, Value, json};

/// Figures by name, and what is wrong.
#[derive(Debug, Default)]
pub struct Outcome {
    figures: Map<String, Value>,
    /// What must not be, in words; all is well where there is nothing.
    pub broken: Vec<String>,
}

impl Outcome {
    /// Notes a figure.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Adds the figures of another part, and what is wrong with it.
    pub fn add(&mut self, other: Outcome) {
        self.figures.extend(other.figures);
        self.broken.extend(other.broken);
    }

    /// Notes what must hold.
    pub fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(otherwise());
        }
    }

    /// The figures, as one JSON object, with what must not be, or a line each.
    ///
    /// # Errors
    /// Never in practice: the figures are JSON already.
    pub fn text(&self, json: bool) -> anyhow::Result<String> {
        if json {
            let mut told = self.figures.clone();
            told.insert("broken".to_owned(), self.broken.clone().into());
            return Ok(serde_json::to_string(&told)?);
        }
        let lines = self.figures.iter().map(|(name, value)| format!("{name:<26} {value}"));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Tells whoever reads JSON why a program has come to no figures.
pub fn tell_failure(error: &anyhow::Error, json: bool) {
    if json {
        // A reader that has seen enough has closed the pipe.
        let _ = writeln!(std::io::stdout(), "{}", failure(error));
    }
}

/// What must not be is then the error alone.
fn failure(error: &anyhow::Error) -> Value {
    let error = format!("{error:#}");
    json!({ "error": error, "broken": [error] })
}

/// Rounded to so many digits after the point, for people.
pub fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// The value below which the part `p` of `values` lies; 0 where there are none.
pub fn quantile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = ((sorted.len() as f64 * p).ceil() as usize).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_be_is_in_the_json_beside_the_figures_and_so_is_why_there_are_none() {
        let mut outcome = Outcome::default();
        outcome.set("kills", 7);
        let told = |outcome: &Outcome| -> Value {
            serde_json::from_str(&outcome.text(true).unwrap()).unwrap()
        };
        assert_eq!(told(&outcome), json!({ "kills": 7, "broken": [] }));
        outcome.require(false, || "a model differs".into());
        assert_eq!(told(&outcome), json!({ "kills": 7, "broken": ["a model differs"] }));
        assert!(!outcome.text(false).unwrap().contains("broken"));
        let error = anyhow::anyhow!("no room").context("the logs are in x");
        let told = json!({
            "error": "the logs are in x: no room",
            "broken": ["the logs are in x: no room"],
        });
        assert_eq!(failure(&error), told);
    }

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&values, 1.0), 100.0);
        assert_eq!(quantile(&values[..1], 0.5), 100.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
