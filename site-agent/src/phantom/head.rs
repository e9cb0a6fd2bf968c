//! One patient's head on the grid of its images: what every voxel of the brain is made of, with the
//! tumour and without it.

use rand::RngExt;

use crate::data::layout::Contrast;
use crate::phantom::anatomy::{self, BRAIN_FRACTION_MIN, FLUID, Fractions, GREY, Template, WHITE};
use crate::phantom::grid::{Grid, Point};
use crate::phantom::noise::{Noise, Row};
use crate::phantom::scanner::Protocol;
use crate::phantom::seed::PatientSeed;
use crate::phantom::signal::{TISSUES, Tissue, relaxation, signal};
use crate::phantom::tumour::{Tumorous, Tumour};
use crate::phantom::warp::Warp;

/// The share of every [`Tissue`] in a voxel; together 1.
pub type Shares = [f32; TISSUES];

/// Space left round the brain, which the blur of an acquisition runs into.
const MARGIN_MM: f32 = 4.0;

/// The variation of T1 inside one tissue, by fine and by coarse texture, in the order of [`Tissue`].
/// White matter is the most even of them; tumour the least.
const TEXTURE: [[f32; 2]; TISSUES] = [
    [0.022, 0.030],
    [0.030, -0.035],
    [0.010, 0.0],
    [0.05, 0.0],
    [0.035, 0.070],
    [0.050, -0.090],
    [0.080, 0.090],
];

/// The distances over which texture changes: two for the fine one, two for the coarse one.
const TEXTURE_STEPS_MM: [f32; 4] = [1.6, 3.2, 6.0, 16.0];

/// How much less T2 varies than T1.
const TEXTURE_T2: f32 = 0.7;

/// The concentration of gadolinium in the rim, and how unevenly it takes it up.
const RIM_GADOLINIUM_MM: std::ops::Range<f32> = 0.15..0.45;
const RIM_UNEVENNESS: f32 = 0.35;

/// The concentration of gadolinium in blood.
const BLOOD_GADOLINIUM_MM: f32 = 1.2;

/// Vessels are where two random functions are both about 0, which is along curves: the width in
/// units of the functions, and how often vessels are seen in white matter, grey matter and fluid.
const VESSEL_WIDTH: f32 = 0.055;
const VESSEL_SHARE: Fractions = [0.10, 0.45, 0.85];

/// A patient.
pub struct Head {
    /// The part of the image that holds the brain.
    pub grid: Grid,
    /// Where it starts in the whole image.
    pub low: [usize; 3],
    /// The brain's voxels in `grid`, ascending.
    pub brain: Vec<usize>,
    /// What each of `brain` is made of before the tumour. `[brain.len()]`
    pub healthy: Vec<Shares>,
    /// What each of `brain` is made of. `[brain.len()]`
    pub patient: Vec<Shares>,
    /// The label of each of `brain`: 0, 1 necrosis, 2 oedema, 3 enhancing. `[brain.len()]`
    pub labels: Vec<u8>,
    /// Fine and coarse texture at each of `brain`. `[brain.len()]`
    texture: Vec<[f32; 2]>,
    /// The concentration of gadolinium in this patient's rim.
    rim_gadolinium_mm: f32,
}

