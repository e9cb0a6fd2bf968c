//! Regular grids in the phantom's frame, and values between their points.
//!
//! The frame is RAS+ in millimetres with its zero at the first voxel of the 1 mm BraTS grid. It knows
//! nothing of brains or files.

/// A position in the frame, in millimetres.
pub type Point = [f32; 3];

/// Cubic voxels of one edge length, x fastest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Voxels along x, y and z.
    pub dims: [usize; 3],
    /// The edge of a voxel.
    pub edge_mm: f32,
    /// The centre of voxel (0, 0, 0).
    pub first_mm: Point,
}

impl Grid {
    /// The number of voxels.
    pub fn voxels(&self) -> usize {
        self.dims.iter().product()
    }

    /// Where voxel (x, y, z) lies in an array.
    pub fn index(&self, [x, y, z]: [usize; 3]) -> usize {
        x + self.dims[0] * (y + self.dims[1] * z)
    }

    /// The voxel of an array's place.
    pub fn voxel(&self, index: usize) -> [usize; 3] {
        let [nx, ny, _] = self.dims;
        [index % nx, index / nx % ny, index / (nx * ny)]
    }

    /// The centre of a voxel.
    pub fn centre(&self, voxel: [usize; 3]) -> Point {
        [0, 1, 2].map(|a: usize| self.first_mm[a] + self.edge_mm * voxel[a] as f32)
    }

    /// A point in units of voxels from the centre of voxel (0, 0, 0).
    pub fn place(&self, point: Point) -> [f32; 3] {
        [0, 1, 2].map(|a: usize| (point[a] - self.first_mm[a]) / self.edge_mm)
    }

    /// The part of this grid between two voxels, both included.
    pub fn part(&self, low: [usize; 3], high: [usize; 3]) -> Grid {
        Grid {
            dims: [0, 1, 2].map(|a: usize| high[a] - low[a] + 1),
            edge_mm: self.edge_mm,
            first_mm: self.centre(low),
        }
    }

    /// The eight voxels round a point with their weights, for reading many arrays at one point.
    /// Voxels outside the grid count as 0.
    pub fn around(&self, point: Point) -> Corners {
        let place = self.place(point);
        if (0..3).all(|a| place[a] >= 0.0 && place[a] < (self.dims[a] - 1) as f32) {
            return self.inside(place);
        }
        let mut corners = Corners { indices: [0; 8], weights: [0.0; 8] };
        let low = place.map(f32::floor);
        if (0..3).any(|a| low[a] < -1.0 || low[a] >= self.dims[a] as f32) {
            return corners;
        }
        for corner in 0..8_usize {
            let (mut index, mut weight, mut stride) = (0, 1.0, 1);
            for a in 0..3 {
                let upper = corner >> a & 1;
                let at = low[a] as isize + upper as isize;
                let along = place[a] - low[a];
                weight *= if upper == 1 { along } else { 1.0 - along };
                match usize::try_from(at) {
                    Ok(at) if at < self.dims[a] => index += stride * at,
                    _ => weight = 0.0,
                }
                stride *= self.dims[a];
            }
            if weight > 0.0 {
                corners.indices[corner] = index;
                corners.weights[corner] = weight;
            }
        }
        corners
    }

    /// [`Grid::around`] for a place between eight voxels of the grid.
    fn inside(&self, place: [f32; 3]) -> Corners {
        // A conversion to an integer cuts towards zero, which is down here.
        let low = place.map(|p| p as i32);
        let [x, y, z] = [0, 1, 2].map(|a: usize| place[a] - low[a] as f32);
        let [u, v, w] = [1.0 - x, 1.0 - y, 1.0 - z];
        let first = self.index(low.map(|l| l as usize));
        let (row, plane) = (self.dims[0], self.dims[0] * self.dims[1]);
        let quad = [first, first + row, first + plane, first + plane + row];
        let [a, b, c, d] = quad;
        Corners {
            indices: [a, a + 1, b, b + 1, c, c + 1, d, d + 1],
            weights: [
                u * v * w,
                x * v * w,
                u * y * w,
                x * y * w,
                u * v * z,
                x * v * z,
                u * y * z,
                x * y * z,
            ],
        }
    }
}

/// Trilinear interpolation at one point.
#[derive(Clone, Copy, Debug)]
pub struct Corners {
    indices: [usize; 8],
    weights: [f32; 8],
}

impl Corners {
    /// The value of an array of the grid at the point.
    pub fn of(&self, values: &[f32]) -> f32 {
        self.indices.iter().zip(&self.weights).map(|(&i, w)| w * values[i]).sum()
    }

