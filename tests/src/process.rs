//! A program of this workspace, started, watched and surely ended.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::built::CARGO;

/// How long a program may take to say what it is asked for.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// The variable by which a program is told what to log.
pub const LOG: &str = "RUST_LOG";

/// The ticks in which `/proc` counts processor time: Linux's `USER_HZ`, the same on every processor.
const TICKS_PER_S: f64 = 100.0;

/// A binary of this workspace, beside the one that is running.
///
/// # Errors
/// If it has not been built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    let folders = me.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not built: run `cargo build --release --workspace --locked` first")
    })
}

/// A binary in `folder`, such as one of an older version; of this workspace where none is named.
///
/// # Errors
/// If it is not there.
pub fn program_in(folder: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let Some(folder) = folder else { return program(name) };
    let path = folder.join(name);
    anyhow::ensure!(path.is_file(), "there is no {name} in {}", folder.display());
    Ok(path)
}

/// Whether the programs in a folder know policies and signed work; this workspace's own do.
///
/// # Errors
/// If there is no agent in it that starts.
pub fn know_policies(folder: Option<&Path>) -> anyhow::Result<bool> {
    if folder.is_none() {
        return Ok(true);
    }
    let agent = program_in(folder, "fedpaint-site-agent")?;
    Ok(Command::new(agent).args(["plan", "--help"]).output()?.status.success())
}

