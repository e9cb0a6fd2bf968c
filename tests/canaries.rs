//! What leaves a hospital, and what does not: secrets planted in scans, in their names and in the folders that
//! they lie in are looked for in everything that comes out of the site, while it trains and where it fails, and
//! in the site's own log, which people send to others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use fedpaint_proto::enrolment::Token;
use fedpaint_proto::v1;
use fedpaint_tests::canary::Canary;
use fedpaint_tests::lab::{AgentOptions, Lab};
use fedpaint_tests::process::{Process, children, output, pid, run};
use fedpaint_tests::syscalls::{self, inet};
use fedpaint_tests::tap::Tap;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::agents::{cohort, initial_model};
use crate::joining::{command, federation, invited};
use crate::plan;

/// Few steps, with everything that a training says.
const TRAINING: &str = "\n[training]\nsteps = 3\nbatch = 2\nseed = 7\n";

/// If it is set, the test fails where there is no strace.
const STRACE_REQUIRED: &str = "TEST_STRACE_REQUIRED";

/// The secrets: ours, and those that the DICOM fixtures have in their headers.
fn canaries() -> Vec<Canary> {
    [
        ("a patient's name", "ostacio2tacit10esice"),
        ("a folder's name", "tacosicate02eciotas"),
        ("a NIfTI file's description", "coate1o2sitisectaces"),
        ("a NIfTI file's auxiliary name", "iscotea2tosiec0ta"),
        ("a broken scan's name", "sitotec0asico2ties"),
        ("the folder of a split and a cache", "ecasot2aictose0tis"),
        ("a case in a split", "tosica1eteocas2ti"),
        ("a patient's name in DICOM", "geheim"),
        ("an institution's or a referrer's name in DICOM", "berweiser"),
        ("the root of every UID in DICOM", "1.2.826"),
        ("a birth date in DICOM", "19991231"),
    ]
    .map(|(what, text)| Canary::new(what, text))
    .into()
}

fn canary(what: &str) -> String {
    canaries().iter().find(|canary| canary.what == what).unwrap().text().to_owned()
}

/// A hospital's scans: two NIfTI patients with secrets in their names and headers, one that is broken, and an
/// imported DICOM export.
fn scans(folder: &Path) -> PathBuf {
    cohort(folder, "phantoms", 2, "A");
    let scans = folder.join(canary("a folder's name")).join("scans");
    std::fs::create_dir_all(&scans).unwrap();
    let patient = canary("a patient's name");
    for entry in std::fs::read_dir(folder.join("phantoms")).unwrap().flatten() {
        let (name, to) = (entry.file_name().into_string().unwrap(), scans.clone());
        if !entry.path().is_dir() {
            continue;
        }
        let case = name.replace("Phantom-A", &patient);
        std::fs::create_dir_all(to.join(&case)).unwrap();
        let files = std::fs::read_dir(entry.path()).unwrap().flatten();
        for file in files.filter(|file| file.path().is_file()) {
            let named = file.file_name().into_string().unwrap().replace(&name, &case);
            mark(&file.path(), &to.join(&case).join(named));
        }
    }
    let broken = canary("a broken scan's name");
    std::fs::create_dir_all(scans.join(&broken)).unwrap();
    let gzip = [0x1f, 0x8b, 8, 0, 0];
    std::fs::write(scans.join(&broken).join(format!("{broken}-t1n.nii.gz")), gzip).unwrap();
    let export = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../site-agent/tests/fixtures/dicom/study")
        .display()
        .to_string();
    let out = scans.display().to_string();
    run("fedpaint-site-agent", &["data", "import", &export, "--out", &out, "--assign", "9=t1c"])
        .unwrap();
    scans
}

/// A manifest for the same folder: one of its patients, a series as a scanner made it, with all that its headers
/// tell, and one of which a slice is missing.
fn list_dicom(scans: &Path) {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../site-agent/tests/fixtures/dicom/plain");
    let (patient, broken) = (canary("a patient's name"), canary("a broken scan's name"));
    let (whole, holed) = (format!("{patient}-dicom"), format!("{broken}-dicom"));
    for (folder, missing) in [(&whole, None), (&holed, Some("IM0002"))] {
        std::fs::create_dir_all(scans.join(folder)).unwrap();
        for entry in std::fs::read_dir(&fixture).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("IM") && missing != Some(&*name) {
                std::fs::copy(entry.path(), scans.join(folder).join(name)).unwrap();
            }
        }
    }
    let case = std::fs::read_dir(scans).unwrap().flatten().map(|entry| entry.file_name());
    let mut case = case.filter_map(|name| name.into_string().ok());
    let case = case.find(|name| name.starts_with(&patient) && *name != whole).unwrap();
    let rows = [
        (&case, format!("{case}/{case}-t1n.nii.gz")),
        (&whole, whole.clone()),
        (&holed, holed.clone()),
    ];
    let table =
        |(case, t1n)| format!("[[cases]]\ncase = {case:?}\npatient = {case:?}\nt1n = {t1n:?}\n");
    std::fs::write(scans.join("manifest.toml"), rows.map(table).concat()).unwrap();
}

