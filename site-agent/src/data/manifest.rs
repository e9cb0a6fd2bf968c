//! The manifest: a table that says which file is what, for data that no convention of names fits, or
//! only what the labels mean, for data that one does.
//!
//! Pure: bytes in, rows out. It opens no file, so whether a path exists or leads out of the data folder
//! is found out by [`super::layout`].

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::data::labels::LabelScheme;

/// The manifest's names in a data folder.
pub const FILE_NAMES: [&str; 2] = ["manifest.csv", "manifest.toml"];

/// Bytes of a manifest: 100,000 cases of 160 bytes.
pub const BYTES_MAX: usize = 16 << 20;

/// Cases of a manifest.
pub const ROWS_MAX: usize = 100_000;

/// Bytes of a case's or a patient's name. Files are named after cases.
pub const NAME_BYTES_MAX: usize = 128;

/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 1024;

/// The columns of a manifest, in any order. All but `case` and one scan may be left out.
const COLUMNS: [&str; 8] = ["case", "patient", "t1n", "t1c", "t2w", "t2f", "seg", "labels"];

/// Letters of a word from the file that an error repeats.
const WORD_MAX: usize = 40;

/// How a manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line of column names, then a line a case; commas, or semicolons as some spreadsheets write.
    Csv,
    /// `labels` for all cases, and a table `[[cases]]` per case.
    Toml,
}

/// What a manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The cases, in the file's order.
    pub rows: Vec<Row>,
    /// What the labels of all cases mean that do not say otherwise; in `rows` it is told already.
    pub labels: Option<LabelScheme>,
}

/// One case of a manifest. Paths are as written: relative to the manifest's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The line it is on, or begins at; the first line is 1.
    pub line: usize,
    /// The case's name, fit to name files.
    pub case: String,
    /// The patient, if it is not to be taken from the case's name.
    pub patient: Option<String>,
    /// The scans t1n, t1c, t2w and t2f: a NIfTI file, or a folder with one DICOM series.
    pub scans: [Option<PathBuf>; 4],
    /// The segmentation.
    pub segmentation: Option<PathBuf>,
    /// What its labels mean.
    pub labels: Option<LabelScheme>,
}

/// Why a manifest cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is larger than what is read.
    #[error("the manifest has {0} bytes, at most {BYTES_MAX} are read")]
    TooLarge(usize),
    /// It is no text.
    #[error("line {line}: the manifest is not UTF-8, save it as UTF-8")]
    NotUtf8 {
        /// The first line that is not.
        line: usize,
    },
    /// It is not CSV or TOML, or has a field that is not known.
    #[error("line {line}: {message}")]
    Syntax {
        /// The line.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A column's name is not known, or there twice.
    #[error(
        "line {line}: the column {name:?} is unknown or there twice, the columns are {columns}",
        columns = COLUMNS.join(", ")
    )]
    Column {
        /// The line of the columns' names.
        line: usize,
        /// The column.
        name: String,
    },
    /// There is no column of names.
    #[error(
        "line {line}: there is no column `case`, the columns are {columns}",
        columns = COLUMNS.join(", ")
    )]
    NoCaseColumn {
        /// The line of the columns' names.
        line: usize,
    },
    /// There are more cases than are read.
    #[error("line {line}: more than {ROWS_MAX} cases, split the manifest")]
    TooManyRows {
        /// The line of the first one too many.
        line: usize,
    },
    /// A field's value cannot be used.
    #[error("line {line}, {field}: {value:?} {must}")]
    Field {
        /// The line.
        line: usize,
        /// The field.
        field: &'static str,
        /// Its value, or the beginning of it.
        value: String,
        /// What is wrong with it.
        must: &'static str,
    },
}

/// Reads a manifest.
///
/// # Errors
/// [`Error`] naming the line and the field.
pub fn parse(bytes: &[u8], format: Format) -> Result<Manifest, Error> {
    if bytes.len() > BYTES_MAX {
        return Err(Error::TooLarge(bytes.len()));
    }
    // Spreadsheets begin a file with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::NotUtf8 { line: line_at(bytes, e.valid_up_to()) })?;
    match format {
        Format::Csv => Ok(Manifest { rows: csv_rows(text)?, labels: None }),
        Format::Toml => from_toml(text),
    }
}

/// A case as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    case: String,
    patient: Option<String>,
    t1n: Option<String>,
    t1c: Option<String>,
    t2w: Option<String>,
    t2f: Option<String>,
    seg: Option<String>,
    labels: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    labels: Option<Spanned<String>>,
    #[serde(default)]
    cases: Vec<Spanned<Written>>,
}

fn from_toml(text: &str) -> Result<Manifest, Error> {
    let file: TomlFile = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text.as_bytes(), span.start));
        Error::Syntax { line, message: shortened(error.message(), 4 * WORD_MAX) }
    })?;
    let labels = file.labels.map(|word| {
        let line = line_at(text.as_bytes(), word.span().start);
        scheme(line, word.as_ref())
    });
    let labels = labels.transpose()?;
    let mut rows = Vec::new();
    let mut lines = Lines { text: text.as_bytes(), offset: 0, line: 1 };
    for written in file.cases {
        let line = lines.at(written.span().start);
        if rows.len() == ROWS_MAX {
            return Err(Error::TooManyRows { line });
        }
        let row = row(line, written.into_inner())?;
        let of_all = labels.filter(|_| row.segmentation.is_some());
        rows.push(Row { labels: row.labels.or(of_all), ..row });
    }
    Ok(Manifest { rows, labels })
}

