//! PURE: what follows from the inner products of the updates' differences to the base model: their norms, how
//! far one may go, and the geometric median. No file and no weight: the products are all that is asked.

use fedpaint_proto::plan::AggregationPlan;

/// How near the geometric median an update may be without its share growing beyond all bounds, as a part of
/// the median norm: nu in the paper.
const SMOOTHING: f64 = 1e-6;

/// The inner products of the updates' differences to the base model, by their order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gram {
    /// How many updates.
    len: usize,
    /// <d_i, d_j> for j <= i, row after row.
    products: Vec<f64>,
}

impl Gram {
    /// All zero.
    pub(super) fn zero(len: usize) -> Gram {
        Gram { len, products: vec![0.0; len * (len + 1) / 2] }
    }

    /// The products of i with 0 to i.
    pub(super) fn row_mut(&mut self, i: usize) -> &mut [f64] {
        let first = i * (i + 1) / 2;
        &mut self.products[first..=first + i]
    }

    /// Adds the products of a further block.
    pub(super) fn add(&mut self, block: &Gram) {
        for (sum, product) in self.products.iter_mut().zip(&block.products) {
            *sum += product;
        }
    }

    /// <d_i, d_j>.
    pub(super) fn product(&self, i: usize, j: usize) -> f64 {
        let (low, high) = (i.min(j), i.max(j));
        self.products[high * (high + 1) / 2 + low]
    }

    /// |d_i|.
    pub(super) fn norm(&self, i: usize) -> f64 {
        self.product(i, i).max(0.0).sqrt()
    }

    /// How many updates.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// The middle one, or the mean of the two in the middle; 0 of nothing.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

/// What each update's difference is multiplied with so that none is longer than the plan allows: min(1, C/|d|),
/// where C is the plan's `clip_norm` or, where that is 0, `clip_factor` times the median norm of those that count.
pub(super) fn clips(plan: &AggregationPlan, gram: &Gram, counts: &[bool]) -> Vec<f64> {
    let norms: Vec<f64> = (0..gram.len()).map(|i| gram.norm(i)).collect();
    let counted = norms.iter().zip(counts).filter(|(_, counts)| **counts).map(|(norm, _)| *norm);
    let most = match plan.clip_norm {
        0.0 => plan.clip_factor * median(counted.collect()),
        norm => norm,
    };
    norms.into_iter().map(|norm| if norm > most { most / norm } else { 1.0 }).collect()
}

/// The shares of the updates in their geometric median, which is a mean of theirs: the smoothed algorithm of
/// Weiszfeld as RFA has it (Pillutla et al. 2022, arXiv 1912.13445, algorithm 2), for as many steps as the plan
/// says: beta_k = alpha_k / max(nu, |z - w_k|), z = sum_k (beta_k w_k) / sum_k beta_k. It begins at the mean of the
/// updates after those that are longer than the median were made as long: an update that is far off weighs little
/// from the first step on, and none can lie where it begins. `alphas` are 0 for who does not count.
///
/// Since z is a sum of parts of the updates, its distance to each follows from their inner products: the model is
/// read once and not for every step.
pub(super) fn geometric_median(plan: &AggregationPlan, gram: &Gram, alphas: &[f64]) -> Vec<f64> {
    let norms: Vec<f64> = (0..gram.len()).map(|k| gram.norm(k)).collect();
    let counted = norms.iter().zip(alphas).filter(|(_, alpha)| **alpha > 0.0);
    let middle = median(counted.map(|(norm, _)| *norm).collect());
    // Where all are the base model itself, all count alike.
    let nu = (SMOOTHING * middle).max(f64::MIN_POSITIVE);
    let shortened = |(share, norm): (f64, &f64)| share * (middle / norm.max(nu)).min(1.0);
    let mut shares: Vec<f64> =
        normalised(alphas.to_vec()).into_iter().zip(&norms).map(shortened).collect();
    for _ in 0..plan.weiszfeld_steps {
        // <d_k, z>, and |z|^2.
        let along = |k: usize| (0..gram.len()).map(|j| part(shares[j], gram.product(k, j))).sum();
        let along: Vec<f64> = (0..gram.len()).map(along).collect();
        let z: f64 = shares.iter().zip(&along).map(|(share, along)| part(*share, *along)).sum();
        let beta = |(k, alpha): (usize, &f64)| {
            let distance = (gram.product(k, k) - 2.0 * along[k] + z).max(0.0).sqrt();
            // Times nu, which changes no share and keeps all of them small.
            part(*alpha, nu / distance.max(nu))
        };
        shares = normalised(alphas.iter().enumerate().map(beta).collect());
    }
    shares
}

/// A part of a number: nothing of it where there is none, whatever it is.
fn part(share: f64, of: f64) -> f64 {
    if share == 0.0 { 0.0 } else { share * of }
}

fn normalised(shares: Vec<f64>) -> Vec<f64> {
    let total: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / total).collect()
}
