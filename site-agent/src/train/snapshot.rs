//! A training as it stands between two steps: all that the next step depends on, as one file.
//!
//! The examples and the noise of a step follow from seeds and the step's number, so what is kept is the
//! weights, what the optimiser remembers, the loss scale, and what the report will be made of. Numbers
//! are kept by their bits. The file is safetensors, with the rest in one key of its metadata; nothing
//! here knows where it lies, or whose training it is beyond comparing keys.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use fedpaint_proto::names::{Digest, RunName, SiteName};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use super::optimiser::{Memory, Stock};
use super::report::{Course, Quarters};
use super::scaling::LossScale;

/// The version of the file. Another one is not read.
const FORMAT: u32 = 3;

/// The one key of the file's `__metadata__`.
const KEY: &str = "fedpaint.training";

/// The tensor that is the record of burn's optimiser, whose form is burn's own.
const RECORD: &str = "optimiser";

/// The longest header that is read: that of the largest model, thrice, and room.
const HEADER_BYTES_MAX: u64 = 8 << 20;

/// How many numbers are turned into bytes at a time.
const NUMBERS: usize = 4096;

/// Whose training it is. A snapshot with another key would lead to other bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The run.
    pub run: RunName,
    /// The round's number. The attempt is left out: another attempt is the same training.
    pub number: u32,
    /// The site.
    pub site: SiteName,
    /// The run's plan.
    pub plan: Digest,
    /// The model that the round began with.
    pub base: Digest,
    /// What is learnt from: which scans train, and what they hold.
    pub data: Digest,
    /// What computes: the device, or that it is a rehearsal.
    pub machine: String,
    /// Which build of the program, because another one may round otherwise.
    pub build: String,
}

/// A training after some steps. `T` holds numbers: borrowed to write them, owned once they are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<T> {
    /// What the steps came to so far.
    pub course: Course,
    /// The factor of f16's loss.
    pub scale: LossScale,
    /// The weights and what the optimiser keeps.
    pub memory: Memory<T>,
}

/// What is kept beside the tensors, f64 as bits.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    key: Key,
    examples: u64,
    quarters: [u64; 8],
    optimiser_steps: u32,
    /// By what names burn's optimiser knows the parameters, where it works.
    parameters: Option<Vec<u64>>,
    /// Its factor is a power of two, which text holds exactly.
    scale: LossScale,
}

/// Why a file is not a snapshot that can be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not read, or ends too soon.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not what this version writes.
    #[error("it is not a checkpoint of this version: {0}")]
    Format(String),
    /// It is of another training.
    #[error("it is of another training: run {}, round {}", .0.run, .0.number)]
    Foreign(Box<Key>),
}

impl<T> Snapshot<T> {
    /// Steps done.
    pub fn steps(&self) -> usize {
        self.course.losses.len()
    }
}

impl<T: AsRef<[f32]>> Snapshot<T> {
    /// The head of the file: the length of the header, and the header.
    ///
    /// # Errors
    /// If there is more than a file can say.
    pub fn header(&self, key: &Key) -> io::Result<Vec<u8>> {
        let Course { losses, examples, quarters, .. } = &self.course;
        let head = Head {
            format: FORMAT,
            key: key.clone(),
            examples: *examples,
            quarters: quarters.numbers().map(f64::to_bits),
            optimiser_steps: self.memory.steps,
            parameters: self.memory.stock.as_ref().map(|stock| stock.ids.clone()),
            scale: self.scale,
        };
        let mut end = 0;
        let mut info = |name: String, dtype, len: usize, bytes: usize| {
            let begin = end;
            end += len * bytes;
            (name, TensorInfo { dtype, shape: vec![len], data_offsets: (begin, end) })
        };
        let mut infos: Vec<(String, TensorInfo)> = ["losses", "norms"]
            .into_iter()
            .map(|name| info(name.into(), Dtype::F64, losses.len(), size_of::<f64>()))
            .collect();
        infos.extend(self.memory.tensors.iter().enumerate().map(|(i, tensor)| {
            info(format!("{i:05}"), Dtype::F32, tensor.as_ref().len(), size_of::<f32>())
        }));
        let record = self.memory.stock.iter().map(|stock| stock.record.len());
        infos.extend(record.map(|bytes| info(RECORD.into(), Dtype::U8, bytes, 1)));
        let head = HashMap::from([(KEY.to_owned(), serde_json::to_string(&head)?)]);
        let metadata = Metadata::new(Some(head), infos).map_err(io::Error::other)?;
        let mut header = serde_json::to_vec(&metadata)?;
        // Numbers begin at a multiple of eight bytes, as the format asks.
        header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
        Ok([&(header.len() as u64).to_le_bytes()[..], &header].concat())
    }

    /// Writes all that follows the head.
    ///
    /// # Errors
    /// If `to` does.
    pub fn write_numbers(&self, to: &mut dyn Write) -> io::Result<()> {
        for numbers in [&self.course.losses, &self.course.norms] {
            for some in numbers.chunks(NUMBERS) {
                let bytes: Vec<u8> = some.iter().flat_map(|number| number.to_le_bytes()).collect();
                to.write_all(&bytes)?;
            }
        }
        for tensor in &self.memory.tensors {
            for some in tensor.as_ref().chunks(NUMBERS) {
                let bytes: Vec<u8> = some.iter().flat_map(|number| number.to_le_bytes()).collect();
                to.write_all(&bytes)?;
            }
        }
        match &self.memory.stock {
            Some(stock) => to.write_all(&stock.record),
            None => Ok(()),
        }
    }
}

