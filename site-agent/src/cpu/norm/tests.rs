//! The normalisation against its definition in f64 and against PyTorch.

use proptest::prelude::*;

use super::*;
use crate::cpu::testing::{
    Golden, assert_close, assert_same_on_any_threads, derivative, dot, draw, some_of, wide,
};

/// What a case is made of; `film` is empty where there is none.
#[derive(Clone, Debug)]
struct Case {
    shape: NormShape,
    x: [Vec<f32>; 2],
    gamma: Vec<f32>,
    beta: Vec<f32>,
    film: Vec<f32>,
    silu: bool,
    dy: Vec<f32>,
}

/// What comes out: y, statistics, dx of both inputs, dgamma, dbeta, dfilm.
struct Found {
    y: Vec<f32>,
    statistics: Vec<f64>,
    dx: [Vec<f32>; 2],
    gamma: Vec<f32>,
    beta: Vec<f32>,
    film: Vec<f32>,
}

impl Case {
    fn new(shape: NormShape, film: bool, silu: bool, seed: u64) -> Case {
        let (channels, rows) = (shape.channels(), shape.batch * shape.pixels);
        let film = if film { draw(seed + 3, 2 * shape.batch * channels) } else { Vec::new() };
        Case {
            shape,
            x: [0, 1].map(|i| draw(seed + i as u64, rows * shape.widths[i])),
            gamma: draw(seed + 4, channels),
            beta: draw(seed + 5, channels),
            film,
            silu,
            dy: draw(seed + 6, rows * channels),
        }
    }

    fn run(&self) -> Found {
        let Case { shape, x, gamma, beta, film, silu, dy } = self;
        let x = [&x[0][..], &x[1][..]];
        let has_film = !film.is_empty();
        let affine = Affine { gamma, beta, film: has_film.then_some(&film[..]), silu: *silu };
        // Whatever was in the buffers must not matter.
        let junk = |len: usize| vec![f32::NAN; len];
        let mut found = Found {
            y: junk(dy.len()),
            statistics: vec![f64::NAN; 2 * shape.batch * shape.groups],
            dx: x.map(|x| junk(x.len())),
            gamma: junk(gamma.len()),
            beta: junk(beta.len()),
            film: junk(film.len()),
        };
        forward(shape, x, &affine, &mut found.y, &mut found.statistics);
        let [first, second] = &mut found.dx;
        let film = has_film.then_some(&mut found.film[..]);
        let gradient = AffineGradient { gamma: &mut found.gamma, beta: &mut found.beta, film };
        backward(shape, x, &affine, &found.statistics, dy, [first, second], gradient);
        found
    }

    /// All inputs in one list: x, x, gamma, beta, film.
    fn inputs(&self) -> Vec<f64> {
        wide(&[&self.x[0][..], &self.x[1], &self.gamma, &self.beta, &self.film].concat())
    }

    /// y by its definition, from such a list.
    fn definition(&self, inputs: &[f64]) -> Vec<f64> {
        let NormShape { batch, pixels, widths, groups } = self.shape;
        let (channels, per_group) = (self.shape.channels(), self.shape.channels() / groups);
        let (first, rest) = inputs.split_at(self.x[0].len());
        let (second, rest) = rest.split_at(self.x[1].len());
        let (gamma, rest) = rest.split_at(channels);
        let (beta, film) = rest.split_at(channels);
        let x = |n: usize, p: usize, c: usize| match c.checked_sub(widths[0]) {
            None => first[(n * pixels + p) * widths[0] + c],
            Some(c) => second[(n * pixels + p) * widths[1] + c],
        };
        let mut y = vec![0.0; batch * pixels * channels];
        for (n, group) in (0..batch * groups).map(|i| (i / groups, i % groups)) {
            let own = group * per_group..(group + 1) * per_group;
            let all = || own.clone().flat_map(|c| (0..pixels).map(move |p| (p, c)));
            let count = (per_group * pixels) as f64;
            let mean = all().map(|(p, c)| x(n, p, c)).sum::<f64>() / count;
            let variance = all().map(|(p, c)| (x(n, p, c) - mean).powi(2)).sum::<f64>() / count;
            for (p, c) in all() {
                let mut z = (x(n, p, c) - mean) / (variance + 1e-5).sqrt() * gamma[c] + beta[c];
                if !film.is_empty() {
                    z = z * (1.0 + film[2 * n * channels + c]) + film[(2 * n + 1) * channels + c];
                }
                let y = &mut y[(n * pixels + p) * channels + c];
                *y = if self.silu { z / (1.0 + (-z).exp()) } else { z };
            }
        }
        y
    }

