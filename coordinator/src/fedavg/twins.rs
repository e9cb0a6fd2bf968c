//! PURE: which updates of a round are all but another site's. It excludes nobody.
//!
//! Sites draw their own slices, masks and noise from their own scans, so that honest updates have a way in common
//! and each one of its own. Attackers who agree on what to send have the whole of it in common, as those of "a
//! little is enough" (Baruch et al. 2019, arXiv 1902.06156): none of their updates is far from the others in length
//! or direction, and what gives them away is each other. Who copies an honest update that it has somehow seen has
//! both told, because nobody can tell whose it was; two sites that train the same scans by the same noise are told
//! likewise. Attackers who each add noise of a seventh of the length pass: this is no defence by itself.

use fedpaint_proto::names::SiteName;

use super::outliers::UPDATES_MIN;
use super::robust::{Gram, median};

/// Below which 1 less the cosine of two updates has to be. One vector that two sites send through encoders of
/// their own, which add what each has left out before, is 1e-4 apart in eight bits and 0.01 to 0.02 in four.
const APART_MAX: f64 = 0.02;

/// How many times nearer twins are than either is to most of the others. Hospitals with one scanner are nearer to
/// each other than to the rest, but each still has its patients and its noise.
const TIMES_NEARER: f64 = 10.0;

/// How far apart most must be that anybody is a twin. Where all updates are all but one, twins do nothing that
/// the others do not.
const USUAL_MIN: f64 = 0.01;

/// How an update lies to the nearest of another site.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Likeness {
    /// The cosine of both; none where the update or all others are nothing.
    pub(super) nearest: Option<f64>,
    /// Whether they are so near that both are one.
    pub(super) is_twin: bool,
}

/// How each update lies to the nearest of another site: two of one site's, of which one is late, are nobody's
/// agreement. None is a twin of fewer than [`UPDATES_MIN`].
pub(super) fn likeness(gram: &Gram, sites: &[&SiteName]) -> Vec<Likeness> {
    let len = gram.len();
    let others = |i: usize| {
        let others = (0..len).filter(move |j| sites[*j] != sites[i]);
        others.filter_map(move |j| Some((j, apart(gram, i, j)?)))
    };
    // By the median of an update's own distances, fewer than half of the sites cannot make honest ones twins.
    let usual = |i: usize| median(others(i).map(|(_, apart)| apart).collect());
    let usual: Vec<f64> = (0..len).map(usual).collect();
    let is_twin = |i: usize, j: usize, apart: f64| {
        let usual = usual[i].min(usual[j]);
        usual >= USUAL_MIN && apart < APART_MAX.min(usual / TIMES_NEARER)
    };
    let one = |i: usize| Likeness {
        nearest: others(i).map(|(_, apart)| 1.0 - apart).max_by(f64::total_cmp),
        is_twin: len >= UPDATES_MIN && others(i).any(|(j, apart)| is_twin(i, j, apart)),
    };
    (0..len).map(one).collect()
}

