//! RePaint (Lugmayr et al. 2022, arXiv 2201.09865): a model that was trained without masks paints
//! inside one, because the known region is noised to every step and put in, and each stretch of steps
//! is gone back and walked again until both parts agree. Written from the paper.

use super::ddpm::reverse;
use super::options::Jumps;
use super::walk::{Ground, Noise, Predict, handed_out};

/// The levels of noise that are visited, `levels` the noisiest and 0 none (appendix B): from every
/// `length`-th level on the way down it jumps `length` levels up again, until each stretch has been
/// walked `samples` times.
pub(super) fn course(levels: usize, jumps: Jumps) -> Vec<usize> {
    let mut left: Vec<usize> = vec![0; levels + 1];
    for level in (1..=levels.saturating_sub(jumps.length)).step_by(jumps.length) {
        left[level] = jumps.samples.saturating_sub(1);
    }
    let (mut course, mut level) = (vec![levels], levels);
    while level > 0 {
        if left[level] > 0 {
            left[level] -= 1;
            for _ in 0..jumps.length {
                level += 1;
                course.push(level);
            }
        }
        level -= 1;
        course.push(level);
    }
    course
}

/// How often a course calls the network.
pub(super) fn calls(course: &[usize]) -> usize {
    course.windows(2).filter(|pair| pair[1] < pair[0]).count()
}

/// Walks `course` over `timesteps` (first to last) from the noise `x`. `noise` gives fresh N(0, 1).
///
/// # Errors
/// Those of `predict`.
pub(super) fn repaint<E>(
    ground: Ground<'_>,
    timesteps: &[usize],
    course: &[usize],
    mut x: Vec<f32>,
    predict: &mut Predict<'_, E>,
    noise: &mut Noise<'_>,
) -> Result<Vec<f32>, E> {
    let step_of = |level: usize| timesteps[timesteps.len() - level];
    for pair in course.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        if to > from {
            let ((a, _), (a_to, _)) =
                (ground.diffusion.mix(step_of(from)), ground.diffusion.mix(step_of(to)));
            let kept = a_to / a;
            let added = (1.0 - kept * kept).sqrt();
            for (x, z) in x.iter_mut().zip(noise()) {
                *x = (kept * f64::from(*x) + added * f64::from(z)) as f32;
            }
            continue;
        }
        let t = step_of(from);
        ground.blur(&mut x, &noise(), t);
        let predicted = predict(&x, t)?;
        let clean = ground.free(&x, &predicted.head, t);
        if to == 0 {
            x = handed_out(&clean);
        } else {
            reverse(ground, [t, step_of(to)], &mut x, &clean, &predicted.range, &noise());
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(levels: usize, length: usize, samples: usize) -> Vec<usize> {
        course(levels, Jumps { length, samples })
    }

    #[test]
    fn the_course_is_that_of_the_paper() {
        let steps: Vec<i32> = of(10, 2, 2).iter().map(|&level| level as i32 - 1).collect();
        assert_eq!(
            steps,
            [9, 8, 7, 6, 7, 8, 7, 6, 5, 4, 5, 6, 5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]
        );
        assert_eq!(calls(&of(10, 2, 2)), 18);
    }

    #[test]
    fn the_course_calls_the_network_as_often_as_published() {
        let full = of(250, 10, 10);
        assert_eq!((full.len(), calls(&full)), (4571, 2410));
        assert_eq!(full.windows(2).filter(|pair| pair[1] > pair[0]).count(), 2160);
        assert_eq!(calls(&of(100, 10, 5)), 460);
        assert_eq!(calls(&of(50, 5, 3)), 140);
        assert_eq!(calls(&of(25, 5, 3)), 65);
    }

    #[test]
    fn without_jumps_the_course_is_a_plain_descent() {
        assert_eq!(of(4, 2, 1), [4, 3, 2, 1, 0]);
        assert_eq!(of(4, 9, 5), [4, 3, 2, 1, 0]);
    }
}