impl Head {
    /// A patient with a tumour, on the part of `image` that holds the brain.
    pub fn new(template: &Template, image: &Grid, seed: &PatientSeed) -> Head {
        let warp = Warp::new(&mut seed.stream("warp"));
        let whole = anatomy::growth_grid(image.edge_mm);
        let coarse = anatomy::fractions(template, &warp, &whole);
        let tumour = Tumour::new(&coarse, &whole, &mut seed.stream("tumour"));
        let (low, high) = anatomy::brain_box(&coarse, &whole, image, MARGIN_MM);
        let grid = image.part(low, high);
        let fields = Fields::new(&grid, seed);
        let mut head = Head {
            grid,
            low,
            brain: Vec::new(),
            healthy: Vec::new(),
            patient: Vec::new(),
            labels: Vec::new(),
            texture: Vec::new(),
            rim_gadolinium_mm: seed.stream("gadolinium").random_range(RIM_GADOLINIUM_MM),
        };
        let mut rows = None;
        for i in 0..grid.voxels() {
            let voxel = grid.voxel(i);
            if voxel[0] == 0 {
                rows = None;
            }
            let point = grid.centre(voxel);
            let before = template.at(warp.template_point(point));
            if before.iter().sum::<f32>() < BRAIN_FRACTION_MIN {
                continue;
            }
            // Rows without brain need none of these.
            let rows = rows.get_or_insert_with(|| fields.row(point));
            let vessel = rows.vessel(point);
            let healthy =
                shares(before, vessel, Tumorous { core: 0.0, necrotic: 0.0, oedema: 0.0 });
            let (patient, label) = match &tumour {
                Some(tumour) if tumour.reaches(point) => {
                    let origin = tumour.before_push(point);
                    let tissue = template.at(warp.template_point(origin));
                    let tumorous = tumour.at(origin);
                    (shares(tissue, vessel, tumorous), label(tumorous, tissue))
                }
                _ => (healthy, 0),
            };
            head.brain.push(i);
            head.healthy.push(healthy);
            head.patient.push(patient);
            head.labels.push(label);
            head.texture.push(rows.texture(point));
        }
        head
    }

    /// The signals of every brain voxel, white matter being 1: of the patient, and of the same head
    /// without the tumour. `[brain.len()]`
    pub fn signals(&self, protocol: &Protocol, contrast: Contrast) -> [Vec<f32>; 2] {
        let sequence = protocol.sequence(contrast);
        let tissues = Tissue::ALL.map(|tissue| relaxation(tissue, protocol.field));
        let white = signal(sequence, tissues[Tissue::White as usize]);
        let of = |shares: &Shares, [fine, coarse]: [f32; 2]| {
            let mut sum = 0.0;
            for tissue in Tissue::ALL {
                let k = tissue as usize;
                if shares[k] == 0.0 {
                    continue;
                }
                let t1 = (1.0 + TEXTURE[k][0] * fine + TEXTURE[k][1] * coarse).clamp(0.5, 1.6);
                let mut here = tissues[k].scaled(t1, 1.0 + TEXTURE_T2 * (t1 - 1.0));
                if contrast == Contrast::T1c {
                    here = here.with_gadolinium(self.gadolinium(tissue, coarse));
                }
                sum += shares[k] * signal(sequence, here);
            }
            sum / white
        };
        let healthy: Vec<f32> =
            self.healthy.iter().zip(&self.texture).map(|(s, &texture)| of(s, texture)).collect();
        let mut patient = healthy.clone();
        for (i, signal) in patient.iter_mut().enumerate() {
            // The tumour has left most of the head as it was.
            if self.patient[i] != self.healthy[i] {
                *signal = of(&self.patient[i], self.texture[i]);
            }
        }
        [patient, healthy]
    }

    /// The concentration of gadolinium in a tissue: only vessels and the rim let it in.
    fn gadolinium(&self, tissue: Tissue, texture: f32) -> f32 {
        match tissue {
            Tissue::Vessel => BLOOD_GADOLINIUM_MM,
            Tissue::Enhancing => {
                self.rim_gadolinium_mm * (1.0 + RIM_UNEVENNESS * texture).clamp(0.25, 2.0)
            }
            _ => 0.0,
        }
    }
}

