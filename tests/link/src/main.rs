//! A line as a hospital's, on one machine: two ends, between which so many bits a second go, each way takes so
//! long, and a packet is lost now and then. It is what `tc netem` makes of a device, for kernels without it; the
//! kernel's own TCP is at both ends, and never learns that the line is no line.
//!
//! Linux, and root: one end stays in the namespace that this is started in, the other is in one of its own,
//! which is made anew. It serves until it is killed; the devices go with it.

mod line;

use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use tun::Device;

use crate::line::{Fate, Shape, Way};

/// The two ends, and the address of each.
const ENDS: [(&str, &str); 2] = [("fplink0", "10.77.0.1"), ("fplink1", "10.77.0.2")];

/// The longest packet.
const MTU: u16 = 1500;

/// A line between two namespaces of this machine.
#[derive(Debug, Parser)]
#[command(name = "fedpaint-link")]
struct Args {
    /// How much goes through, each way, in Mbit/s, IP's own headers with it.
    #[arg(long, default_value_t = 30.0)]
    mbit_s: f64,
    /// How long a way takes, in ms.
    #[arg(long, default_value_t = 50.0)]
    delay_ms: f64,
    /// The part of the packets that is lost, each way.
    #[arg(long, default_value_t = 0.01)]
    loss: f64,
    /// How much may wait at either end, in kB; by default what is under way in a round trip.
    #[arg(long)]
    queue_kb: Option<f64>,
    /// How the kernel at either end finds out how fast it may send, whatever a program asks for; what the program and
    /// the system choose if not given.
    #[arg(long)]
    congestion: Option<String>,
    /// The namespace of the far end.
    #[arg(long, default_value = "fedpaint-link")]
    namespace: String,
    /// Which packets are lost follows from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A packet, and when it arrives.
type Packet = (Instant, Vec<u8>);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let bytes_per_s = args.mbit_s * 1e6 / 8.0;
    let delay = Duration::from_secs_f64(args.delay_ms / 1e3);
    let round_trip_bytes = bytes_per_s * 2.0 * delay.as_secs_f64();
    let queue_bytes = args.queue_kb.map_or(round_trip_bytes, |kb| kb * 1e3);
    let shape = Shape { bytes_per_s, delay, loss: args.loss, queue_bytes };
    let [near, far] = connect(&args)?;
    let mut ways = Vec::new();
    for (seed, (from, to)) in [(0, (&near, &far)), (1, (&far, &near))] {
        let (packets, waiting) = channel();
        let way = Way::new(shape, Instant::now(), args.seed * 2 + seed);
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        ways.push(std::thread::spawn(move || take(&from, way, &packets)));
        ways.push(std::thread::spawn(move || bring(&to, &waiting)));
    }
    let [(_, near), (_, far)] = ENDS;
    writeln!(std::io::stdout(), "ready {near} {far}")?;
    for way in ways {
        way.join().ok().context("a way has failed")??;
    }
    Ok(())
}

/// Makes both ends.
fn connect(args: &Args) -> anyhow::Result<[Arc<Device>; 2]> {
    let namespace = args.namespace.as_str();
    // One that was left behind.
    let _ = ip(&["netns", "del", namespace]);
    ip(&["netns", "add", namespace])?;
    let open = |name: &str| {
        let mut config = tun::Configuration::default();
        config.tun_name(name).mtu(MTU);
        tun::create(&config).with_context(|| format!("cannot make {name}"))
    };
    let [(near, near_address), (far, far_address)] = ENDS;
    let devices = [Arc::new(open(near)?), Arc::new(open(far)?)];
    ip(&["link", "set", far, "netns", namespace])?;
    ip(&["-n", namespace, "link", "set", "lo", "up"])?;
    let ends = [
        (None, near, near_address, far_address),
        (Some(namespace), far, far_address, near_address),
    ];
    for (inside, device, own, other) in ends {
        let within: Vec<&str> = inside.iter().flat_map(|name| ["-n", *name]).collect();
        let run = |args: &[&str]| ip(&[&within[..], args].concat());
        run(&["addr", "add", &format!("{own}/32"), "dev", device])?;
        run(&["link", "set", device, "up"])?;
        let route = ["route", "replace", other, "dev", device];
        match &args.congestion {
            Some(name) => run(&[&route[..], &["congctl", "lock", name]].concat())?,
            None => run(&route)?,
        }
    }
    Ok(devices)
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).output().context("cannot run `ip`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", args.join(" "), said.trim_end());
    Ok(())
}

/// Takes packets off an end and puts them onto the line.
fn take(from: &Device, mut way: Way, packets: &Sender<Packet>) -> anyhow::Result<()> {
    let mut buffer = vec![0; usize::from(MTU) + 64];
    loop {
        let bytes = from.recv(&mut buffer)?;
        if let Fate::Arrives(at) = way.take(bytes, Instant::now()) {
            packets.send((at, buffer[..bytes].to_vec()))?;
        }
    }
}

/// Brings packets to an end when they arrive.
fn bring(to: &Device, packets: &Receiver<Packet>) -> anyhow::Result<()> {
    while let Ok((at, packet)) = packets.recv() {
        while let Some(left) = at.checked_duration_since(Instant::now()) {
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        // An end that is not up, or full, loses it.
        let _ = to.send(&packet);
    }
    Ok(())
}