/// Writes secrets into the header of a NIfTI-1 file: its description and its auxiliary file's name.
fn mark(from: &Path, to: &Path) {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(from).unwrap()).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes[..4], 348_i32.to_le_bytes(), "{}", from.display());
    for (at, what) in [(148, "a NIfTI file's description"), (228, "a NIfTI file's auxiliary name")]
    {
        let text = canary(what);
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    let mut file = GzEncoder::new(std::fs::File::create(to).unwrap(), Compression::fast());
    file.write_all(&bytes).unwrap();
    file.finish().unwrap();
}

/// Everything that has come out of the site, by where it was found.
fn outside(lab: &Lab, tap: &Tap, metrics: &str) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for (n, bytes) in tap.said().into_iter().enumerate() {
        found.push((format!("what was said, way {n}"), bytes));
    }
    for (n, bytes) in tap.wire().into_iter().enumerate() {
        found.push((format!("the wire, way {n}"), bytes));
    }
    // The database with its journal, blobs, parts of uploads.
    found.extend(files(PathBuf::from(lab.path("coordinator"))));
    for log in ["coordinator.log", "mayo.log"] {
        found.push((log.into(), std::fs::read(lab.path(log)).unwrap()));
    }
    for page in ["/metrics", "/healthz"] {
        found.push((page.into(), get(metrics, page)));
    }
    for args in [
        &["status"][..],
        &["run", "list"],
        &["run", "show", "good"],
        &["run", "show", "bad"],
        &["run", "show", "dicom"],
        &["round", "list", "good"],
        &["round", "list", "bad"],
        &["round", "list", "dicom"],
        &["model", "list", "good"],
        &["events"],
        &["site", "list"],
    ] {
        for output in ["table", "json"] {
            let all = [&["--output", output], args].concat();
            found.push((format!("fedctl {all:?}"), lab.fedctl(&all).unwrap().into_bytes()));
        }
    }
    found
}

/// Every file below a folder by its path, and the names of all that is there.
fn files(folder: PathBuf) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            found.push(("a file's name".into(), entry.file_name().into_encoded_bytes()));
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    let bytes = std::fs::read(entry.path()).unwrap();
                    found.push((entry.path().display().to_string(), bytes));
                }
            }
        }
    }
    found
}

pub(crate) fn get(address: &str, page: &str) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).unwrap();
    let request = format!("GET {page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).unwrap();
    answer
}