    fn check(&self, found: &Found) {
        let inputs = self.inputs();
        assert_close("y", &found.y, &self.definition(&inputs), 2e-5);
        let [first, second] = &found.dx;
        let parts = [&first[..], second, &found.gamma, &found.beta, &found.film];
        let mut start = 0;
        for (name, part) in ["dx", "dx 2", "dgamma", "dbeta", "dfilm"].into_iter().zip(parts) {
            let at: Vec<usize> = some_of(part.len(), 12).collect();
            let slope =
                |&i: &usize| derivative(|x| dot(&self.definition(x), &self.dy), &inputs, start + i);
            let expected: Vec<f64> = at.iter().map(slope).collect();
            let found: Vec<f32> = at.iter().map(|&i| part[i]).collect();
            assert_close(name, &found, &expected, 3e-4);
            start += part.len();
        }
    }
}

prop_compose! {
    /// Groups divide the channels of both inputs together, wherever the two meet.
    fn shapes()(
        batch in 1_usize..3,
        pixels in prop_oneof![Just(1_usize), 2_usize..40],
        groups in 1_usize..9,
        per_group in prop_oneof![1_usize..5, Just(8), Just(16)],
        share in 0.0_f64..=1.0,
        vectors in any::<bool>(),
    ) -> NormShape {
        let channels = groups * per_group;
        let first = ((channels as f64 * share) as usize).clamp(1, channels);
        let first = if vectors { first.next_multiple_of(16).min(channels) } else { first };
        NormShape { batch, pixels, widths: [first, channels - first], groups }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_and_its_gradients_are_the_definition_for_every_shape(
        shape in shapes(), film in any::<bool>(), silu in any::<bool>(), seed in 0_u64..1000,
    ) {
        let case = Case::new(shape, film, silu, seed);
        case.check(&case.run());
    }
}

#[test]
fn it_is_right_over_many_strips_and_groups_that_straddle_the_inputs() {
    let shape = NormShape { batch: 2, pixels: 1500, widths: [32, 16], groups: 3 };
    let case = Case::new(shape, true, true, 1);
    let found = case.run();
    case.check(&found);
    let odd = NormShape { batch: 1, pixels: 7001, widths: [5, 1], groups: 3 };
    let case = Case::new(odd, false, true, 2);
    case.check(&case.run());
}

#[test]
fn a_mean_far_from_zero_costs_no_accuracy() {
    for (widths, groups) in [([16, 0], 4), ([2, 1], 1), ([1, 0], 1)] {
        let shape = NormShape { batch: 1, pixels: 4000, widths, groups };
        let mut case = Case::new(shape, false, false, 5);
        case.x.iter_mut().flatten().for_each(|x| *x += 1000.0);
        let found = case.run();
        assert_close("y", &found.y, &case.definition(&case.inputs()), 1e-4);
    }
}

#[test]
fn one_wild_first_pixel_costs_no_accuracy() {
    let shape = NormShape { batch: 1, pixels: 4000, widths: [16, 0], groups: 4 };
    let mut case = Case::new(shape, false, false, 6);
    case.x[0][..16].fill(1e4);
    let found = case.run();
    assert_close("y", &found.y, &case.definition(&case.inputs()), 1e-5);
}

#[test]
fn it_agrees_with_pytorch() {
    let golden = Golden::read();
    for (name, film) in [("plain", false), ("silu", false), ("film", true)] {
        let read = |tensor: &str| golden.tensor(&format!("norm.{name}.{tensor}"));
        let (x, dims) = read("x");
        let shape = NormShape {
            batch: dims[0],
            pixels: dims[1] * dims[2],
            widths: [dims[3], 0],
            groups: read("groups").0[0] as usize,
        };
        let [gamma, beta, dy] = ["gamma", "beta", "dy"].map(|tensor| read(tensor).0);
        let kept = if film { read("film").0 } else { Vec::new() };
        let silu = name != "plain";
        let case = Case { shape, x: [x, Vec::new()], gamma, beta, film: kept, silu, dy };
        let found = case.run();
        let check = |tensor: &str, found: &[f32]| {
            assert_close(&format!("{name} {tensor}"), found, &wide(&read(tensor).0), 3e-6);
        };
        check("y", &found.y);
        check("dx", &found.dx[0]);
        check("dgamma", &found.gamma);
        check("dbeta", &found.beta);
        if film {
            check("dfilm", &found.film);
        }
    }
}

#[test]
fn it_does_not_depend_on_the_number_of_threads() {
    let shape = NormShape { batch: 3, pixels: 2500, widths: [32, 16], groups: 3 };
    let case = Case::new(shape, true, true, 9);
    assert_same_on_any_threads(|| {
        let Found { y, statistics, dx: [first, second], gamma, beta, film } = case.run();
        let statistics = statistics.into_iter().map(|value| value as f32).collect();
        [y, statistics, first, second, gamma, beta, film].concat()
    });
}
