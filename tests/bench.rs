//! The benchmarks: they run, and their last lines say all that they promise.

use fedpaint_tests::process::run;
use serde_json::Value;

fn bench(args: &[&str]) -> Value {
    let fixed = ["--preset", "tiny", "--batch", "2", "--steps", "3", "--warmup", "1", "--json"];
    let args: Vec<&str> = fixed.iter().chain(args).copied().collect();
    let text = run("bench-train", &args).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn the_benchmark_times_real_steps_and_says_where_their_time_goes() {
    let report = bench(&["--turns", "1", "--threads", "1", "--device", "cpu"]);
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
    let (step, min) = (number("step_ms"), number("min_ms"));
    assert!(0.0 < min && min <= step, "{report}");
    // 2 slices of 3 x 128 MFLOP, by the step's time.
    assert!((number("gflops") * step / 1e3 / (6.0 * 0.128_166_656) - 1.0).abs() < 1e-9, "{report}");
    assert_eq!(report["threads"], 1);
    assert_eq!(number("parameters"), 344_673.0);
    assert!(number("peak_rss_bytes") > 1e6, "{report}");
    let operations = report["operations"].as_object().unwrap();
    for operation in ["lesson", "forward", "backward", "optimiser"] {
        assert!(operations[operation].as_f64().unwrap() > 0.0, "{report}");
    }
    // Each is a median of its own, so that they need not add up to the step's to the digit.
    let sum: f64 = operations.values().map(|ms| ms.as_f64().unwrap()).sum();
    assert!((0.2..5.0).contains(&(sum / step)), "{report}");
}

#[test]
fn memory_does_not_grow_with_the_steps() {
    let peak = |steps: usize| {
        let steps = steps.to_string();
        let args =
            ["bench", "--preset", "tiny", "--batch", "1", "--threads", "1", "--steps", &steps];
        let text = run("fedpaint-site-agent", &args).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        report["peak_rss_bytes"].as_f64().unwrap()
    };
    // The network's smallest map, 8 x 8 x 32, kept by each of the 400 steps between, would come to 3.3 MB.
    let (few, many) = (peak(100), peak(500));
    println!("peak of 100 steps {few}, of 500 {many}");
    assert!(many < few + 2e6, "{few} {many}");
}

#[test]
fn the_same_steps_are_taken_whatever_the_threads() {
    let said = |threads: &str| {
        let args = ["bench", "--preset", "tiny", "--batch", "2", "--steps", "3"];
        let args: Vec<&str> = args.into_iter().chain(["--threads", threads]).collect();
        let report: Value =
            serde_json::from_str(&run("fedpaint-site-agent", &args).unwrap()).unwrap();
        (report["losses"].clone(), report["gradient_norms"].clone())
    };
    let one = said("1");
    assert_eq!(one.0.as_array().unwrap().len(), 5);
    assert_eq!(one, said("3"));
}

#[test]
fn the_benchmark_of_rounds_says_what_they_and_the_machine_took() {
    let args = ["--sites", "2", "--params", "100000", "--rounds", "2", "--json"];
    let text = run("bench-round", &args).unwrap();
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let number = |key: &str| {
        let value = report.pointer(&format!("/{}", key.replace('.', "/")));
        let value = value.and_then(Value::as_f64).unwrap_or_else(|| panic!("{key}: {report}"));
        assert!(value >= 0.0, "{key}: {report}");
        value
    };
    assert_eq!((number("sites"), number("rounds")), (2.0, 2.0));
    let model = number("model_bytes");
    assert!((4e5..4.1e5).contains(&model), "{report}");
    // The base model to both and an update of each back, twice.
    assert!(number("wire_bytes") >= 2.0 * 4.0 * model, "{report}");
    let (warm, floor) = (number("warm_round_s"), number("floor_s"));
    assert!(warm > 0.0 && floor > 0.0, "{report}");
    let ratio = number("ratio_to_floor");
    // They are told to the tenth of a millisecond and to the thousandth.
    assert!((ratio * floor - warm).abs() < 1e-4 * (ratio + 1.0) + 1e-3 * floor, "{report}");
    let part = |of: &str| number(&format!("floor.{of}_s"));
    let parts = part("download") + part("upload") + part("files");
    assert!((parts - floor).abs() < 1e-3, "{report}");
    // Of the one round that is warm.
    let split = ["join", "download", "train", "upload", "verify", "aggregate", "publish"];
    let sum: f64 = split.iter().map(|of| number(&format!("split.{of}_s"))).sum();
    assert!((sum - warm).abs() < 1e-3, "{report}");
    for of in ["rustls", "write_sync", "memory_copy", "blake3"] {
        assert!(number(&format!("machine.{of}_mb_s")) > 0.0, "{report}");
    }
    for of in ["coordinator", "agent", "trainer"] {
        assert!(number(&format!("{of}_peak_rss_bytes")) > 1e6, "{report}");
    }
}
