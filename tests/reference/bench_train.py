#!/usr/bin/env python3
"""Times the same training steps in PyTorch: the same model, inputs, loss, clipping and AdamW.

    pip install torch numpy safetensors
    cargo build --release --workspace --locked
    python tests/reference/bench_train.py --preset small --batch 8 --steps 10 --device cpu --threads 2 --json

The site agent writes the model and what every step learns (`fedpaint-site-agent bench --write`), or
`--files DIR` names what it has written; the network is unet.py's, with PyTorch's fused attention. Every
mode runs in a process of its own, so that its peak of memory is its own: `eager`, `channels_last`,
`compile` (torch.compile of the channels-last network) and `sgemm`, the ceiling: products of square f32
matrices. With --json the last line is one object:

    eager_ms, channels_last_ms, compile_ms   median of the timed steps; compile_ms is null where it fails
    compile_why_not                          and this says why
    peak_rss_bytes                           of the eager process, its libraries included
    sgemm_gflops                             the median for 1 and for --threads threads, by their number
    modes                                    all figures of every mode, with the losses and gradient norms

`--mode M` runs that one mode here and prints its figures alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODES = ("eager", "channels_last", "compile")
SGEMM_EDGE, SGEMM_EDGE_GPU, SGEMM_TURNS = 1536, 8192, 12
PRECISIONS = ("f32", "bf16")
COMPILE_TIMEOUT_S = 900
HERE = Path(__file__).resolve().parent
AGENT = HERE.parent.parent / "target" / "release" / "fedpaint-site-agent"


def options():
    parser = argparse.ArgumentParser(description="Times training steps in PyTorch.")
    parser.add_argument("--preset", default="small", choices=("tiny", "small", "base", "mayo"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="auto, cpu or gpu:N")
    parser.add_argument("--precision", default="f32", choices=PRECISIONS, help="bf16 by autocast")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--files", help="a folder with model.safetensors and lessons.safetensors")
    parser.add_argument("--modes", default=",".join((*MODES, "sgemm")), help="which modes, with commas")
    parser.add_argument("--mode", choices=(*MODES, "sgemm"))
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def network(path):
    """The network of a model file, with its weights."""
    import torch
    import torch.nn.functional as F
    from safetensors import safe_open

    import unet

    def fused(self, query, key, value):
        rows = [t.transpose(2, 3).contiguous() for t in (query, key, value)]
        return F.scaled_dot_product_attention(*rows).transpose(2, 3)

    unet.Attention.mix = fused
    with safe_open(path, "pt") as file:
        spec = json.loads(file.metadata()["fedpaint.model"])
        weights = {name: file.get_tensor(name) for name in file.keys()}
    (kind, heads), = spec["heads"].items()
    net = unet.Unet(
        size=spec["image_size"], channels=spec["channels"], mult=spec["channel_mult"], res=spec["res_blocks"],
        attention=spec["attention_ds"], heads=(kind, heads), groups=spec["groups"],
        add=spec["emb_mode"] == "add", sigma=spec["learn_sigma"],
        withheld=torch.zeros(1) if spec["null_condition"] else None,
    )
    net.load_state_dict({name: values.reshape(net.state_dict()[name].shape) for name, values in weights.items()})
    return net


def lessons(path, device, memory_format):
    """What every step reads and should say, and the optimiser's options."""
    import torch
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        training = json.loads(file.metadata()["fedpaint.training"])
        columns = {name: file.get_tensor(name).to(device) for name in file.keys()}
    steps = []
    for step in range(len(columns["x"])):
        of = {name: values[step] for name, values in columns.items()}
        of["x"] = of["x"].contiguous(memory_format=memory_format)
        of["t"] = of["t"].to(torch.float64)
        steps.append(of)
    return steps, training