impl Snapshot<Vec<f32>> {
    /// Reads a file whose bytes are known to be as they were written.
    ///
    /// # Errors
    /// If it is not a snapshot of `key`'s training.
    pub fn read(from: &mut impl Read, key: &Key) -> Result<Snapshot<Vec<f32>>, Error> {
        let wrong = |what: &dyn std::fmt::Display| Error::Format(what.to_string());
        let mut prefix = [0; size_of::<u64>()];
        from.read_exact(&mut prefix)?;
        let bytes = u64::from_le_bytes(prefix);
        if bytes > HEADER_BYTES_MAX {
            return Err(wrong(&format_args!("its header has {bytes} bytes")));
        }
        let mut header = vec![0; bytes as usize];
        from.read_exact(&mut header)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(&e))?;
        let head = metadata.metadata().as_ref().and_then(|head| head.get(KEY));
        let head = head.ok_or_else(|| wrong(&"its header does not say of what"))?;
        let head: Head = serde_json::from_str(head).map_err(|e| wrong(&e))?;
        if head.format != FORMAT {
            return Err(wrong(&format_args!("its format is {}", head.format)));
        }
        if head.key != *key {
            return Err(Error::Foreign(Box::new(head.key)));
        }
        let (mut course, mut tensors, mut record) = (Vec::new(), Vec::new(), None);
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
            from.read_exact(&mut bytes)?;
            match info.dtype {
                Dtype::F64 => course.push(numbers(&bytes, f64::from_le_bytes)),
                Dtype::F32 => tensors.push(numbers(&bytes, f32::from_le_bytes)),
                Dtype::U8 if name == RECORD => record = Some(bytes),
                other => return Err(wrong(&format_args!("{name} is of {other:?}"))),
            }
        }
        let [losses, norms]: [Vec<f64>; 2] =
            course.try_into().map_err(|_| wrong(&"its losses or norms are missing"))?;
        let quarters = Quarters::from_numbers(head.quarters.map(f64::from_bits));
        let stock = match (head.parameters, record) {
            (Some(ids), Some(record)) => Some(Stock { ids, record }),
            (None, None) => None,
            _ => return Err(wrong(&"of its optimiser's record a part is missing")),
        };
        Ok(Snapshot {
            course: Course { losses, norms, examples: head.examples, quarters },
            scale: head.scale,
            memory: Memory { steps: head.optimiser_steps, tensors, stock },
        })
    }
}

/// Little-endian bytes as numbers.
fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|word| number(*word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::precision::Precision;

    fn key() -> Key {
        Key {
            run: "brain".parse().unwrap(),
            number: 3,
            site: "mayo".parse().unwrap(),
            plan: Digest::of(b"plan"),
            base: Digest::of(b"base"),
            data: Digest::of(b"scans"),
            machine: "cpu".into(),
            build: "1".into(),
        }
    }

    fn snapshot() -> Snapshot<Vec<f32>> {
        let mut quarters = Quarters::default();
        quarters.add(3, 10, 0.1, 1.0 / 3.0);
        Snapshot {
            course: Course {
                losses: vec![0.1, 1.0 / 3.0, 5e-324],
                norms: vec![1.5, 2.5, 1e300],
                examples: 12,
                quarters,
            },
            scale: LossScale::new(Precision::F16).held().held(),
            memory: Memory {
                steps: 3,
                tensors: vec![vec![1.0, -0.0, f32::MIN_POSITIVE], vec![], vec![0.1; 5000]],
                stock: None,
            },
        }
    }

    /// The same where burn's optimiser works.
    fn of_burns() -> Snapshot<Vec<f32>> {
        let stock = Some(Stock { ids: vec![7, u64::MAX], record: vec![1, 2, 3] });
        Snapshot { memory: Memory { stock, ..snapshot().memory }, ..snapshot() }
    }

    fn bytes(snapshot: &Snapshot<Vec<f32>>) -> Vec<u8> {
        let mut bytes = snapshot.header(&key()).unwrap();
        snapshot.write_numbers(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_snapshot_survives_its_file_bit_for_bit() {
        for snapshot in [snapshot(), of_burns()] {
            let bytes = bytes(&snapshot);
            let read = Snapshot::read(&mut &bytes[..], &key()).unwrap();
            assert_eq!(read, snapshot);
            assert_eq!(self::bytes(&read), bytes);
            assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok());
        }
    }

    #[test]
    fn a_snapshot_of_another_training_is_not_gone_on_with() {
        let bytes = bytes(&snapshot());
        let others: [fn(&mut Key); 8] = [
            |key| key.run = "other".parse().unwrap(),
            |key| key.number = 4,
            |key| key.site = "ljubljana".parse().unwrap(),
            |key| key.plan = Digest::of(b"other"),
            |key| key.base = Digest::of(b"other"),
            |key| key.data = Digest::of(b"all scans but one"),
            |key| key.machine = "gpu:0".into(),
            |key| key.build = "2".into(),
        ];
        for change in others {
            let mut other = key();
            change(&mut other);
            let read = Snapshot::read(&mut &bytes[..], &other);
            assert!(matches!(read, Err(Error::Foreign(found)) if *found == key()), "{other:?}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = bytes(&snapshot());
        for len in [0, 4, 8, 100, bytes.len() / 2, bytes.len() - 1] {
            assert!(Snapshot::read(&mut &bytes[..len], &key()).is_err(), "{len}");
        }
    }
}
