//! The four example sites: what each one's scanner does to an image.
//!
//! Numbers only. They span what hospitals have, so that the sites' images differ as those of
//! hospitals do.

use std::ops::RangeInclusive;

use rand::{Rng, RngExt};

use crate::data::layout::Contrast;
use crate::phantom::signal::{Field, Sequence};

/// An example site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanner {
    /// 3 T, three-dimensional MPRAGE.
    A,
    /// 1.5 T, two-dimensional spin echo, 5 mm slices.
    B,
    /// 3 T, two-dimensional spin echo.
    C,
    /// 1.5 T, MPRAGE.
    D,
}

/// How a site's scanner takes images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protocol {
    /// The magnet.
    pub field: Field,
    /// The sequence of each contrast, in the order of [`Contrast`].
    pub sequences: [Sequence; 4],
    /// The slice thickness of each contrast.
    pub thickness_mm: [f32; 4],
    /// In-plane blur: full width at half maximum.
    pub psf_mm: f32,
    /// The largest log-amplitude of the bias field.
    pub bias: f32,
    /// The distance over which the bias field changes.
    pub bias_step_mm: f32,
    /// The standard deviation of the noise as a share of white matter, in a voxel of 1 mm.
    pub noise: f32,
    /// The value white matter gets.
    pub gain: f32,
}

impl Scanner {
    /// Every scanner, in order.
    pub const ALL: [Scanner; 4] = [Scanner::A, Scanner::B, Scanner::C, Scanner::D];

    /// Its letter.
    pub fn letter(self) -> char {
        ['A', 'B', 'C', 'D'][self as usize]
    }

    /// Its protocol.
    pub fn protocol(self) -> Protocol {
        let spin = |tr, te| Sequence::SpinEcho { tr, te };
        let mprage = |tr, ti| Sequence::Mprage { tr, ti };
        let flair = |tr, ti, te| Sequence::Flair { tr, ti, te };
        let all = |t1, t2, flair| [t1, t1, t2, flair];
        match self {
            Scanner::A => Protocol {
                field: Field::Three,
                sequences: all(
                    mprage(1900.0, 900.0),
                    spin(5000.0, 95.0),
                    flair(8000.0, 2450.0, 110.0),
                ),
                thickness_mm: [1.0, 1.0, 2.0, 2.0],
                psf_mm: 0.7,
                bias: 0.22,
                bias_step_mm: 45.0,
                noise: 0.026,
                gain: 900.0,
            },
            Scanner::B => Protocol {
                field: Field::OnePointFive,
                sequences: all(
                    spin(500.0, 12.0),
                    spin(4200.0, 100.0),
                    flair(9000.0, 2200.0, 120.0),
                ),
                thickness_mm: [5.0; 4],
                psf_mm: 1.0,
                bias: 0.12,
                bias_step_mm: 55.0,
                noise: 0.05,
                gain: 250.0,
            },
            Scanner::C => Protocol {
                field: Field::Three,
                sequences: all(spin(650.0, 9.0), spin(6000.0, 82.0), flair(9500.0, 2500.0, 130.0)),
                thickness_mm: [3.0, 3.0, 3.0, 4.0],
                psf_mm: 0.85,
                bias: 0.28,
                bias_step_mm: 30.0,
                noise: 0.034,
                gain: 600.0,
            },
            Scanner::D => Protocol {
                field: Field::OnePointFive,
                sequences: all(
                    mprage(2100.0, 1000.0),
                    spin(3500.0, 110.0),
                    flair(7000.0, 2100.0, 140.0),
                ),
                thickness_mm: [1.0, 1.0, 4.0, 5.0],
                psf_mm: 0.9,
                bias: 0.16,
                bias_step_mm: 50.0,
                noise: 0.042,
                gain: 1500.0,
            },
        }
    }
}

/// How far a site's scanner is from the example it follows: half the width of the range of factors
/// of times, of blur, of the bias field, of noise and of gain.
const TIMES_JITTER: f32 = 0.05;
const PSF_JITTER: f32 = 0.10;
const BIAS_JITTER: f32 = 0.25;
const NOISE_JITTER: f32 = 0.20;
const GAIN_JITTER: f32 = 0.40;

