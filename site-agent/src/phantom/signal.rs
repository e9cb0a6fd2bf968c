//! From tissue to MRI signal: relaxation times, contrast agent, and the equations of the sequences.
//!
//! Pure physics of one voxel. It knows no scanner artefact and no place.

/// The tissues of the phantom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tissue {
    /// White matter.
    White = 0,
    /// Grey matter.
    Grey = 1,
    /// Cerebrospinal fluid.
    Fluid = 2,
    /// Blood vessels.
    Vessel = 3,
    /// Oedematous white matter.
    Oedema = 4,
    /// Necrotic tumour.
    Necrosis = 5,
    /// Enhancing tumour.
    Enhancing = 6,
}

/// The number of tissues.
pub const TISSUES: usize = 7;

impl Tissue {
    /// Every tissue, in order.
    pub const ALL: [Tissue; TISSUES] = [
        Tissue::White,
        Tissue::Grey,
        Tissue::Fluid,
        Tissue::Vessel,
        Tissue::Oedema,
        Tissue::Necrosis,
        Tissue::Enhancing,
    ];
}

/// The strength of a scanner's magnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 1.5 T.
    OnePointFive,
    /// 3 T.
    Three,
}

/// Relaxation of a tissue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relaxation {
    /// Longitudinal.
    pub t1_ms: f32,
    /// Transverse.
    pub t2_ms: f32,
    /// Proton density relative to fluid.
    pub density: f32,
}

/// The relaxation of `tissue`: typical values of the literature for the two field strengths.
pub fn relaxation(tissue: Tissue, field: Field) -> Relaxation {
    // (T1, T2) at 3 T, (T1, T2) at 1.5 T, proton density.
    let (three, lower, density) = match tissue {
        Tissue::White => ((840.0, 74.0), (620.0, 80.0), 0.69),
        Tissue::Grey => ((1400.0, 99.0), (1000.0, 105.0), 0.80),
        Tissue::Fluid => ((4100.0, 1700.0), (4100.0, 1900.0), 1.0),
        Tissue::Vessel => ((1900.0, 60.0), (1500.0, 70.0), 0.80),
        Tissue::Oedema => ((1500.0, 150.0), (1150.0, 155.0), 0.83),
        Tissue::Necrosis => ((2400.0, 330.0), (2000.0, 340.0), 0.95),
        Tissue::Enhancing => ((1550.0, 125.0), (1200.0, 130.0), 0.84),
    };
    let (t1_ms, t2_ms) = if field == Field::Three { three } else { lower };
    Relaxation { t1_ms, t2_ms, density }
}

/// Relaxivity of gadolinium, per millisecond and millimole per litre.
const RELAXIVITY: f32 = 4.3e-3;

impl Relaxation {
    /// The same tissue with a concentration of gadolinium: 1 / T1 grows by r1 times it.
    pub fn with_gadolinium(self, concentration_mm: f32) -> Relaxation {
        Relaxation { t1_ms: 1.0 / (1.0 / self.t1_ms + RELAXIVITY * concentration_mm), ..self }
    }

    /// The same tissue with both times scaled.
    pub fn scaled(self, t1: f32, t2: f32) -> Relaxation {
        Relaxation { t1_ms: self.t1_ms * t1, t2_ms: self.t2_ms * t2, ..self }
    }
}

/// A pulse sequence and its times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sequence {
    /// Spin echo: PD (1 - exp(-TR/T1)) exp(-TE/T2).
    SpinEcho {
        /// Repetition time.
        tr: f32,
        /// Echo time.
        te: f32,
    },
    /// Magnetisation-prepared gradient echo, inversion efficiency 0.925:
    /// PD |1 - 1.85 exp(-TI/T1) / (1 + exp(-TR/T1))|.
    Mprage {
        /// Repetition time.
        tr: f32,
        /// Inversion time.
        ti: f32,
    },
    /// Inversion recovery spin echo:
    /// PD |1 - 2 exp(-TI/T1) + exp(-(TR - TE)/T1)| exp(-TE/T2).
    Flair {
        /// Repetition time.
        tr: f32,
        /// Inversion time.
        ti: f32,
        /// Echo time.
        te: f32,
    },
}

impl Sequence {
    /// The same sequence with all its times multiplied.
    pub fn scaled(self, by: f32) -> Sequence {
        match self {
            Sequence::SpinEcho { tr, te } => Sequence::SpinEcho { tr: tr * by, te: te * by },
            Sequence::Mprage { tr, ti } => Sequence::Mprage { tr: tr * by, ti: ti * by },
            Sequence::Flair { tr, ti, te } => {
                Sequence::Flair { tr: tr * by, ti: ti * by, te: te * by }
            }
        }
    }
}

/// The magnitude of the signal of a tissue, relative to fully relaxed fluid.
pub fn signal(sequence: Sequence, tissue: Relaxation) -> f32 {
    let Relaxation { t1_ms, t2_ms, density } = tissue;
    match sequence {
        Sequence::SpinEcho { tr, te } => {
            density * (1.0 - (-tr / t1_ms).exp()) * (-te / t2_ms).exp()
        }
        Sequence::Mprage { tr, ti } => {
            density * (1.0 - 1.85 * (-ti / t1_ms).exp() / (1.0 + (-tr / t1_ms).exp())).abs()
        }
        Sequence::Flair { tr, ti, te } => {
            let recovered = 1.0 - 2.0 * (-ti / t1_ms).exp() + (-(tr - te) / t1_ms).exp();
            density * recovered.abs() * (-te / t2_ms).exp()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_matter_in_a_spin_echo_has_the_signal_of_the_equation() {
        // PD .69, TR 500, TE 12, T1 620, T2 80: .69 * (1 - e^-.80645) * e^-.15.
        let white = relaxation(Tissue::White, Field::OnePointFive);
        let seen = signal(Sequence::SpinEcho { tr: 500.0, te: 12.0 }, white);
        assert!((seen - 0.328_747).abs() < 1e-4, "{seen}");
    }

    #[test]
    fn gadolinium_shortens_t1_by_its_relaxivity() {
        // 1 / (1/1550 + 4.3e-3) = 202.24 ms for 1 mM.
        let tumour = relaxation(Tissue::Enhancing, Field::Three).with_gadolinium(1.0);
        assert!((tumour.t1_ms - 202.217).abs() < 0.01, "{}", tumour.t1_ms);
    }
}