    /// The value of an array of vectors of the grid at the point.
    pub fn of_vectors<const N: usize>(&self, values: &[[f32; N]]) -> [f32; N] {
        let mut sum = [0.0; N];
        for (&i, w) in self.indices.iter().zip(&self.weights) {
            for (s, v) in sum.iter_mut().zip(&values[i]) {
                *s += w * v;
            }
        }
        sum
    }
}

/// 0 below `low`, 1 above `high`, a cubic without kinks between.
pub fn smooth_step(low: f32, high: f32, value: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Gaussian blur along one axis. `sigma` is in voxels; voxels outside the grid count as 0. Below 0.2
/// voxels the kernel is one voxel wide and nothing is done.
pub fn blur_axis(values: &mut [f32], dims: [usize; 3], axis: usize, sigma: f32) {
    let radius = (3.0 * sigma).ceil() as usize;
    if sigma < 0.2 {
        return;
    }
    let weight = |k: usize| (-0.5 * (k as f32 / sigma).powi(2)).exp();
    let total = weight(0) + 2.0 * (1..=radius).map(weight).sum::<f32>();
    let kernel: Vec<f32> = (0..=radius).map(|k| weight(k) / total).collect();
    // A block is all lines of the axis that lie beside each other: voxels that are neighbours along
    // the axis are `stride` apart, so that whole blocks can be shifted and added.
    let stride: usize = dims[..axis].iter().product();
    let block = stride * dims[axis];
    let margin = radius * stride;
    // A block with zeros at both ends, so that no shift leaves it.
    let mut padded = vec![0.0; block + 2 * margin];
    for values in values.chunks_exact_mut(block) {
        padded[margin..margin + block].copy_from_slice(values);
        values.iter_mut().for_each(|v| *v *= kernel[0]);
        for (d, w) in kernel.iter().enumerate().skip(1) {
            let before = &padded[margin - d * stride..][..block];
            let after = &padded[margin + d * stride..][..block];
            for ((v, a), b) in values.iter_mut().zip(before).zip(after) {
                *v += w * (a + b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { dims: [4, 5, 6], edge_mm: 2.0, first_mm: [1.0, -1.0, 0.5] };

    #[test]
    fn interpolation_reproduces_a_linear_function_and_vanishes_outside() {
        let f = |p: Point| 3.0 * p[0] - p[1] + 0.5 * p[2];
        let values: Vec<f32> = (0..GRID.voxels()).map(|i| f(GRID.centre(GRID.voxel(i)))).collect();
        for point in [[1.0, -1.0, 0.5], [3.3, 2.2, 7.7], [7.0, 7.0, 10.5]] {
            assert!((GRID.around(point).of(&values) - f(point)).abs() < 1e-4);
        }
        for point in [[-1.1, 0.0, 1.0], [9.0, 0.0, 1.0], [1.0, f32::INFINITY, 1.0]] {
            assert_eq!(GRID.around(point).of(&values), 0.0);
        }
    }

    #[test]
    fn a_blur_is_the_same_along_every_axis() {
        let dims = [7, 7, 7];
        let grid = Grid { dims, edge_mm: 1.0, first_mm: [0.0; 3] };
        let value = |v: [usize; 3]| ((v[0] * 31 + v[1] * 17 + v[2] * 5) % 13) as f32;
        let blurred = |axis: usize| {
            let turned = |i: usize| {
                let mut voxel = grid.voxel(i);
                voxel.swap(0, axis);
                value(voxel)
            };
            let mut values: Vec<f32> = (0..grid.voxels()).map(turned).collect();
            blur_axis(&mut values, dims, axis, 1.1);
            let back = |i: usize| {
                let mut voxel = grid.voxel(i);
                voxel.swap(0, axis);
                values[grid.index(voxel)]
            };
            (0..grid.voxels()).map(back).collect::<Vec<f32>>()
        };
        assert_eq!(blurred(1), blurred(0));
        assert_eq!(blurred(2), blurred(0));
    }

    #[test]
    fn a_part_of_a_grid_keeps_its_places() {
        let part = GRID.part([1, 2, 3], [3, 4, 4]);
        assert_eq!(part.dims, [3, 3, 2]);
        assert_eq!(part.centre([1, 0, 1]), GRID.centre([2, 2, 4]));
    }

    #[test]
    fn a_blur_keeps_the_sum_and_spreads_by_sigma() {
        let dims = [41, 3, 2];
        let mut values = vec![0.0; 41 * 3 * 2];
        values[20 + 41] = 1.0;
        blur_axis(&mut values, dims, 0, 3.0);
        let sum: f32 = values.iter().sum();
        let variance: f32 =
            (0..41).map(|x| values[x + 41] * (x as f32 - 20.0).powi(2)).sum::<f32>() / sum;
        assert!((sum - 1.0).abs() < 1e-5 && (variance.sqrt() - 3.0).abs() < 0.1, "{variance}");
    }
}