fn csv_rows(text: &str) -> Result<Vec<Row>, Error> {
    let mut lines = (1..).zip(text.lines());
    let is_head = |(_, line): &(usize, &str)| !line.is_empty() && !line.starts_with('#');
    let (head_line, head) = lines.find(is_head).unwrap_or((1, ""));
    let delimiter = if head.contains(';') && !head.contains(',') { b';' } else { b',' };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut lines = Lines { text: text.as_bytes(), offset: 0, line: 1 };
    let columns = columns(head_line, reader.headers().map_err(|e| csv_fault(&e, &mut lines))?)?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| csv_fault(&e, &mut lines))?;
        let line = lines.of_record(record.position());
        if rows.len() == ROWS_MAX {
            return Err(Error::TooManyRows { line });
        }
        let mut written = Written::default();
        for (column, value) in columns.iter().zip(&record) {
            let value = (!value.is_empty()).then(|| value.to_owned());
            match *column {
                "case" => written.case = value.unwrap_or_default(),
                "patient" => written.patient = value,
                "t1n" => written.t1n = value,
                "t1c" => written.t1c = value,
                "t2w" => written.t2w = value,
                "t2f" => written.t2f = value,
                "seg" => written.seg = value,
                _ => written.labels = value,
            }
        }
        rows.push(row(line, written)?);
    }
    Ok(rows)
}

/// Which column is which.
fn columns(line: usize, head: &csv::StringRecord) -> Result<Vec<&'static str>, Error> {
    let mut columns: Vec<&'static str> = Vec::new();
    for name in head {
        match COLUMNS.into_iter().find(|known| *known == name && !columns.contains(known)) {
            Some(known) => columns.push(known),
            None => return Err(Error::Column { line, name: shortened(name, WORD_MAX) }),
        }
    }
    if columns.contains(&"case") { Ok(columns) } else { Err(Error::NoCaseColumn { line }) }
}

fn csv_fault(error: &csv::Error, lines: &mut Lines<'_>) -> Error {
    let line = lines.of_record(error.position());
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, the first line has {expected_len} columns")
        }
        _ => shortened(&error.to_string(), 4 * WORD_MAX),
    };
    Error::Syntax { line, message }
}

/// A case as it is meant.
fn row(line: usize, written: Written) -> Result<Row, Error> {
    let Written { case, patient, t1n, t1c, t2w, t2f, seg, labels } = written;
    name(line, "case", &case)?;
    if let Some(patient) = &patient {
        name(line, "patient", patient)?;
    }
    let path = |field, value: Option<String>| value.map(|v| path(line, field, v)).transpose();
    let labels = labels.map(|word| scheme(line, &word)).transpose()?;
    let scans = [path("t1n", t1n)?, path("t1c", t1c)?, path("t2w", t2w)?, path("t2f", t2f)?];
    Ok(Row { line, case, patient, scans, segmentation: path("seg", seg)?, labels })
}

fn scheme(line: usize, word: &str) -> Result<LabelScheme, Error> {
    word.parse().map_err(|_| {
        let must = "is no label scheme: brats2021, brats2023, brats_post or lesion";
        Error::Field { line, field: "labels", value: shortened(word, WORD_MAX), must }
    })
}

/// Whether a name is one, and fit to name files.
fn name(line: usize, field: &'static str, value: &str) -> Result<(), Error> {
    let must = if value.is_empty() {
        "is empty, every case needs one"
    } else if value.len() > NAME_BYTES_MAX {
        "is longer than 128 bytes"
    } else if value.starts_with('.') || value.contains(['/', '\\']) {
        "begins with a dot or holds a slash, which no file name may"
    } else if value.contains(char::is_control) {
        "holds a control character"
    } else {
        return Ok(());
    };
    Err(Error::Field { line, field, value: shortened(value, WORD_MAX), must })
}

fn path(line: usize, field: &'static str, value: String) -> Result<PathBuf, Error> {
    let must = if value.is_empty() {
        "is empty, leave the field out"
    } else if value.len() > PATH_BYTES_MAX {
        "is longer than 1024 bytes"
    } else if value.contains(char::is_control) {
        "holds a control character"
    } else {
        return Ok(PathBuf::from(value));
    };
    Err(Error::Field { line, field, value: shortened(&value, WORD_MAX), must })
}

/// The line that the byte at `offset` is on.
fn line_at(text: &[u8], offset: usize) -> usize {
    Lines { text, offset: 0, line: 1 }.at(offset)
}

/// Counts lines along a text, each of its bytes once.
struct Lines<'a> {
    text: &'a [u8],
    offset: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line of the byte at `offset`, which does not lie before the last one asked for.
    fn at(&mut self, offset: usize) -> usize {
        let passed = self.text.get(self.offset..offset).unwrap_or_default();
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count();
        self.offset = self.offset.max(offset.min(self.text.len()));
        self.line
    }

    /// The line of a record. The parser's own count stands before the blank lines and comments that
    /// lead up to it.
    fn of_record(&mut self, position: Option<&csv::Position>) -> usize {
        let start = position.map_or(0, |p| usize::try_from(p.byte()).unwrap_or(usize::MAX));
        let mut rest = self.text.get(start..).unwrap_or_default();
        loop {
            rest = match rest {
                [b'\r' | b'\n', rest @ ..] => rest,
                [b'#', ..] => {
                    let end = rest.iter().position(|&byte| byte == b'\n');
                    &rest[end.unwrap_or(rest.len())..]
                }
                _ => return self.at(self.text.len() - rest.len()),
            };
        }
    }
}

/// The beginning of a text, on one line.
fn shortened(text: &str, letters: usize) -> String {
    text.chars().take(letters).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
