//! Steps against the definition in f64 and against PyTorch.

use proptest::prelude::*;

use super::*;
use crate::cpu::testing::{Golden, assert_close, assert_same_on_any_threads, draw, wide};

const OPTIONS: AdamW = AdamW {
    rate: 0.01,
    beta_1: 0.9,
    beta_2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
    norm_max: 1.0,
    average_decay: 0.9,
};

/// The tensors of a network between steps.
struct State {
    weights: Vec<Vec<f32>>,
    firsts: Vec<Vec<f32>>,
    seconds: Vec<Vec<f32>>,
    averages: Vec<Vec<f32>>,
}

impl State {
    fn new(weights: Vec<Vec<f32>>) -> State {
        let zeros: Vec<Vec<f32>> = weights.iter().map(|w| vec![0.0; w.len()]).collect();
        State { averages: weights.clone(), weights, firsts: zeros.clone(), seconds: zeros }
    }

    fn step(&mut self, gradients: &[Vec<f32>], options: &AdamW, number: u32) -> f64 {
        let State { weights, firsts, seconds, averages } = self;
        let states = weights.iter_mut().zip(firsts).zip(seconds.iter_mut().zip(averages));
        let parameters =
            states.zip(gradients).map(|(((weight, first), (second, average)), gradient)| {
                Parameter { weight, gradient, first, second, decays: true, average: Some(average) }
            });
        step(parameters.collect(), options, number)
    }
}

/// Algorithm 2 of the paper on one flat list in f64, for `gradients` one after the other: the
/// weights and their average.
fn definition(weights: &[f64], gradients: &[Vec<f64>], options: &AdamW) -> [Vec<f64>; 2] {
    let [beta_1, beta_2] = [options.beta_1, options.beta_2].map(f64::from);
    let [decay, keep] = [options.weight_decay, options.average_decay].map(f64::from);
    let (mut w, mut average) = (weights.to_vec(), weights.to_vec());
    let (mut m, mut v) = (vec![0.0; w.len()], vec![0.0; w.len()]);
    for (t, gradient) in gradients.iter().enumerate() {
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        for i in 0..w.len() {
            let g = gradient[i] * (options.norm_max / norm).min(1.0);
            m[i] = beta_1 * m[i] + (1.0 - beta_1) * g;
            v[i] = beta_2 * v[i] + (1.0 - beta_2) * g * g;
            let t = t as i32 + 1;
            let (mean, square) = (m[i] / (1.0 - beta_1.powi(t)), v[i] / (1.0 - beta_2.powi(t)));
            w[i] -=
                options.rate * (mean / (square.sqrt() + f64::from(options.epsilon)) + decay * w[i]);
            average[i] = keep * average[i] + (1.0 - keep) * w[i];
        }
    }
    [w, average]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn steps_are_the_definition_for_every_length(
        lengths in prop::collection::vec(prop_oneof![1_usize..70, Just(17_000)], 1..4),
        steps in 1_u64..6,
        norm_max in prop_oneof![Just(1.0), Just(1e9)],
        seed in 0_u64..1000,
    ) {
        let options = AdamW { norm_max, ..OPTIONS };
        let drawn = |seed: u64| -> Vec<Vec<f32>> {
            lengths.iter().enumerate().map(|(i, &len)| draw(seed + i as u64, len)).collect()
        };
        let mut state = State::new(drawn(seed));
        let before = wide(&state.weights.concat());
        let gradients: Vec<Vec<Vec<f32>>> = (1..=steps).map(|t| drawn(seed + 1000 * t)).collect();
        for (gradients, number) in gradients.iter().zip(1..) {
            let norm = state.step(gradients, &options, number);
            let exact = wide(&gradients.concat()).iter().map(|g| g * g).sum::<f64>().sqrt();
            prop_assert!((norm - exact).abs() <= 1e-12 * exact);
        }
        let gradients: Vec<Vec<f64>> = gradients.iter().map(|g| wide(&g.concat())).collect();
        let [weights, average] = definition(&before, &gradients, &options);
        assert_close("weights", &state.weights.concat(), &weights, 1e-6);
        assert_close("average", &state.averages.concat(), &average, 1e-6);
    }
}

#[test]
fn five_steps_agree_with_pytorch() {
    let golden = Golden::read();
    let read =
        |name: &str| ["a", "b"].map(|key| golden.values(&format!("adamw.{name}.{key}"))).to_vec();
    let mut state = State::new(read("weight"));
    for (t, norm) in golden.values("adamw.norms").into_iter().enumerate() {
        let found = state.step(&read(&format!("gradient.{t}")), &OPTIONS, t as u32 + 1);
        assert!((found as f32 - norm).abs() <= 1e-6 * norm, "{found} {norm}");
        let expected = wide(&read(&format!("after.{t}")).concat());
        assert_close("weights", &state.weights.concat(), &expected, 1e-6);
    }
    assert_close("average", &state.averages.concat(), &wide(&read("average").concat()), 1e-6);
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut state = State::new(vec![draw(1, 20), draw(2, 5)]);
        let norm = state.step(&[draw(3, 20), vec![0.0, bad, 0.0, 0.0, 0.0]], &OPTIONS, 1);
        assert!(!norm.is_finite());
        assert_eq!(state.weights, [draw(1, 20), draw(2, 5)]);
        assert_eq!(state.averages, state.weights);
        assert_eq!([state.firsts.concat(), state.seconds.concat()], [vec![0.0; 25], vec![0.0; 25]]);
    }
}

#[test]
fn the_average_may_be_left_out() {
    let (gradient, mut with) = (draw(2, 40), State::new(vec![draw(1, 40)]));
    with.step(std::slice::from_ref(&gradient), &OPTIONS, 1);
    let (mut weight, mut first, mut second) = (draw(1, 40), vec![0.0; 40], vec![0.0; 40]);
    let parameter = Parameter {
        weight: &mut weight,
        gradient: &gradient,
        first: &mut first,
        second: &mut second,
        decays: true,
        average: None,
    };
    step(vec![parameter], &OPTIONS, 1);
    assert_eq!(
        [vec![weight], vec![first], vec![second]],
        [with.weights, with.firsts, with.seconds]
    );
}

#[test]
fn it_does_not_depend_on_the_number_of_threads() {
    let lengths = [40_000, 3, 17];
    assert_same_on_any_threads(|| {
        let mut state = State::new(lengths.map(|len| draw(1, len)).to_vec());
        let norm = state.step(&lengths.map(|len| draw(2, len)), &OPTIONS, 1) as f32;
        [state.weights.concat(), state.averages.concat(), vec![norm]].concat()
    });
}
