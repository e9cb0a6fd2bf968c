//! What the normalisation holds per channel: factors, moments and sums.
//!
//! A few values for every channel, in f64 where they are sums; nothing here sees a pixel. Moments
//! are joined as Chan et al. 1983 ("Algorithms for computing the sample variance") do, which
//! subtracts no large number from another.

use std::ops::Range;

use super::NormShape;

/// Which of all channels an input has.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) first: usize,
    pub(super) width: usize,
    /// Channels of both inputs.
    pub(super) channels: usize,
}

impl Place {
    pub(super) fn range(self) -> Range<usize> {
        self.first..self.first + self.width
    }
}

/// Factors of every channel of an image.
pub(super) struct Fold {
    pub(super) centre: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) slope: Vec<f32>,
}

impl Fold {
    pub(super) fn new(channels: usize) -> Fold {
        let zeros = || vec![0.0; channels];
        Fold { centre: zeros(), scale: zeros(), shift: zeros(), slope: zeros() }
    }

    /// Those of one input.
    pub(super) fn part(&self, shape: &NormShape, part: usize) -> FoldPart<'_> {
        let range = shape.place(part).range();
        FoldPart {
            centre: &self.centre[range.clone()],
            scale: &self.scale[range.clone()],
            shift: &self.shift[range.clone()],
            slope: &self.slope[range],
        }
    }
}

/// Factors of every channel of an input. `[width]` each
#[derive(Clone, Copy)]
pub(super) struct FoldPart<'a> {
    pub(super) centre: &'a [f32],
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) slope: &'a [f32],
}

/// Mean and sum of squared deviations of every channel over some pixels.
pub(super) struct Moments {
    pub(super) pixels: usize,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

/// The same of one input, `[width]` each.
pub(super) struct MomentsPart<'a> {
    mean: &'a mut [f64],
    squares: &'a mut [f64],
}

impl Moments {
    pub(super) fn new(channels: usize) -> Moments {
        Moments { pixels: 0, mean: vec![0.0; channels], squares: vec![0.0; channels] }
    }

    pub(super) fn part(&mut self, range: Range<usize>) -> MomentsPart<'_> {
        MomentsPart { mean: &mut self.mean[range.clone()], squares: &mut self.squares[range] }
    }

    /// Those of all strips, joined in their order.
    pub(super) fn total(channels: usize, strips: &[Moments]) -> Moments {
        let mut total = Moments::new(channels);
        for strip in strips {
            let counts = [total.pixels, strip.pixels];
            total.part(0..channels).join(counts, &strip.mean, &strip.squares);
            total.pixels += strip.pixels;
        }
        total
    }

    /// Mean and variance over a group of channels.
    pub(super) fn joint(&self, group: Range<usize>) -> (f64, f64) {
        let width = group.len() as f64;
        let mean = self.mean[group.clone()].iter().sum::<f64>() / width;
        let within = self.squares[group.clone()].iter().sum::<f64>() / self.pixels as f64;
        let between = self.mean[group].iter().map(|m| (m - mean) * (m - mean)).sum::<f64>();
        (mean, (within + between) / width)
    }
}

impl MomentsPart<'_> {
    /// Joins the moments of `counts[1]` pixels to those of `counts[0]`.
    #[inline(always)]
    pub(super) fn join<T: Copy + Into<f64>>(
        &mut self,
        counts: [usize; 2],
        mean: &[T],
        squares: &[T],
    ) {
        let [before, more] = counts.map(|count| count as f64);
        let share = more / (before + more);
        let ours = self.mean.iter_mut().zip(self.squares.iter_mut());
        for ((mean, squares), (&m, &s)) in ours.zip(mean.iter().zip(squares)) {
            let delta = m.into() - *mean;
            *mean += delta * share;
            *squares += s.into() + delta * delta * before * share;
        }
    }
}

/// Sums of every channel over some pixels.
pub(super) struct Sums {
    /// sum dz
    pub(super) plain: Vec<f64>,
    /// sum dz (x - mean), and once the image is complete divided by the deviation
    pub(super) normed: Vec<f64>,
}

/// The same of one input.
pub(super) struct SumsPart<'a> {
    plain: &'a mut [f64],
    normed: &'a mut [f64],
}

impl Sums {
    pub(super) fn new(channels: usize) -> Sums {
        Sums { plain: vec![0.0; channels], normed: vec![0.0; channels] }
    }

    pub(super) fn part(&mut self, range: Range<usize>) -> SumsPart<'_> {
        SumsPart { plain: &mut self.plain[range.clone()], normed: &mut self.normed[range] }
    }

    /// Those of all strips, added in their order.
    pub(super) fn total(channels: usize, strips: &[Sums]) -> Sums {
        let mut total = Sums::new(channels);
        for strip in strips {
            total.part(0..channels).add(&strip.plain, &strip.normed);
        }
        total
    }
}

impl SumsPart<'_> {
    #[inline(always)]
    pub(super) fn add<T: Copy + Into<f64>>(&mut self, plain: &[T], normed: &[T]) {
        self.plain.iter_mut().zip(plain).for_each(|(sum, &more)| *sum += more.into());
        self.normed.iter_mut().zip(normed).for_each(|(sum, &more)| *sum += more.into());
    }
}