/// Whether there is a strace that may look at our processes; if not, says what is not tested.
pub(crate) fn has_strace(untested: &str) -> bool {
    let works = Command::new("strace")
        .args(["-f", "-qq", "--seccomp-bpf", "-e", "trace=network", "-o", "/dev/null", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    assert!(works || std::env::var_os(STRACE_REQUIRED).is_none(), "strace is absent");
    if !works {
        eprintln!("strace is absent: {untested} is not tested");
    }
    works
}

/// Has the agent end as an operator does, and waits for it; under strace it is the tracer's child.
pub(crate) fn stop(mut agent: Process, traced: bool) {
    let ended = match traced {
        true => {
            let own = pid(children(agent.id())[0]).unwrap();
            rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
            agent.stop()
        }
        false => agent.stop(),
    };
    assert!(ended.unwrap().success(), "{}", agent.log().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_scan_leaves_the_site_and_the_agent_reaches_the_coordinator_and_nobody_else()
{
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = Lab::start(&folder.join("lab")).unwrap();
    let status = lab.status_address().to_owned();
    let scans = scans(folder);
    let base = initial_model(folder);
    let model = folder.join("initial.safetensors");
    lab.enroll("mayo").unwrap();
    let tap = Tap::start(&lab, "mayo").await.unwrap();
    lab.create_run("good", &plan(1, 1, 1, TRAINING), &model, base).await.unwrap();

    let traced = has_strace("what the agent's calls reach");
    let traces = ["trace", "second-trace"].map(|name| folder.join(name));
    let options = |trace: &Path| AgentOptions {
        coordinator: Some(tap.address()),
        trace: traced.then(|| trace.into()),
        ..AgentOptions::default()
    };
    let agent = lab.start_agent("mayo", &scans, &options(&traces[0])).unwrap();
    let finished = lab.watch("good", |run, _| run.state() == v1::RunState::Finished).await;
    let (_, round) = finished.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
    assert_eq!(round.members[0].examples, 6, "it has trained");

    // Once more, while the scans are gone: what fails must not tell where they were.
    let away = scans.with_file_name("away");
    std::fs::rename(&scans, &away).unwrap();
    lab.create_run("bad", &plan(1, 1, 1, TRAINING), &model, base).await.unwrap();
    let paused = lab.watch("bad", |run, _| run.state() == v1::RunState::Paused).await;
    paused.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));

    stop(agent, traced);

    // And from DICOM as it is, which only a manifest lets a training read.
    std::fs::rename(&away, &scans).unwrap();
    list_dicom(&scans);
    let agent = lab.start_agent("mayo", &scans, &options(&traces[1])).unwrap();
    lab.create_run("dicom", &plan(1, 1, 1, TRAINING), &model, base).await.unwrap();
    let finished = lab.watch("dicom", |run, _| run.state() == v1::RunState::Finished).await;
    finished.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));

    let found = outside(&lab, &tap, &status);
    for (place, bytes) in &found {
        for canary in canaries() {
            let form = canary.found_in(bytes);
            assert!(
                form.is_none(),
                "{} is in {place} as {}: {}",
                canary.what,
                form.unwrap_or_default(),
                String::from_utf8_lossy(&bytes[..bytes.len().min(20_000)])
            );
        }
    }
    // What was looked at is what there is to look at: the same eyes find what does leave.
    for (text, there) in [
        ("mayo", "coordinator.db"),
        ("mayo", "coordinator.log"),
        ("a case is set aside", "mayo.log"),
        ("kind=\"dicom\"", "mayo.log"),
        ("data check", "mayo.log"),
        ("mayo", "/metrics"),
        ("mayo", "fedctl"),
        ("good", "what was said"),
        ("0.1.0", "what was said"),
    ] {
        let places = found.iter().filter(|(place, _)| place.contains(there));
        let known = Canary::new("what may be known", text);
        let seen = places.filter(|(_, bytes)| known.found_in(bytes).is_some()).count();
        assert!(seen > 0, "{text} is nowhere in {there}");
    }
    let wire = found.iter().filter(|(place, _)| place.contains("the wire"));
    assert!(wire.map(|(_, bytes)| bytes.len()).sum::<usize>() > 10_000, "an update went by");
    let update = found.iter().filter(|(place, _)| place.contains("/blobs/"));
    assert!(update.filter(|(_, bytes)| bytes.len() > 10_000).count() >= 3, "base, update, model");
    stop(agent, traced);
    for trace in traces.iter().filter(|_| traced) {
        let text = std::fs::read_to_string(trace).unwrap();
        let used = syscalls::read(&text).unwrap();
        let only = [inet("127.0.0.1", tap.port())];
        assert!(used.reached.iter().eq(&only), "{:?}", used.reached);
        assert!(used.reachable.is_empty(), "{:?}", used.reachable);
    }
}

/// What a split file may hold that is none, and where else it may be damaged: in each of them a case is named.
fn damaged_splits() -> [String; 4] {
    let case = canary("a case in a split");
    [
        format!("{{\"version\": 2, \"cases\": \"{case}\"}}"),
        format!("{{\"version\": 2, \"cases\": [{{\"case\": \"x\", \"part\": \"{case}\"}}]}}"),
        format!("{{\"version\": \"{case}\", \"cases\": []}}"),
        format!("{{\"version\": 2, \"cases\": [{{\"case\": \"{case}\","),
    ]
}