/// The shares of a voxel with the given anatomy, vessel and tumour.
fn shares(tissue: Fractions, vessel: f32, tumorous: Tumorous) -> Shares {
    let sum = tissue.iter().sum::<f32>();
    // What the template does not explain lies at the brain's edge, where there is fluid.
    let rest = (1.0 - sum).max(0.0);
    let scale = 1.0 / sum.max(1.0);
    let [white, grey, fluid] = tissue.map(|v| v * scale);
    let fluid = fluid + rest;
    let open = 1.0 - tumorous.core;
    let vessel = open
        * vessel
        * (white * VESSEL_SHARE[WHITE] + grey * VESSEL_SHARE[GREY] + fluid * VESSEL_SHARE[FLUID]);
    let left = open - vessel;
    let solid = left * (white + grey);
    let mut shares = [0.0; TISSUES];
    shares[Tissue::White as usize] = left * white * (1.0 - tumorous.oedema);
    shares[Tissue::Grey as usize] = left * grey * (1.0 - tumorous.oedema);
    shares[Tissue::Fluid as usize] = left * fluid;
    shares[Tissue::Vessel as usize] = vessel;
    shares[Tissue::Oedema as usize] = solid * tumorous.oedema;
    shares[Tissue::Necrosis as usize] = tumorous.core * tumorous.necrotic;
    shares[Tissue::Enhancing as usize] = tumorous.core * (1.0 - tumorous.necrotic);
    shares
}

/// The BraTS label (since 2023) of a voxel.
fn label(tumorous: Tumorous, tissue: Fractions) -> u8 {
    if tumorous.core >= 0.5 {
        if tumorous.necrotic >= 0.5 { 1 } else { 3 }
    } else if tumorous.oedema >= 0.5 && tissue[FLUID] < 0.5 {
        2
    } else {
        0
    }
}

/// The random functions of one head: two whose common zeros are the vessels, and fine and coarse
/// texture, each of two scales.
struct Fields {
    first_mm: Point,
    vessels: [Noise; 2],
    textures: [Noise; 4],
}

impl Fields {
    fn new(grid: &Grid, seed: &PatientSeed) -> Fields {
        let extent = grid.dims.map(|n| n as f32 * grid.edge_mm);
        let mut rng = seed.stream("vessels");
        let vessels = [(); 2].map(|()| Noise::new(extent, 13.0, &mut rng));
        let mut rng = seed.stream("texture");
        // Texture finer than a voxel would cost much and show nothing but noise.
        let textures =
            TEXTURE_STEPS_MM.map(|step_mm| Noise::new(extent, step_mm.max(grid.edge_mm), &mut rng));
        Fields { first_mm: grid.first_mm, vessels, textures }
    }

    /// The functions along the row of voxels through a point.
    fn row(&self, point: Point) -> FieldRows {
        let [_, y, z] = [0, 1, 2].map(|a: usize| point[a] - self.first_mm[a]);
        FieldRows {
            first_mm: self.first_mm[0],
            vessels: [0, 1].map(|k: usize| self.vessels[k].row(y, z)),
            textures: [0, 1, 2, 3].map(|k: usize| self.textures[k].row(y, z)),
        }
    }
}

/// [`Fields`] along one row of voxels.
struct FieldRows {
    first_mm: f32,
    vessels: [Row; 2],
    textures: [Row; 4],
}

impl FieldRows {
    /// How much of a voxel's fluid is vessel instead.
    fn vessel(&self, point: Point) -> f32 {
        let x = point[0] - self.first_mm;
        let squared: f32 = self.vessels.iter().map(|row| row.at(x).powi(2)).sum();
        let share = (-0.5 * squared / (VESSEL_WIDTH * VESSEL_WIDTH)).exp();
        // A tail too thin to see would still cost a tissue in every voxel.
        if share > 0.02 { share } else { 0.0 }
    }

    /// Fine and coarse texture.
    fn texture(&self, point: Point) -> [f32; 2] {
        let x = point[0] - self.first_mm;
        let [a, b, c, d] = &self.textures;
        let both = |a: f32, b: f32| (a + b) * std::f32::consts::FRAC_1_SQRT_2;
        [both(a.at(x), b.at(x)), both(c.at(x), d.at(x))]
    }
}
