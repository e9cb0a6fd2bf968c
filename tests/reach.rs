//! What a site reaches that knows the coordinator by its host's name: the coordinator, and where names are looked
//! up. From its first call, by which it joins, on.

use std::path::Path;

use fedpaint_proto::v1;
use fedpaint_tests::lab::{OPEN_POLICY, strace};
use fedpaint_tests::process::{Process, program};
use fedpaint_tests::syscalls::{FLAGS, inet, inet6, looks_up, name_servers, read};

use crate::agents::{cohort, initial_model};
use crate::canaries::{has_strace, stop};
use crate::joining::{command, federation, invited};
use crate::plan;

/// Few steps.
const TRAINING: &str = "\n[training]\nsteps = 3\nbatch = 2\nseed = 7\n";

/// Starts the agent's program under strace, which writes to `trace`.
fn watched(arguments: &[String], trace: &Path, log: &Path) -> Process {
    let mut words = strace(&FLAGS, trace);
    words.push(program("fedpaint-site-agent").unwrap().display().to_string());
    words.extend(arguments.iter().cloned());
    Process::start_with(Path::new(&words[0]), &words[1..], log, &[]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_joins_and_trains_by_a_hosts_name_reaches_it_and_looks_names_up_and_no_more() {
    if !has_strace("what a site reaches that knows the coordinator by name") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = federation(folder);
    let (out, log) = (folder.join("mayo"), folder.join("mayo.log"));
    cohort(&out, "scans", 3, "A");
    let by_name = lab.address().replace("127.0.0.1", "localhost");
    assert_ne!(by_name, lab.address());
    let mut arguments = command(&lab, &invited(&lab, "mayo"), &out);
    for argument in arguments.iter_mut().filter(|argument| argument.as_str() == lab.address()) {
        argument.clone_from(&by_name);
    }
    arguments.extend(["--label-scheme", "brats2023"].map(str::to_owned));
    let traces = ["join", "run"].map(|name| folder.join(format!("{name}-trace")));
    let mut join = watched(&arguments, &traces[0], &log);
    assert!(join.wait().unwrap().success(), "{}", join.log().unwrap());

    let config = out.join("site-agent.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(&format!("coordinator = \"{by_name}\"")), "{text}");
    std::fs::write(&config, format!("policy = \"policy.toml\"\n{text}")).unwrap();
    std::fs::write(out.join("policy.toml"), OPEN_POLICY).unwrap();
    let base = initial_model(folder);
    let model = folder.join("initial.safetensors");
    lab.create_run("brain", &plan(1, 1, 1, TRAINING), &model, base).await.unwrap();
    let arguments = ["run".to_owned(), "--config".to_owned(), config.display().to_string()];
    let agent = watched(&arguments, &traces[1], &log);
    let finished = lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await;
    finished.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
    stop(agent, true);

    let port = lab.address().rsplit(':').next().unwrap().parse().unwrap();
    // The host may have both.
    let coordinator = [inet("127.0.0.1", port), inet6("::1", port)];
    let servers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = name_servers(&servers);
    for trace in traces {
        let used = read(&std::fs::read_to_string(&trace).unwrap()).unwrap();
        assert!(used.reachable.is_empty(), "{}: {:?}", trace.display(), used.reachable);
        let reached = &used.reached;
        assert!(reached.contains(&coordinator[0]), "{}: {reached:?}", trace.display());
        let mut else_where = reached.iter().filter(|address| !coordinator.contains(address));
        assert!(
            else_where.all(|address| looks_up(address, &servers)),
            "{}: {reached:?}",
            trace.display()
        );
    }
}
