//! One slice, learnt by heart: the whole chain of network, diffusion, gradients and optimiser works.

use std::ops::ControlFlow;

use fedpaint_site_agent::data::example::{Example, REGIONS};
use fedpaint_site_agent::model::device::{self, DeviceChoice};
use fedpaint_site_agent::model::spec::{ModelSpec, Preset};
use fedpaint_site_agent::model::weights::Weights;
use fedpaint_site_agent::train::{TrainingOptions, train};

/// The edge of the slice, in pixels.
const SIZE: usize = 16;

/// A slice of a few waves with a square hole.
fn slice() -> Example {
    let plane = |value: fn(f32, f32) -> f32| -> Vec<f32> {
        (0..SIZE * SIZE).map(|i| value((i % SIZE) as f32, (i / SIZE) as f32)).collect()
    };
    let mask =
        plane(|x, y| f32::from(u8::from((5.0..11.0).contains(&x) && (4.0..10.0).contains(&y))));
    let mut regions = vec![0.0; REGIONS * SIZE * SIZE];
    regions[..SIZE * SIZE].copy_from_slice(&mask);
    Example {
        image: plane(|x, y| 0.5 * (0.4 * x).sin() + 0.4 * (0.5 * y + 0.2 * x).cos()),
        loss_mask: mask.clone(),
        mask,
        regions,
        condition: [1.0, 0.0, 0.0, 0.0, 0.5, 0.0],
    }
}

#[test]
fn overfitting_one_slice_drops_the_masked_loss_more_than_tenfold_in_200_steps() {
    let spec = ModelSpec::preset(Preset::Tiny).with_image_size(SIZE).unwrap();
    let start = Weights::init(&spec, 1).unwrap();
    let options = TrainingOptions {
        steps: 200,
        learning_rate: 3e-3,
        warmup_steps: 10,
        decay_steps: 100,
        seed: 1,
        ..TrainingOptions::default()
    };
    // Noise is only in the mask, so this loss is the mean squared error inside it.
    let mut losses = Vec::new();
    let mut watch = |report: fedpaint_site_agent::train::report::StepReport| {
        losses.push(report.loss);
        ControlFlow::Continue(())
    };
    let mut next = |_| Ok(vec![slice(); 8]);
    let cpu = device::open(DeviceChoice::Cpu).unwrap();
    train(&start, &cpu, &options, &mut next, &mut watch).unwrap();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[180..]));
    println!("masked loss: {first} before, {last} after");
    assert!(last * 10.0 < first, "{first} {last}");
}