/// Flips a bit in the middle of every entry of a cache; how many there are.
fn damage(cache: &Path) -> usize {
    let entries = std::fs::read_dir(cache.join("prepared-v1")).unwrap().flatten();
    let entries = entries.map(|entry| entry.path());
    let entries: Vec<_> =
        entries.filter(|path| path.extension() == Some("case".as_ref())).collect();
    for path in &entries {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    entries.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_and_no_case_of_a_split_or_a_cache_is_in_a_log_whatever_is_wrong_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = Lab::start(&folder.join("lab")).unwrap();
    let scans = scans(folder);
    let base = initial_model(folder);
    let model = folder.join("initial.safetensors");
    lab.enroll("mayo").unwrap();
    let secret = folder.join(canary("the folder of a split and a cache"));
    std::fs::create_dir(&secret).unwrap();
    let (split, cache) = (secret.join("split.json"), secret.join("cache"));
    let options = AgentOptions {
        data: format!("label_scheme = \"brats2023\"\nsplit = {split:?}\ncache = {cache:?}\n"),
        ..AgentOptions::default()
    };
    let start = || lab.start_agent("mayo", &scans, &options).unwrap();

    // Nothing of it reads: the agent does not begin.
    for text in damaged_splits() {
        std::fs::write(&split, text).unwrap();
        assert!(!start().wait().unwrap().success());
    }
    std::fs::remove_file(&split).unwrap();
    std::fs::write(&cache, "no folder").unwrap();
    assert!(!start().wait().unwrap().success());
    std::fs::remove_file(&cache).unwrap();

    // All is well, and then the cache loses bits.
    for run in ["well", "harmed"] {
        let mut agent = start();
        lab.create_run(run, &plan(1, 1, 1, TRAINING), &model, base).await.unwrap();
        let finished = lab.watch(run, |run, _| run.state() == v1::RunState::Finished).await;
        finished.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
        assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());
        assert!(damage(&cache) > 0, "{run}");
    }
    let held = std::fs::read(&split).unwrap();
    let patient = Canary::new("a patient", &canary("a patient's name"));
    assert!(patient.found_in(&held).is_some(), "the split names its cases");

    // The folder of both goes away under an agent that has trained.
    let mut agent = start();
    for (run, state) in [("there", v1::RunState::Finished), ("gone", v1::RunState::Paused)] {
        lab.create_run(run, &plan(1, 1, 1, TRAINING), &model, base).await.unwrap();
        let seen = lab.watch(run, |run, _| run.state() == state).await;
        seen.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
        if run == "there" {
            std::fs::remove_dir_all(&secret).unwrap();
        }
    }
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());

    for name in ["mayo.log", "coordinator.log"] {
        let log = std::fs::read(lab.path(name)).unwrap();
        for canary in canaries() {
            let form = canary.found_in(&log);
            let text = String::from_utf8_lossy(&log);
            assert!(form.is_none(), "{} is in {name}: {text}", canary.what);
        }
    }
    // Each of them is told all the same.
    let log = std::fs::read_to_string(lab.path("mayo.log")).unwrap();
    let told =
        ["line 1 column", "the cache, `data.cache`", "is made again", "the split, `data.split`"];
    for words in told {
        assert!(log.contains(words), "{words}: {log}");
    }
}

/// The secret of a token as it may be written: as in the token, in hexadecimal digits, as numbers.
fn written(token: &Token) -> [Canary; 3] {
    let text = token.to_string();
    let hex: String = token.secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers = token.secret.map(|byte| byte.to_string()).join(", ");
    [
        Canary::new("a token's secret", text.rsplit_once('.').unwrap().1),
        Canary::new("a token's secret in hexadecimal", &hex),
        Canary::new("a token's secret as numbers", &numbers),
    ]
}

#[test]
fn the_secret_of_a_token_is_in_no_file_and_no_answer_whether_it_lets_somebody_in_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = federation(folder);
    let text = invited(&lab, "mayo");
    let token: Token = text.parse().unwrap();
    let swapped = Token { site: "oslo".parse().unwrap(), ..token.clone() }.to_string();
    let mut found = Vec::new();
    // It lets the site in; then it comes with other keys, and for a site that nobody has invited.
    for (token, out, lets_in) in
        [(&text, "mayo", true), (&text, "two", false), (&swapped, "oslo", false)]
    {
        let join = command(&lab, token, &folder.join(out));
        let ended = output("fedpaint-site-agent", &join).unwrap();
        assert_eq!(ended.status.success(), lets_in, "{out}, {}", ended.status);
        found.push((format!("what join says, {out}"), [ended.stdout, ended.stderr].concat()));
    }
    lab.fedctl(&["audit", "export", "--out", &lab.path("log.jsonl")]).unwrap();
    for args in [&["events"][..], &["site", "list"], &["status"]] {
        for output in ["table", "json"] {
            let all = [&["--output", output], args].concat();
            found.push((format!("fedctl {all:?}"), lab.fedctl(&all).unwrap().into_bytes()));
        }
    }
    for page in ["/metrics", "/healthz"] {
        found.push((page.into(), get(lab.status_address(), page)));
    }
    // The coordinator's files and logs, and the site's.
    found.extend(files(folder.into()));
    for (place, bytes) in &found {
        for canary in written(&token) {
            let form = canary.found_in(bytes);
            assert!(form.is_none(), "{} is in {place} as {form:?}", canary.what);
        }
        let is_raw = bytes.windows(token.secret.len()).any(|some| some == token.secret);
        assert!(!is_raw, "a token's secret is in {place}");
    }
    // What was looked at is what there is to look at: the same eyes find what is kept of it, and what is told.
    let digest = token.secret_digest().to_string();
    for (text, there) in [
        (digest.as_str(), "coordinator.db"),
        ("join_refused", "fedctl"),
        ("stranger_refused", "log.jsonl"),
        ("a stranger is refused", "coordinator.log"),
        ("mayo", "site-agent.toml"),
        ("joined; next", "what join says"),
    ] {
        let places = found.iter().filter(|(place, _)| place.contains(there));
        let known = Canary::new("what may be known", text);
        let seen = places.filter(|(_, bytes)| known.found_in(bytes).is_some()).count();
        assert!(seen > 0, "{text} is nowhere in {there}");
    }
}