/// Runs a program to its end.
///
/// # Errors
/// If it does not start or exits otherwise than with 0; the error holds what it wrote to stderr.
pub fn run<S: AsRef<OsStr>>(name: &str, args: &[S]) -> anyhow::Result<String> {
    let output = output(name, args)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{name} ended with {}: {}", output.status, stderr.trim_end());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a program to its end, however it ends.
///
/// # Errors
/// If it does not start.
pub fn output<S: AsRef<OsStr>>(name: &str, args: &[S]) -> anyhow::Result<Output> {
    output_with(name, args, &[])
}

/// The same with more variables in its environment.
///
/// # Errors
/// As [`output`].
pub fn output_with<S: AsRef<OsStr>>(
    name: &str,
    args: &[S],
    environment: &[(String, PathBuf)],
) -> anyhow::Result<Output> {
    let mut command = command(&program(name)?, args, environment);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Whoever starts a program has had it built with all others.
    command.env_remove(CARGO);
    let (child, _leash) = Leash::start(&mut command)?;
    Ok(child.wait_with_output()?)
}

/// A program that logs as it does by itself, unless `environment` says otherwise: what is looked for in its log is
/// not to be missed because whoever runs the tests has asked for errors alone.
fn command<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    environment: &[(String, PathBuf)],
) -> Command {
    let mut command = Command::new(program);
    command.args(args).env_remove(LOG);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Ends a program, and what it has started, when whoever started it has ended, however that was: a shell that
/// waits for the end of a pipe whose other end nobody else has. A test that is killed drops nothing.
#[derive(Debug)]
struct Leash(Child);

impl Leash {
    /// Puts the program of this id on a leash.
    fn on(id: u32) -> anyhow::Result<Leash> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "read -r _; kill -9 \"-$1\"", "leash", &id.to_string()]);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // What ends whoever started it by its group, such as Ctrl-C, is not to end the leash first.
        shell.process_group(0);
        Ok(Leash(shell.spawn().context("cannot start /bin/sh")?))
    }

    /// Starts a program on a leash, in a group of its own, so that what it starts itself is ended with it:
    /// strace lets go of what it traces when it is killed.
    fn start(command: &mut Command) -> anyhow::Result<(Child, Leash)> {
        let program = command.get_program().display().to_string();
        command.process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        match Leash::on(child.id()) {
            Ok(leash) => Ok((child, leash)),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // It kills nothing any more, whosever the program's id is from now on.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that is running. Dropping it kills it, and so does the end of the one that started it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    leash: Option<Leash>,
    stdout: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts a program; its stderr goes to the file `log`.
    ///
    /// # Errors
    /// If the program or the log cannot be opened.
    pub fn start<S: AsRef<OsStr>>(name: &str, args: &[S], log: &Path) -> anyhow::Result<Process> {
        Process::start_with(&program(name)?, args, log, &[])
    }

    /// Starts a program by its path, with more variables in its environment.
    ///
    /// # Errors
    /// If the program or the log cannot be opened.
    pub fn start_with<S: AsRef<OsStr>>(
        program: &Path,
        args: &[S],
        log: &Path,
        environment: &[(String, PathBuf)],
    ) -> anyhow::Result<Process> {
        let name = program.file_name().unwrap_or(program.as_os_str()).display().to_string();
        let file = File::options().create(true).append(true).open(log)?;
        let mut command = command(program, args, environment);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file);
        let (mut child, leash) = Leash::start(&mut command)?;
        let pipe = child.stdout.take().context("stdout is piped")?;
        let (sender, stdout) = channel();
        // The reader ends with the program, whose end closes the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Process { name, child, leash: Some(leash), stdout, log: log.into() })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of the program's stdout.
    ///
    /// # Errors
    /// If it ends or stays silent for [`ANSWER_TIMEOUT`]; the error holds its log.
    pub fn line(&self) -> anyhow::Result<String> {
        self.line_within(ANSWER_TIMEOUT)
    }

    /// The next line of the program's stdout, which may take so long.
    ///
    /// # Errors
    /// If it ends or stays silent; the error holds its log.
    pub fn line_within(&self, time: Duration) -> anyhow::Result<String> {
        self.stdout.recv_timeout(time).with_context(|| {
            format!("{} said nothing; its log:\n{}", self.name, self.log().unwrap_or_default())
        })
    }

    /// The next line of the program's stdout, if it has written one.
    pub fn try_line(&self) -> Option<String> {
        self.stdout.try_recv().ok()
    }

    /// What the program has written to stderr so far.
    ///
    /// # Errors
    /// If the log does not read.
    pub fn log(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        File::open(&self.log)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Whether the program still runs.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.ended()?.is_none())
    }

    /// How the program ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let ended = self.child.try_wait()?;
        self.leash = self.leash.take().filter(|_| ended.is_none());
        Ok(ended)
    }

    /// Asks the program to end and waits until it has.
    ///
    /// # Errors
    /// If the system does not say how it ended.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Kills the program at once, as a power cut would.
    ///
    /// # Errors
    /// If the system does not say how it ended.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.kill()?;
        self.wait()
    }

    /// Waits until the program has ended by itself.
    ///
    /// # Errors
    /// If the system does not say how it ended.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = self.child.wait()?;
        self.leash = None;
        Ok(ended)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = pid(self.child.id()) {
            // A process that is gone already needs no signal.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a program that may have ended already; where it has not, all that it has started with it.
fn end(child: &mut Child) {
    if child.try_wait().is_ok_and(|ended| ended.is_none())
        && let Some(group) = pid(child.id())
    {
        // It was there a moment ago; if it is gone now, all is well too.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

/// A process id as the system's calls take it.
pub fn pid(id: u32) -> Option<rustix::process::Pid> {
    i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw)
}

/// The children of process `id`, from `/proc`.
pub fn children(id: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|child| parent(*child) == Some(id)).collect()
}

fn parent(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the parent is the second field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The most memory the process ever held, in bytes.
pub fn peak_rss_bytes(id: u32) -> Option<u64> {
    memory(id, "VmHWM:")
}

/// The memory the process holds now, in bytes.
pub fn rss_bytes(id: u32) -> Option<u64> {
    memory(id, "VmRSS:")
}

fn memory(id: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The processor time the process has taken so far, in seconds, of all its threads.
pub fn cpu_seconds(id: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // After the name: the state is the first field, user and system time are the 12th and 13th.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(ticks as f64 / TICKS_PER_S)
}

/// How many file descriptors the process has open.
pub fn descriptors(id: u32) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{id}/fd")).ok()?.count())
}

/// Kills a process that another one has started, as a power cut would.
pub fn kill(id: u32) {
    if let Some(pid) = pid(id) {
        // A process that is gone already needs no signal.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_program_is_killed_when_the_end_of_who_started_it_closes_the_leash() {
        let mut command = Command::new("sleep");
        let (mut child, mut leash) = Leash::start(command.arg("600")).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        // What the kernel does for a process that was killed.
        drop(leash.0.stdin.take());
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    /// A shell that has started a program and waits for it; its pipe closes when both have ended.
    fn parent_and_child() -> (Child, Leash, Receiver<()>) {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo started; wait"]).stdout(Stdio::piped());
        let (mut child, leash) = Leash::start(&mut command).unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "started");
        let (sender, closed) = channel();
        std::thread::spawn(move || {
            assert!(lines.next().is_none());
            sender.send(()).unwrap();
        });
        (child, leash, closed)
    }

    #[test]
    fn what_a_program_has_started_ends_with_it_when_it_is_dropped() {
        let (mut child, _leash, closed) = parent_and_child();
        end(&mut child);
        closed.recv_timeout(ANSWER_TIMEOUT).unwrap();
    }

    #[test]
    fn what_a_program_has_started_ends_with_it_when_who_started_it_has_ended() {
        let (mut child, mut leash, closed) = parent_and_child();
        drop(leash.0.stdin.take());
        child.wait().unwrap();
        closed.recv_timeout(ANSWER_TIMEOUT).unwrap();
    }

    #[test]
    fn a_leash_that_is_taken_off_kills_nothing() {
        let mut command = Command::new("sleep");
        let (mut child, leash) = Leash::start(command.arg("600")).unwrap();
        drop(leash);
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
