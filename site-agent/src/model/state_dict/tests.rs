//! What goes in and out as a PyTorch state dict, and what is refused.

use super::super::spec::Preset;
use super::*;

/// Tensors as a file has them.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn spec() -> ModelSpec {
    ModelSpec::preset(Preset::Tiny)
}

fn tiny() -> Weights {
    Weights::init(&spec(), 5).unwrap()
}

/// The tensors of a model, every value as `bytes` writes it.
fn tensors(weights: &Weights, dtype: Dtype, bytes: impl Fn(f32) -> Vec<u8>) -> Tensors {
    let data = |values: &[f32]| values.iter().flat_map(|&value| bytes(value)).collect();
    weights.iter().map(|(t, v)| (t.name.clone(), (dtype, t.shape.clone(), data(v)))).collect()
}

fn f32_tensors() -> Tensors {
    tensors(&tiny(), Dtype::F32, |value| value.to_le_bytes().to_vec())
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn refusal(tensors: &Tensors) -> String {
    adopt(&file(tensors), &spec(), 1).unwrap_err().to_string()
}

#[test]
fn a_model_written_as_a_state_dict_and_adopted_again_is_the_same_bytes() {
    let state = to_bytes(&tiny()).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&state).unwrap();
    let only = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    assert_eq!(metadata.metadata(), &Some(only));
    assert!(!carries_spec(&state).unwrap());
    let again = adopt(&state, &spec(), 99).unwrap();
    let bytes = |weights: &Weights| super::super::checkpoint::to_bytes(weights).unwrap();
    assert_eq!(bytes(&again), bytes(&tiny()));
    assert!(carries_spec(&bytes(&again)).unwrap());
}

#[test]
fn every_float_type_is_read_and_rounded_to_the_nearest_f32() {
    let of = |tensors: &Tensors| adopt(&file(tensors), &spec(), 0).unwrap();
    let wide = tensors(&tiny(), Dtype::F64, |v| f64::from(v).to_le_bytes().to_vec());
    assert_eq!(of(&wide), tiny());
    // bf16 is the upper half of an f32.
    let brain = tensors(&tiny(), Dtype::BF16, |v| v.to_le_bytes()[2..].to_vec());
    let cut = |v: &f32| f32::from_bits(v.to_bits() & 0xffff_0000);
    let expected = tiny().iter().map(|(_, v)| v.iter().map(cut).collect()).collect();
    assert_eq!(of(&brain), tiny().with_values(expected).unwrap());
    // One value of every kind: -2, the largest, the smallest normal, the smallest subnormal.
    let halves: [u16; 4] = [0xc000, 0x7bff, 0x0400, 0x0001];
    let data: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F16, vec![4], &data).unwrap();
    assert_eq!(floats(&view).unwrap(), [-2.0, 65504.0, 6.103_515_6e-5, 5.960_464_5e-8]);
}

#[test]
fn a_state_dict_without_a_null_condition_gets_that_of_a_new_model() {
    let mut old = f32_tensors();
    old.remove(NULL_CONDITION);
    let adopted = adopt(&file(&old), &spec(), 7).unwrap();
    let fresh = Weights::init(&spec(), 7).unwrap();
    for ((tensor, found), ((_, kept), (_, new))) in
        adopted.iter().zip(tiny().iter().zip(fresh.iter()))
    {
        let expected = if tensor.name == NULL_CONDITION { new } else { kept };
        assert_eq!(found, expected, "{}", tensor.name);
    }
}

#[test]
fn everything_that_does_not_fit_is_named_at_once() {
    let mut bent = f32_tensors();
    bent.remove("out.2.bias");
    bent.insert("module.out.2.bias".into(), (Dtype::F32, vec![1], vec![0; 4]));
    bent.get_mut("time_embed.0.weight").unwrap().1 = vec![16, 64];
    bent.insert("out.0.bias".into(), (Dtype::I64, vec![16], vec![0; 128]));
    let error = refusal(&bent);
    for named in [
        "out.2.bias is missing, ",
        "time_embed.0.weight has shape [16, 64] and not [64, 16]",
        "out.0.bias is of type I64",
        ", module.out.2.bias is not part of the model",
    ] {
        assert!(error.contains(named), "{named}: {error}");
    }
    assert!(!error.contains("more"), "{error}");
}

#[test]
fn of_many_misfits_ten_are_named_and_the_others_counted() {
    let error = refusal(&Tensors::new());
    assert_eq!(error.matches("is missing").count(), MAX_NAMED);
    assert!(error.ends_with(", and 160 more"), "{error}");
    let mut strange = f32_tensors();
    strange.insert("x\n".repeat(1000), (Dtype::F32, vec![0], vec![]));
    let error = refusal(&strange);
    assert!(error.len() < 300 && error.lines().count() == 1, "{error}");
}

#[test]
fn a_value_that_no_f32_can_hold_is_refused_by_name() {
    let mut large = f32_tensors();
    let data = 1e300_f64.to_le_bytes().to_vec();
    large.insert("out.2.bias".into(), (Dtype::F64, vec![1], data));
    assert!(refusal(&large).contains("out.2.bias holds inf"));
}

#[test]
fn a_pickle_is_refused_with_the_line_that_converts_it() {
    for start in [&b"PK\x03\x04\x00\x00\x08\x08\x00\x00"[..], b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"] {
        let error = adopt(start, &spec(), 0).unwrap_err();
        assert!(matches!(error, StateError::Pickle), "{error}");
        assert!(error.to_string().contains("weights_only=True"), "{error}");
    }
    // A header of 640 bytes begins as a pickle of protocol 2 does, and is none.
    let mut bytes = 640_u64.to_le_bytes().to_vec();
    bytes.extend(format!("{:640}", "{}").into_bytes());
    assert!(matches!(adopt(&bytes, &spec(), 0), Err(StateError::Misfits(_))));
}

#[test]
fn a_file_that_is_cut_or_claims_too_much_is_refused() {
    let bytes = file(&f32_tensors());
    for len in [0, 7, 100, bytes.len() - 1] {
        assert!(adopt(&bytes[..len], &spec(), 0).is_err(), "{len}");
    }
    let huge = [&u64::MAX.to_le_bytes()[..], b"{"].concat();
    assert!(matches!(adopt(&huge, &spec(), 0), Err(StateError::HeaderTooLarge { .. })));
}
