//! By what the programs compute TLS, certificates and signatures, as they say themselves. What these tests are built
//! with the programs are built with too, so that the module that answers here is the one that they must name: by
//! the feature `fips` the tests prove it of a federation that works, see `.ci/fips`.

use fedpaint_proto::tls;
use fedpaint_proto::v1;
use fedpaint_tests::lab::{AgentOptions, Lab};
use fedpaint_tests::models;
use fedpaint_tests::process::output;

use crate::plan;

#[tokio::test(flavor = "multi_thread")]
async fn every_program_of_a_federation_names_the_module_that_it_computes_by() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lab = Lab::start(&folder.join("lab")).unwrap();
    lab.enroll("mayo").unwrap();
    let model = folder.join("base.safetensors");
    let base = models::write(&model, models::specs(), |_, _| 0.5).unwrap();
    lab.create_run("brain", &plan(1, 1, 1, ""), &model, base).await.unwrap();
    let scans = folder.join("scans");
    std::fs::create_dir(&scans).unwrap();
    let more = "[rehearsal]\nsteps_ms = 0\n".into();
    let options = AgentOptions { more, ..AgentOptions::default() };
    let mut agent = lab.start_agent("mayo", &scans, &options).unwrap();
    let finished = lab.watch("brain", |run, _| run.state() == v1::RunState::Finished).await;
    finished.unwrap_or_else(|e| panic!("{e}\n{}", agent.log().unwrap()));
    assert!(agent.stop().unwrap().success(), "{}", agent.log().unwrap());

    let module = tls::cryptography();
    let named = format!("cryptography={module:?}");
    for log in [lab.log(), agent.log().unwrap()] {
        assert!(log.contains(&named), "{named}: {log}");
    }
    assert_eq!(lab.fedctl_json(&["status"]).unwrap()["cryptography"], module);
    let config = lab.path("mayo.toml");
    let args = ["doctor", "--config", &config, "--output", "json"];
    let checks = output("fedpaint-site-agent", &args).unwrap().stdout;
    let checks: serde_json::Value = serde_json::from_slice(&checks).unwrap();
    let checks = checks.as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "cryptography").unwrap();
    assert_eq!((&check["verdict"], &check["detail"]), (&"OK".into(), &module.into()), "{check}");
}
