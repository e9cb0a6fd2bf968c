//! The brightest voxels of a scan, sorted: from them the window of the scan with any part of it hidden
//! follows without looking at the rest.
//!
//! It gives exactly what [`Window::of`] gives for the voided volume, or says that it cannot tell.

use crate::data::normalise::{Error, HIGH_FRACTION, LOW_FRACTION, Rank, Window};

/// The different intensities from the brightest down, each with how many voxels are at least as
/// bright.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tails {
    /// Voxels of the whole volume, background included.
    voxels: usize,
    /// Voxels brighter than 0.
    positive: usize,
    /// Falling.
    values: Vec<f32>,
    /// Voxels that have one of the values so far; rising.
    counts: Vec<u32>,
}

impl Tails {
    /// The tails of a volume of `voxels` voxels of which those in `positive` are above 0. They serve
    /// until `hidden_max` of them are hidden.
    pub(crate) fn of(mut positive: Vec<f32>, voxels: usize, hidden_max: usize) -> Tails {
        let wanted = voxels - Rank::of(HIGH_FRACTION, voxels.max(1)).below.min(voxels);
        let wanted = wanted.saturating_add(hidden_max).min(positive.len());
        let all = positive.len();
        if wanted > 0 && wanted < positive.len() {
            let (_, &mut darkest, _) =
                positive.select_nth_unstable_by(wanted - 1, |a, b| b.total_cmp(a));
            // With all of its equals, or its count would be a lie.
            positive.retain(|&value| value >= darkest);
        }
        positive.sort_unstable_by(|a, b| b.total_cmp(a));
        let (mut values, mut counts) = (Vec::new(), Vec::new());
        for (index, &value) in positive.iter().enumerate() {
            if values.last() != Some(&value) {
                values.push(value);
                counts.push(0);
            }
            if let Some(count) = counts.last_mut() {
                *count = index as u32 + 1;
            }
        }
        Tails { voxels, positive: all, values, counts }
    }

    /// From its parts, as [`Tails::parts`] gives them; none if they cannot be.
    pub(crate) fn from_parts(
        voxels: usize,
        positive: usize,
        values: Vec<f32>,
        counts: Vec<u32>,
    ) -> Option<Tails> {
        let fits = values.len() == counts.len() && voxels > 0 && positive <= voxels;
        let sorted = values.is_sorted_by(|a, b| a > b) && counts.is_sorted_by(|a, b| a < b);
        let covered = counts.last().is_none_or(|&count| count as usize <= positive);
        (fits && sorted && covered).then_some(Tails { voxels, positive, values, counts })
    }

    /// Voxels, those above 0, the values and their counts.
    pub(crate) fn parts(&self) -> (usize, usize, &[f32], &[u32]) {
        (self.voxels, self.positive, &self.values, &self.counts)
    }

    /// The intensity from which on voxels matter to the window when at most `hidden` voxels above 0
    /// are hidden; none if the tails are too short to tell.
    pub(crate) fn bright(&self, hidden: usize) -> Option<f32> {
        // As seen from the brightest voxel.
        let rank = self.voxels - 1 - Rank::of(HIGH_FRACTION, self.voxels).below + hidden;
        let at = self.counts.partition_point(|&count| count as usize <= rank);
        match self.values.get(at) {
            Some(&value) => Some(value),
            None if self.counts.last().map_or(0, |&c| c as usize) == self.positive => Some(0.0),
            None => None,
        }
    }

    /// How many of `hidden` are at least as bright as each value, as [`Tails::window`] asks for.
    pub(crate) fn counted(&self, mut hidden: Vec<f32>) -> Vec<u32> {
        hidden.sort_unstable_by(|a, b| b.total_cmp(a));
        let as_bright = |value: &f32| hidden.partition_point(|v| v >= value) as u32;
        self.values.iter().map(as_bright).collect()
    }

    /// The window of the volume with `hidden` of its voxels above 0 set to 0. Of those, `gone` tells
    /// how many are at least as bright as the value of an index, and `bright` holds the others, or
    /// those among them that are at least [`Tails::bright`]. None if the tails cannot tell.
    pub(crate) fn window(
        &self,
        hidden: usize,
        gone: impl Fn(usize) -> usize,
        bright: &[f32],
    ) -> Option<Result<Window, Error>> {
        let zeros = (self.voxels - self.positive).checked_add(hidden)?;
        let (low, high) =
            (Rank::of(LOW_FRACTION, self.voxels), Rank::of(HIGH_FRACTION, self.voxels));
        // Scans have more background than that; one that has not is looked at voxel by voxel.
        if low.above >= zeros {
            return None;
        }
        let value = |rank: usize| {
            if rank < zeros {
                Some(0.0)
            } else {
                self.select(self.voxels - 1 - rank, &gone, bright)
            }
        };
        let high = high.between(value(high.below)?, value(high.above)?);
        Some(Window::between(0.0, high))
    }

    /// The value of descending rank `rank` among what is left.
    fn select(&self, rank: usize, gone: impl Fn(usize) -> usize, bright: &[f32]) -> Option<f32> {
        let (mut first, mut last) = (0, self.values.len());
        while first < last {
            let middle = (first + last) / 2;
            let value = self.values[middle];
            let gone = gone(middle) + bright.iter().filter(|&&v| v >= value).count();
            if (self.counts[middle] as usize).checked_sub(gone)? > rank {
                last = middle;
            } else {
                first = middle + 1;
            }
        }
        self.values.get(first).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Tails;
    use crate::data::normalise::Window;

    proptest! {
        #[test]
        fn the_window_of_a_voided_volume_is_that_of_all_its_voxels_bit_for_bit(
            // Few different values, so that ranks fall among equals.
            voxels in prop::collection::vec(prop_oneof![
                3 => Just(0.0f32), 4 => (1u16..40).prop_map(f32::from), 2 => 0.1f32..50.0,
            ], 30..600),
            hide in prop::collection::vec(any::<bool>(), 600),
            room in 0usize..400,
        ) {
            let positive: Vec<f32> = voxels.iter().copied().filter(|&v| v > 0.0).collect();
            let tails = Tails::of(positive, voxels.len(), room);
            let (n, p, values, counts) = tails.parts();
            let again = Tails::from_parts(n, p, values.to_vec(), counts.to_vec());
            prop_assert_eq!(again.as_ref(), Some(&tails));
            let voided = voxels.iter().zip(&hide).map(|(&v, &hide)| if hide { 0.0 } else { v });
            let hidden: Vec<f32> = voxels.iter().zip(&hide)
                .filter(|(v, hide)| **hide && **v > 0.0).map(|(&v, _)| v).collect();
            let told = tails.bright(hidden.len()).and_then(|from| {
                // Some told one by one, some counted before.
                let (one, other) = hidden.split_at(hidden.len() / 2);
                let bright: Vec<f32> = one.iter().copied().filter(|&v| v >= from).collect();
                let gone = tails.counted(other.to_vec());
                tails.window(hidden.len(), |i| gone[i] as usize, &bright)
            });
            if let Some(window) = told {
                prop_assert_eq!(window, Window::of(voided));
            } else {
                // It may only give up where it was told to expect less, or there is no background.
                let zeros = voxels.iter().filter(|&&v| v == 0.0).count() + hidden.len();
                prop_assert!(hidden.len() >= room || zeros <= voxels.len() / 100 + 2);
            }
        }
    }
}
