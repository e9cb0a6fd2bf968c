//! One crash: a program dies where a rule says, is started again as a service manager does, and the run ends as if
//! nothing had happened. Only its own death is put down to the rule: whatever else ends is broken.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fedpaint_proto::names::Digest;
use fedpaint_tests::failpoints::Failpoints;

use crate::federation::{Federation, Shape};
use crate::scenario::Moment;
use crate::storm::SIGKILL;

/// How long a round of a run with one crash may take beyond its training.
const ROUND_MAX: Duration = Duration::from_secs(60);

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A site that is enrolled while the coordinator dies.
const LATE: &str = "late";

/// Which program dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Coordinator,
    /// The first site's agent.
    Agent,
    /// Its trainer. It obeys the same rules, where they do not say whom they are for.
    Trainer,
}

impl Program {
    /// Every one.
    pub(crate) const ALL: [Program; 3] = [Program::Coordinator, Program::Agent, Program::Trainer];

    /// What it is started to do, by which a rule is for it alone.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Program::Coordinator => "serve",
            Program::Agent => "run",
            Program::Trainer => "trainer",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Coordinator => "coordinator",
            Program::Agent => "agent",
            Program::Trainer => "trainer",
        })
    }
}

/// Where a program dies.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    pub(crate) program: Program,
    pub(crate) moment: Moment,
    pub(crate) place: String,
    /// The time that the process passes the place, from 1.
    pub(crate) turn: u32,
}

impl Crash {
    fn rule(&self) -> String {
        format!("{} kill@{} {}", self.place, self.turn, self.program.verb())
    }
}

/// A federation with a crash in it.
struct Struck<'a> {
    federation: Federation,
    crash: &'a Crash,
    /// Whether the coordinator has said that it serves since it was last started.
    serving: bool,
    /// Whether the rule has told that it kills.
    died: bool,
    /// Whether the process that it has killed was seen to be gone.
    buried: bool,
}

/// Has the program die and the run go on to its end, which makes the `expected` models. Whether it passed the place
/// so often at all.
///
/// # Errors
/// If anything else ends, the run does not, or it is not what it should be.
pub(crate) async fn crash(
    folder: &Path,
    shape: &Shape,
    crash: &Crash,
    expected: &[Digest],
) -> anyhow::Result<bool> {
    let federation = Federation::prepare(folder, shape)?;
    let mut struck = Struck { federation, crash, serving: false, died: false, buried: false };
    let until = Instant::now() + ROUND_MAX * shape.rounds + shape.time();
    if crash.moment == Moment::FirstStart {
        struck.points()?.arm(&crash.rule())?;
    }
    struck.launch_coordinator()?;
    struck.serves(until).await?;
    struck.disarm()?;
    struck.federation.open().await?;
    let watch = struck.federation.watch().await?;
    match crash.moment {
        Moment::FirstStart => {}
        Moment::Enrolment => struck.enrolment(until).await?,
        Moment::Start | Moment::Round => {
            // It dies holding the lease, and what the next one passes when it comes up counts.
            struck.federation.lab.coordinator()?.kill()?;
            struck.points()?.arm(&crash.rule())?;
            struck.launch_coordinator()?;
        }
    }
    struck.federation.start_agents()?;
    while !watch.seen().is_finished() {
        struck.look()?;
        let died = struck.died;
        ensure!(Instant::now() < until, "the run does not end; the rule has killed: {died}");
        tokio::time::sleep(LOOK).await;
    }
    drop(watch);
    // What is left of the rule would end the programs while they say goodbye.
    struck.disarm()?;
    // Who died at the very end is to come up again too.
    struck.look()?;
    struck.serves(until).await?;
    let Struck { federation, died, .. } = struck;
    let evidence = federation.evidence().await?;
    let findings = evidence.findings(&federation.delivered());
    ensure!(findings == Default::default(), "{findings:?}");
    ensure!(evidence.models() == expected, "another model");
    federation.stop()?;
    Ok(died)
}

impl Struck<'_> {
    /// The rules of the program that is to die.
    fn points(&mut self) -> anyhow::Result<&mut Failpoints> {
        match self.crash.program {
            Program::Coordinator => Ok(&mut self.federation.points),
            Program::Agent | Program::Trainer => {
                Ok(&mut self.federation.sites.first_mut().context("a site")?.points)
            }
        }
    }

    fn launch_coordinator(&mut self) -> anyhow::Result<()> {
        self.serving = false;
        self.federation.lab.launch_coordinator()
    }

    fn disarm(&mut self) -> anyhow::Result<()> {
        self.note()?;
        self.federation.points.disarm()?;
        self.federation.sites.iter().try_for_each(|site| site.points.disarm())
    }

    /// Takes note of what the rule has told, which it does once.
    fn note(&mut self) -> anyhow::Result<()> {
        let is_of_site = self.crash.program != Program::Coordinator;
        if self.died || (is_of_site && self.federation.sites.is_empty()) {
            return Ok(());
        }
        if !self.points()?.killed()?.is_empty() {
            self.died = true;
            self.points()?.disarm()?;
        }
        Ok(())
    }

    /// Starts again what the rule has ended, and nothing else.
    fn look(&mut self) -> anyhow::Result<()> {
        self.note()?;
        if let Some(status) = self.federation.lab.coordinator()?.ended()? {
            self.bury("the coordinator", Program::Coordinator, status)?;
            self.launch_coordinator()?;
        }
        for site in 0..self.federation.sites.len() {
            let Some(agent) = self.federation.sites[site].agent.as_mut() else { continue };
            let Some(status) = agent.ended()? else { continue };
            ensure!(site == 0, "the agent of another site ended: {status}");
            self.bury("the agent", Program::Agent, status)?;
            self.federation.start_agent(site)?;
        }
        Ok(())
    }

    /// Takes note of the end of a program, which is to be its death by the rule, once.
    fn bury(&mut self, name: &str, program: Program, status: ExitStatus) -> anyhow::Result<()> {
        // It may have told so since this was last looked at.
        self.note()?;
        ensure!(status.signal() == Some(SIGKILL), "{name} ended by itself: {status}");
        let was_told = self.died && program == self.crash.program;
        ensure!(was_told && !self.buried, "{name} was killed, and not by the rule");
        self.buried = true;
        Ok(())
    }

    /// Waits until the coordinator serves.
    async fn serves(&mut self, until: Instant) -> anyhow::Result<()> {
        while !self.serving {
            self.look()?;
            self.serving = self.federation.lab.coordinator_serves()?;
            ensure!(Instant::now() < until, "the coordinator does not come up");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Has the coordinator die while it enrols a site, which succeeds once it is asked again.
    async fn enrolment(&mut self, until: Instant) -> anyhow::Result<()> {
        let rule = self.crash.rule();
        self.points()?.arm(&rule)?;
        let lost = self.federation.lab.fedctl(&["site", "enroll", LATE]);
        self.note()?;
        if !self.died {
            return lost.map(drop).context("nobody died");
        }
        while !self.buried {
            self.look()?;
            ensure!(Instant::now() < until, "the coordinator does not die");
            tokio::time::sleep(LOOK).await;
        }
        self.serves(until).await?;
        self.federation.lab.fedctl(&["site", "enroll", LATE]).map(drop)
    }
}
