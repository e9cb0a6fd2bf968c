//! How much a NIfTI file may ask for before it is refused. Nothing here touches a file.

/// Voxels along one axis: twice what the finest clinical scans have.
pub const AXIS_VOXELS_MAX: usize = 1024;

/// Voxels of one volume, 512 MiB once they are `f32`: a header may claim no more.
pub const VOXELS_MAX: usize = 1 << 27;

/// Bytes of one file as it lies on disk, compressed or not.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// The largest offset of the first voxel: header extensions beyond this are refused.
pub const VOXEL_OFFSET_MAX: u64 = 16 << 20;

/// How far apart, in millimetres, two affines may put the same corner of one grid. Programs store
/// rotations as `f32` quaternions or matrices, which differ by hundredths of a millimetre at the far
/// corner; half a voxel of any scan is more.
pub const AFFINE_TOLERANCE_MM: f64 = 0.1;

/// How much larger than its file a gzip stream can be: deflate's best is 258 bytes in 2 bits.
pub const GZIP_RATIO_MAX: u64 = 1032;

/// Memory that is taken for voxels before any was seen.
pub const FIRST_ALLOCATION_BYTES: usize = 1 << 20;