/// 1 less the cosine of two updates, from 0 to 2; none where either is nothing.
fn apart(gram: &Gram, i: usize, j: usize) -> Option<f64> {
    let lengths = gram.norm(i) * gram.norm(j);
    (lengths > 0.0).then(|| (1.0 - gram.product(i, j) / lengths).clamp(0.0, 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    const LEN: usize = 256;

    /// Approximately normal: twelve uniform numbers each.
    fn normals(dice: &mut Dice, size: f64) -> Vec<f64> {
        let one = |dice: &mut Dice| -> f64 {
            (0..12).map(|_| dice.roll(1 << 20) as f64 / f64::from(1 << 20)).sum::<f64>() - 6.0
        };
        (0..LEN).map(|_| size * one(dice)).collect()
    }

    fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| a + b).collect()
    }

    fn scaled(by: f64, of: &[f64]) -> Vec<f64> {
        of.iter().map(|value| by * value).collect()
    }

    /// So many sites that go one way, `common` times as far as each goes a way of its own; of each of four
    /// scanners there is a way in common that is `scanner` times as far.
    fn honest(dice: &mut Dice, sites: usize, common: f64, scanner: f64) -> Vec<Vec<f64>> {
        let common = normals(dice, common);
        let scanners: Vec<Vec<f64>> = (0..4).map(|_| normals(dice, scanner)).collect();
        (0..sites).map(|at| sum(&sum(&common, &scanners[at % 4]), &normals(dice, 1.0))).collect()
    }

    fn gram(updates: &[Vec<f64>]) -> Gram {
        let mut gram = Gram::zero(updates.len());
        for (i, update) in updates.iter().enumerate() {
            for (product, other) in gram.row_mut(i).iter_mut().zip(updates) {
                *product = update.iter().zip(other).map(|(a, b)| a * b).sum();
            }
        }
        gram
    }

    fn found(updates: &[Vec<f64>], names: &[&str]) -> Vec<Likeness> {
        let sites: Vec<SiteName> = names.iter().map(|name| name.parse().unwrap()).collect();
        likeness(&gram(updates), &sites.iter().collect::<Vec<_>>())
    }

    /// Which of them are twins, each of another site.
    fn twins(updates: &[Vec<f64>]) -> Vec<usize> {
        let names: Vec<String> = (0..updates.len()).map(|at| format!("site-{at}")).collect();
        let found = found(updates, &names.iter().map(String::as_str).collect::<Vec<_>>());
        (0..updates.len()).filter(|at| found[*at].is_twin).collect()
    }

    #[test]
    fn two_that_are_all_but_one_are_both_told_whatever_their_lengths_and_no_other_is() {
        let mut dice = Dice(1);
        let mut updates = honest(&mut dice, 10, 1.0, 0.5);
        assert!(twins(&updates).is_empty());
        updates[7] = scaled(0.5, &updates[3]);
        assert_eq!(twins(&updates), [3, 7]);
        // Nobody can tell which of two pairs is whose either.
        updates[8] = sum(&updates[1], &normals(&mut dice, 0.01));
        assert_eq!(twins(&updates), [1, 3, 7, 8]);
        updates[8] = scaled(-1.0, &updates[1]);
        assert_eq!(twins(&updates), [3, 7]);
        let four = [&updates[1..4], &updates[7..8]].concat();
        assert!(twins(&four).is_empty(), "of four nobody can tell");
    }

    #[test]
    fn whoever_adds_a_noise_of_its_own_of_a_quarter_of_the_length_passes() {
        let mut dice = Dice(2);
        let mut updates = honest(&mut dice, 10, 1.0, 0.5);
        let agreed = updates[3].clone();
        for bad in [3, 7] {
            // What is agreed on has a length of about 1.5 in each direction.
            updates[bad] = sum(&agreed, &normals(&mut dice, 1.5 / 4.0));
        }
        assert!(twins(&updates).is_empty());
    }

    #[test]
    fn honest_updates_are_never_twins_however_alike_sites_and_scanners_are() {
        let mut dice = Dice(3);
        for sites in [5, 8, 10, 20] {
            for common in [0.0, 0.5, 1.0, 3.0, 10.0, 30.0] {
                for scanner in [0.0, 0.5, 1.0, 1.5] {
                    for _ in 0..5 {
                        let updates = honest(&mut dice, sites, common, scanner);
                        assert!(twins(&updates).is_empty(), "{sites}, {common}, {scanner}");
                    }
                }
            }
        }
    }

    #[test]
    fn four_of_ten_that_go_elsewhere_do_not_make_twins_of_honest_ones() {
        let mut dice = Dice(4);
        let mut updates = honest(&mut dice, 10, 8.0, 0.0);
        for bad in [1, 4, 6, 9] {
            updates[bad] = normals(&mut dice, 8.0);
        }
        assert!(twins(&updates).is_empty());
    }

    #[test]
    fn what_is_told_of_an_update_does_not_follow_from_the_order() {
        let mut dice = Dice(5);
        for _ in 0..50 {
            let mut updates = honest(&mut dice, 9, 1.0, 0.5);
            updates[2] = sum(&updates[5], &normals(&mut dice, 0.2));
            let names = ["a", "b", "c", "d", "e", "f", "g", "h", "a"];
            let told = found(&updates, &names);
            let mut order: Vec<usize> = (0..9).collect();
            for at in (1..9).rev() {
                order.swap(at, dice.roll(at as u64 + 1) as usize);
            }
            let shuffled: Vec<Vec<f64>> = order.iter().map(|at| updates[*at].clone()).collect();
            let shuffled = found(&shuffled, &order.iter().map(|at| names[*at]).collect::<Vec<_>>());
            assert_eq!(shuffled, order.iter().map(|at| told[*at]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_sites_own_two_updates_and_those_of_whom_all_are_one_or_nothing_are_no_twins() {
        let mut dice = Dice(6);
        let mut updates = honest(&mut dice, 6, 1.0, 0.5);
        updates[5] = updates[0].clone();
        let told = found(&updates, &["a", "b", "c", "d", "e", "a"]);
        assert!(told.iter().all(|one| !one.is_twin));
        assert!(told.iter().all(|one| one.nearest.is_some_and(|nearest| nearest < 0.9)));
        let told = found(&updates, &["a", "b", "c", "d", "e", "f"]);
        assert!(told[5].is_twin && told[5].nearest.is_some_and(|nearest| nearest > 0.999_999));
        assert!(twins(&vec![updates[0].clone(); 6]).is_empty());
        let nothing = vec![vec![0.0; LEN]; 6];
        assert!(twins(&nothing).is_empty());
        assert_eq!(found(&nothing, &["a", "b", "c", "d", "e", "f"])[0].nearest, None);
    }
}