/// What scanners in hospitals have: blur within a slice in millimetres, the logarithm of the bias field
/// at its strongest, noise as a part of white matter's signal, and gain. No site is outside.
const PSF_MM: RangeInclusive<f32> = 0.7..=1.0;
const BIAS: RangeInclusive<f32> = 0.12..=0.28;
const NOISE: RangeInclusive<f32> = 0.026..=0.05;
const GAIN: RangeInclusive<f32> = 250.0..=1500.0;

impl Protocol {
    /// The protocol of another site with the same kind of scanner: every number a little different.
    /// Slices keep their thickness, which comes in whole millimetres.
    pub fn jittered(self, rng: &mut impl Rng) -> Protocol {
        let mut factor = |jitter: f32| rng.random_range(1.0 - jitter..=1.0 + jitter);
        let sequences = self.sequences;
        // T1 and T1c are one sequence, before and after contrast agent.
        let [t1, t2w, t2f] = [0, 2, 3].map(|i: usize| sequences[i].scaled(factor(TIMES_JITTER)));
        Protocol {
            sequences: [t1, t1, t2w, t2f],
            psf_mm: within(&PSF_MM, self.psf_mm * factor(PSF_JITTER)),
            bias: within(&BIAS, self.bias * factor(BIAS_JITTER)),
            noise: within(&NOISE, self.noise * factor(NOISE_JITTER)),
            gain: within(&GAIN, self.gain * factor(GAIN_JITTER)),
            ..self
        }
    }

    /// The sequence of a contrast.
    pub fn sequence(&self, contrast: Contrast) -> Sequence {
        self.sequences[contrast as usize]
    }
}

fn within(range: &RangeInclusive<f32>, value: f32) -> f32 {
    value.clamp(*range.start(), *range.end())
}

impl std::str::FromStr for Scanner {
    type Err = UnknownScanner;

    fn from_str(text: &str) -> Result<Scanner, UnknownScanner> {
        let known =
            |s: &Scanner| text.len() == 1 && text.eq_ignore_ascii_case(&s.letter().to_string());
        Scanner::ALL.into_iter().find(known).ok_or_else(|| UnknownScanner(text.to_string()))
    }
}

/// A name that no example site has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scanner {0:?}, choose A, B, C or D")]
pub struct UnknownScanner(pub String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::stream::stream;
    use crate::phantom::signal::{Tissue, relaxation, signal};

    #[test]
    fn every_scanner_shows_tissues_in_the_order_radiologists_know() {
        for scanner in Scanner::ALL {
            let mut rng = stream("scanner tests", &[]);
            for protocol in [scanner.protocol()]
                .into_iter()
                .chain((0..50).map(|_| scanner.protocol().jittered(&mut rng)))
            {
                assert!(PSF_MM.contains(&protocol.psf_mm) && BIAS.contains(&protocol.bias));
                assert!(NOISE.contains(&protocol.noise) && GAIN.contains(&protocol.gain));
                let see = |contrast, tissue, gadolinium| {
                    let tissue = relaxation(tissue, protocol.field).with_gadolinium(gadolinium);
                    signal(protocol.sequence(contrast), tissue)
                };
                use Tissue::{Enhancing, Fluid, Grey, Oedema, White};
                let t1 = |tissue| see(Contrast::T1n, tissue, 0.0);
                assert!(t1(White) > t1(Grey) && t1(Grey) > t1(Fluid), "T1 of {scanner:?}");
                let t2 = |tissue| see(Contrast::T2w, tissue, 0.0);
                assert!(t2(Fluid) > t2(Grey) && t2(Grey) > t2(White), "T2 of {scanner:?}");
                let flair = |tissue| see(Contrast::T2f, tissue, 0.0);
                assert!(flair(Oedema) > 1.3 * flair(White), "FLAIR of {scanner:?}");
                assert!(flair(Fluid) < flair(White) && flair(Fluid) > 0.0, "FLAIR of {scanner:?}");
                let rim = see(Contrast::T1c, Enhancing, 0.3);
                assert!(rim > 1.1 * see(Contrast::T1c, White, 0.0), "T1c of {scanner:?}");
            }
        }
    }

    #[test]
    fn a_letter_names_a_scanner() {
        assert_eq!("b".parse(), Ok(Scanner::B));
        assert!("E".parse::<Scanner>().unwrap_err().to_string().contains("A, B, C or D"));
        assert!("AB".parse::<Scanner>().is_err());
    }
}
