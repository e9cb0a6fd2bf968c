//! How much a folder of DICOM files may ask for before it is refused. Nothing here touches a file.

/// Entries of a folder and everything below it that are looked at: some hundred studies.
pub const ENTRIES_MAX: usize = 200_000;

/// Folders within folders that are entered. A DICOMDIR medium has 3.
pub const DEPTH_MAX: usize = 16;

/// Bytes of one file as it lies on disk. An Enhanced file holds a whole series.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// Bytes in front of the pixels of one file. The functional groups of a thousand frames have a few
/// megabytes.
pub const HEADER_BYTES_MAX: u64 = 64 << 20;

/// Frames of one series, in one file or in many.
pub const FRAMES_MAX: usize = 4096;

/// Bytes of one text value that is looked at. The longest that matters, a description, has 64.
pub const TEXT_BYTES_MAX: usize = 1024;

/// The fewest slices that are a volume: with fewer their spacing has nothing to be checked against.
pub const SLICES_MIN: usize = 3;

/// How much a step between slices may differ from the mean step, relative to it.
pub const SPACING_TOLERANCE: f64 = 0.01;

/// How much two direction cosines of one series may differ: positions are written with few digits.
pub const DIRECTION_TOLERANCE: f64 = 1e-3;

/// Slices nearer to each other than this, in millimetres, lie at one position.
pub const SAME_POSITION_MM: f64 = 1e-3;

/// How far off the stack's axis a slice may lie, in millimetres, whatever the stack's height:
/// positions of few digits are rounded to tenths.
pub const SIDEWAYS_MM: f64 = 0.05;