def train(args):
    """The figures of one mode of training."""
    import torch

    torch.set_num_threads(args.threads)
    device = torch.device(args.device.replace("gpu", "cuda"))
    layout = torch.contiguous_format if args.mode == "eager" else torch.channels_last
    net = network(Path(args.files) / "model.safetensors").to(device=device, memory_format=layout)
    steps, training = lessons(Path(args.files) / "lessons.safetensors", device, layout)
    parameters = list(net.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=training["learning_rate"], betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=training["weight_decay"], fused=True)
    call = torch.compile(net) if args.mode == "compile" else net
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    losses, norms, steps_ms = [], [], []
    for of in steps:
        wait()
        begun = time.perf_counter()
        net.withheld = of["withheld"]
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            predicted = call(of["x"], of["t"], of["y"])
        error = predicted.float() - of["target"]
        loss = (error.square() * of["weight"]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, training["gradient_norm_max"])
        optimiser.step()
        losses.append(loss.item())
        norms.append(norm.item())
        wait()
        steps_ms.append((time.perf_counter() - begun) * 1e3)
    timed = steps_ms[args.warmup:]
    return {"step_ms": statistics.median(timed), "min_ms": min(timed), "steps_ms": timed,
            "peak_rss_bytes": peak_rss_bytes(), "losses": losses, "gradient_norms": norms}


def sgemm(args):
    """The GFLOP/s of a product of square f32 matrices on the device, with one thread and with all."""
    import torch

    device = torch.device(args.device.replace("gpu", "cuda"))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    edge = SGEMM_EDGE_GPU if device.type == "cuda" else SGEMM_EDGE
    a, b = (torch.randn(edge, edge, device=device) for _ in range(2))
    figures = {}
    for threads in sorted({1, args.threads}):
        torch.set_num_threads(threads)
        rates = []
        for _ in range(SGEMM_TURNS):
            wait()
            begun = time.perf_counter()
            torch.mm(a, b)
            wait()
            rates.append(2 * edge ** 3 / (time.perf_counter() - begun) / 1e9)
        rates = rates[2:]
        figures[str(threads)] = {"gflops": statistics.median(rates), "best_gflops": max(rates)}
    return figures


def peak_rss_bytes():
    with open("/proc/self/status") as status:
        kib, = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(kib) * 1024


def child(args, mode):
    """The figures of a mode from a process of its own, or why there are none."""
    command = [sys.executable, __file__, "--mode", mode, "--files", str(args.files), "--warmup", str(args.warmup),
               "--precision", args.precision, "--device", args.device, "--threads", str(args.threads)]
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None, f"not done after {COMPILE_TIMEOUT_S} s"
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return None, lines[-1][:300] if lines else f"exit code {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1]), None


def all_modes(args):
    """Every mode in turn."""
    report = {"preset": args.preset, "batch": args.batch, "precision": args.precision, "device": args.device,
              "threads": args.threads}
    modes = {}
    for mode in args.modes.split(","):
        figures, why_not = child(args, mode)
        if mode == "sgemm":
            report["sgemm_gflops"] = figures and {n: f["gflops"] for n, f in figures.items()}
        else:
            report[f"{mode}_ms"] = figures and figures["step_ms"]
        if why_not is not None:
            report[f"{mode}_why_not"] = why_not
        modes[mode] = figures
        if not args.json:
            print(f"{mode:14} {json.dumps(figures) if figures else why_not}", flush=True)
    report["peak_rss_bytes"] = (modes.get("eager") or {}).get("peak_rss_bytes")
    return {**report, "modes": modes}


def main():
    args = options()
    if args.device == "auto":
        import torch

        args.device = "gpu:0" if torch.cuda.is_available() else "cpu"
    if args.mode:
        print(json.dumps(sgemm(args) if args.mode == "sgemm" else train(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not args.files:
            args.files = folder
            subprocess.run([AGENT, "bench", "--write", folder, "--preset", args.preset, "--batch", str(args.batch),
                            "--steps", str(args.steps), "--warmup", str(args.warmup)], check=True)
        report = all_modes(args)
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
