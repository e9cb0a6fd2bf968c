//! What a mode of `chaos` or `trials` found: figures for people and programs, and what must not be.

use serde_json::{Map, Value};

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

    /// Notes what must hold.
    pub fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(otherwise());
        }
    }

    /// The figures, as one JSON object or a line each.
    ///
    /// # Errors
    /// Never in practice: the figures are JSON already.
    pub fn text(&self, json: bool) -> anyhow::Result<String> {
        if json {
            return Ok(serde_json::to_string(&self.figures)?);
        }
        let lines = self.figures.iter().map(|(name, value)| format!("{name:<26} {value}"));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }
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
    fn a_quantile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&values, 1.0), 100.0);
        assert_eq!(quantile(&values[..1], 0.5), 100.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
