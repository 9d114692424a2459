#!/usr/bin/env python3
"""Polar beside other engines, on one machine, in one run: llama.cpp, OpenVINO and Hugging Face transformers.

    python peers.py setup  --home DIR            build and install the peers (an hour at low priority on two cores)
    python peers.py models --home DIR            write the random-weight models and their quantised forms
    python peers.py run    --home DIR --polar PATH [--points a,b] [--rounds 3] [--prefix "chrt -r 1"]
    python peers.py report --home DIR            the table and the chart of the last run again
    python peers.py smoke  --home DIR --polar PATH   every peer once, on a tiny model

Only Python's standard library is needed; `models` runs in an environment made from requirements.txt. What a peer lacks is said and
its points are left out. README.md beside this file tells what is measured.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import time

from report import write_report

HERE = pathlib.Path(__file__).resolve().parent
LLAMA_SDIST = "llama-cpp-python==0.3.36"
OPENVINO = ["openvino==2026.4.1", "openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "transformers==5.5.4", "nncf", "torch"]
TRANSFORMERS = ["transformers==5.24.0", "torch", "accelerate"]

# name, kind, model, batch, context, weights, peer, what the peer runs, bar
POINTS = [
    ("b8-c1024-bf16", "decode", "gqa-1b", 8, 1024, "bf16", "llama.cpp", "bf16", 2.0),
    ("b32-c1024-bf16", "decode", "gqa-1b", 32, 1024, "bf16", "llama.cpp", "bf16", 2.0),
    ("b32-c4096-bf16", "decode", "gqa-1b", 32, 4096, "bf16", "llama.cpp", "bf16", 3.3),
    ("b32-c4096-bf16-ov", "decode", "gqa-1b", 32, 4096, "bf16", "openvino", "bf16", 2.5),
    ("b8-c128-int8-ov", "decode", "gqa-1b", 8, 128, "int8", "openvino", "int8", 1.3),
    ("b32-c128-int8-ov", "decode", "gqa-1b", 32, 128, "int8", "openvino", "int8", 1.3),
    ("b1-c1024-q4", "decode", "gqa-1b", 1, 1024, "q4", "llama.cpp", "Q4_0", 1.4),
    ("prefill-bf16", "prefill", "gqa-1b", 1, 1024, "bf16", "llama.cpp", "bf16", 1.3),
    ("prefill-int8", "prefill", "gqa-1b", 1, 1024, "int8", "llama.cpp", "Q8_0", 2.0),
    ("mha-half-bf16", "sparse", "mha-1b", 8, 4096, "bf16", "dense", 0.5, 1.38),
    ("mha-half-int8", "sparse", "mha-1b", 8, 4096, "int8", "dense", 0.5, 1.55),
    ("mha-third-int8", "sparse", "mha-1b", 8, 4096, "int8", "dense", 0.3, 2.0),
    ("b8-c1024-bf16-hf", "decode", "gqa-1b", 8, 1024, "bf16", "transformers", "bf16", None),
    ("b8-c1024-bf16-ov", "decode", "gqa-1b", 8, 1024, "bf16", "openvino", "bf16", None),
    ("smollm2-b8-c1024", "decode", "smollm2", 8, 1024, "bf16", "llama.cpp", "bf16", None),
]
SMOKE = [
    ("smoke-llama", "decode", "tiny", 2, 128, "bf16", "llama.cpp", "bf16", None),
    ("smoke-prefill", "prefill", "tiny", 1, 128, "bf16", "llama.cpp", "Q8_0", None),
    ("smoke-openvino", "decode", "tiny", 2, 128, "bf16", "openvino", "bf16", None),
    ("smoke-transformers", "decode", "tiny", 2, 128, "bf16", "transformers", "bf16", None),
    ("smoke-sparse", "sparse", "tiny", 2, 128, "bf16", "dense", 0.5, None),
]


class Missing(Exception):
    """A peer, model or option that is not there, in words for the user."""


def command(arguments, log=None, **options):
    """Runs a command; raises Missing with the end of what it said where it fails."""
    done = subprocess.run([str(item) for item in arguments], capture_output=True, text=True, **options)
    if log:
        with open(log, "a") as file:
            file.write(f"$ {shlex.join(map(str, arguments))}\n{done.stdout}{done.stderr}\n")
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise Missing(f"{pathlib.Path(str(arguments[0])).name} ended with {done.returncode}:\n{said}")
    return done.stdout


class Home:
    """The private folder: environments, builds, models, results."""

    def __init__(self, path, models=None):
        self.path = pathlib.Path(path).resolve()
        self.models = pathlib.Path(models).resolve() if models else self.path / "models"
        self.log = self.path / "peers.log"
        self.path.mkdir(parents=True, exist_ok=True)
        self.models.mkdir(parents=True, exist_ok=True)

    def environment(self, name, packages):
        """The Python of an environment that holds packages."""
        python = self.path / name / "bin/python"
        if not python.exists():
            command([sys.executable, "-m", "venv", self.path / name], self.log)
        if packages:
            command(["nice", "-n", "19", python, "-m", "pip", "install", "--quiet", *packages], self.log)
        return python

    def python(self, name):
        python = self.path / name / "bin/python"
        if not python.exists():
            raise Missing(f"{python} is absent: run `peers.py setup`")
        return python

    @property
    def llama(self):
        found = sorted(self.path.glob("llama_cpp_python-*/vendor/llama.cpp/build/bin"))
        if not found or not (found[-1] / "llama-batched-bench").exists():
            raise Missing("llama.cpp is not built: run `peers.py setup`")
        return found[-1]


# Setting up


def setup_llama(home):
    tools = home.environment("tools", ["cmake", "ninja", "scikit-build-core", "-r", HERE / "requirements.txt"])
    sdist = home.path / "sdist"
    if not list(sdist.glob("*.tar.gz")):
        command([tools, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", LLAMA_SDIST, "-d", sdist], home.log)
    if not list(home.path.glob("llama_cpp_python-*")):
        shutil.unpack_archive(next(sdist.glob("*.tar.gz")), home.path)
    source = next(home.path.glob("llama_cpp_python-*")) / "vendor/llama.cpp"
    environment = {**os.environ, "PATH": f"{tools.parent}:{os.environ['PATH']}"}
    command([
        tools.parent / "cmake", "-S", source, "-B", source / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
        "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_UI=OFF", "-DCMAKE_C_COMPILER=gcc", "-DCMAKE_CXX_COMPILER=g++",
    ], home.log, env=environment)
    command([
        "nice", "-n", "19", tools.parent / "cmake", "--build", source / "build", "-j2", "--target", "llama-batched-bench", "llama-quantize",
    ], home.log, env=environment)


def setup_openvino(home):
    python = home.environment("openvino", OPENVINO)
    # It comes along, does not fit this torch, and keeps the exporter from starting.
    command([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], home.log)


def setup(home, only):
    steps = {
        "llama.cpp": lambda: setup_llama(home),
        "openvino": lambda: setup_openvino(home),
        "transformers": lambda: home.environment("transformers", TRANSFORMERS),
    }
    for name, step in steps.items():
        if only and name not in only:
            continue
        try:
            step()
            print(f"{name}: ready")
        except Missing as reason:
            print(f"{name}: not installed. {reason}")


def make_models(home, names):
    tools = home.environment("tools", ["-r", HERE / "requirements.txt"])
    for name in names:
        folder, base = home.models / name, home.models / f"{name}-bf16.gguf"
        code = "import models, pathlib, sys; shape = models.SHAPES[sys.argv[1]]; path = pathlib.Path(sys.argv[3])\n"
        if not (folder / "model.safetensors").exists():
            command([tools, "-c", code + "models.write_folder(path, shape)", name, "-", folder], home.log, cwd=HERE)
        if not base.exists():
            command([tools, "-c", code + "models.write_gguf(path, shape)", name, "-", base], home.log, cwd=HERE)
        for kind in ["Q8_0", "Q4_0"]:
            target = home.models / f"{name}-{kind}.gguf"
            if not target.exists():
                quantize(home, base, target, kind)
        print(f"{name}: written")


def quantize(home, source, target, kind, again=False):
    flags = ["--allow-requantize"] if again else []
    environment = {**os.environ, "LD_LIBRARY_PATH": str(home.llama)}
    command([home.llama / "llama-quantize", *flags, source, target, kind, "2"], home.log, env=environment)


# Measuring


def prompt_text(home):
    """Text enough for every context."""
    path = home.path / "prompt.txt"
    if not path.exists():
        path.write_text("the old mill by the river turned all day and all night while the miller and his sons went to town. " * 200)
    return path


class Measurements:
    def __init__(self, home, arguments):
        self.home = home
        self.prefix = shlex.split(arguments.prefix)
        self.threads = arguments.threads
        self.steps = arguments.steps
        self.polar_path = pathlib.Path(arguments.polar).resolve()
        if not self.polar_path.exists():
            raise Missing(f"{self.polar_path} is absent: build it with `swift build -c release --product polar`")
        self.help = command([self.polar_path, "bench", "decode", "--help"], home.log)
        self.smollm2 = arguments.smollm2

    def model(self, name, form):
        """A model's path: a folder, or a GGUF file of a form."""
        if name == "smollm2":
            if not self.smollm2:
                raise Missing("give --smollm2 PATH, a GGUF file of SmolLM2-135M-Instruct")
            source = pathlib.Path(self.smollm2).resolve()
            if form == "folder":
                return source
            target = self.home.models / f"smollm2-{form}.gguf"
            if not target.exists():
                quantize(self.home, source, target, form.upper(), again=True)
            return target
        path = self.home.models / (name if form == "folder" else f"{name}-{form}.gguf")
        if not path.exists():
            raise Missing(f"{path} is absent: run `peers.py models`")
        return path

    def polar(self, name, batch, context, weights, density):
        """Polar's row of dense decoding and, if asked for, of sparse decoding."""
        arguments = [self.model(name, "folder")]
        if "--weights" in self.help:
            arguments += ["--weights", weights]
        elif weights != "bf16":
            raise Missing(f"this polar has no --weights {weights}")
        output = self.home.path / "polar.jsonl"
        output.unlink(missing_ok=True)
        command([
            *self.prefix, self.polar_path, "bench", "decode", *arguments, "--batch", batch, "--context", context, "--steps", self.steps,
            "--density", density, "--threads", self.threads, "--text", prompt_text(self.home), "--json", output,
        ], self.home.log)
        return [json.loads(line)["result"] for line in output.read_text().splitlines()]

    def llama(self, name, batch, context, form):
        decoded = self.steps
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.home.llama)}
        said = command([
            *self.prefix, self.home.llama / "llama-batched-bench", "-m", self.model(name, form), "-t", self.threads, "-tb", self.threads,
            "-npp", context, "-ntg", decoded, "-npl", batch, "-pps", "-c", batch * (context + decoded) + 256, "-b", "2048", "-ub", "512",
            "--output-format", "jsonl",
        ], self.home.log, env=environment)
        rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        if not rows:
            raise Missing("llama-batched-bench gave no result")
        return {"decode": rows[-1]["speed_tg"], "prefill": rows[-1]["speed_pp"]}

    def script(self, peer, script, *arguments):
        python = self.home.python(peer)
        said = command([*self.prefix, python, HERE / script, *arguments], self.home.log,
                       env={**os.environ, "OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"})
        return json.loads(said.strip().splitlines()[-1])

    def openvino(self, name, batch, context, form):
        target = self.home.models / f"{name}-openvino-{form}"
        if not (target / "openvino_model.xml").exists():
            tool = self.home.python("openvino").parent / "optimum-cli"
            command([
                tool, "export", "openvino", "--model", self.model(name, "folder"), "--task", "text-generation-with-past",
                "--weight-format", "int8" if form == "int8" else "fp16", target,
            ], self.home.log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        return self.script("openvino", "openvino_decode.py", target, batch, context, self.steps, self.threads)

    def transformers(self, name, batch, context, form):
        return self.script("transformers", "transformers_decode.py", self.model(name, "folder"), batch, context, self.steps, self.threads)

    def ours(self, kind, name, batch, context, weights):
        rows = self.polar(name, batch, context, weights, density=1)
        dense = next(row for row in rows if row["policy"] == "dense")
        return context / dense["promptSeconds"] if kind == "prefill" else dense["tokensPerSecond"]

    def theirs(self, peer, kind, name, batch, context, form):
        call = {"llama.cpp": self.llama, "openvino": self.openvino, "transformers": self.transformers}[peer]
        return call(name, batch, context, form)[kind]


def measure_point(measurements, point, rounds):
    """Rounds of ours and theirs by turns; the ratio of each round."""
    name, kind, model, batch, context, weights, peer, form, bar = point
    result = {"point": name, "kind": kind, "model": model, "batch": batch, "context": context, "weights": weights, "peer": peer, "form": form,
              "bar": bar, "rounds": []}
    for number in range(rounds):
        load = os.getloadavg()[0]
        if kind == "sparse":
            rows = measurements.polar(model, batch, context, weights, density=form)
            sparse = next(row for row in rows if row["policy"] != "dense")
            theirs = next(row for row in rows if row["policy"] == "dense")["tokensPerSecond"]
            ours, ratio = sparse["tokensPerSecond"], sparse["speedup"]
        else:
            sides = [lambda: measurements.ours(kind, model, batch, context, weights),
                     lambda: measurements.theirs(peer, kind, model, batch, context, form)]
            # Who goes first changes from round to round.
            if number % 2 == 0:
                ours, theirs = sides[0](), sides[1]()
            else:
                theirs, ours = sides[1](), sides[0]()
            ratio = ours / theirs
        result["rounds"].append({"ours": ours, "theirs": theirs, "ratio": ratio, "load": load})
        print(f"  {name} {number + 1}/{rounds}: ours {ours:.1f}, {peer} {theirs:.1f} tokens/s, {ratio:.2f}x", flush=True)
    for key in ["ours", "theirs", "ratio"]:
        result[key] = statistics.median(item[key] for item in result["rounds"])
    return result


def conditions(arguments):
    processor = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(":", 1)[1].strip()
            break
    return {"processor": processor, "cores": os.cpu_count(), "threads": arguments.threads, "rounds": arguments.rounds, "steps": arguments.steps,
            "prefix": arguments.prefix, "date": time.strftime("%Y-%m-%d %H:%M"), "llama.cpp": LLAMA_SDIST, "openvino": OPENVINO[0],
            "transformers": TRANSFORMERS[0]}


def run(home, arguments, points):
    measurements = Measurements(home, arguments)
    chosen = arguments.points.split(",") if arguments.points else None
    unknown = set(chosen or []) - {point[0] for point in points}
    if unknown:
        raise Missing(f"no such point: {', '.join(sorted(unknown))} (known: {', '.join(point[0] for point in points)})")
    path = home.path / "results.json"
    results = {"conditions": conditions(arguments), "points": [], "left_out": []}
    if chosen and path.exists():
        # Points measured before stay.
        results["points"] = [item for item in json.loads(path.read_text())["points"] if item["point"] not in chosen]
    for point in points:
        if chosen and point[0] not in chosen:
            continue
        print(f"{point[0]}: {point[1]} of {point[2]}, batch {point[3]}, context {point[4]}, {point[5]}, against {point[6]} {point[7]}", flush=True)
        try:
            results["points"].append(measure_point(measurements, point, arguments.rounds))
        except Missing as reason:
            print(f"  left out: {reason}")
            results["left_out"].append({"point": point[0], "reason": str(reason)})
        path.write_text(json.dumps(results, indent=1) + "\n")
    write_report(results, home.path)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["setup", "models", "run", "report", "smoke"])
    parser.add_argument("--home", required=True, help="a private folder for builds, environments, models and results")
    parser.add_argument("--models", help="where models are, if not in the home folder")
    parser.add_argument("--polar", default=str(HERE.parents[1] / ".build/release/polar"))
    parser.add_argument("--peers", help="setup: only these, with commas")
    parser.add_argument("--points", help="run: only these, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="decoded tokens of each sequence in a measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prefix", default="", help="put before every measured command, such as 'chrt -r 1'")
    parser.add_argument("--smollm2", help="a GGUF file of SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    home = Home(arguments.home, arguments.models)
    try:
        if arguments.command == "setup":
            setup(home, arguments.peers.split(",") if arguments.peers else None)
        elif arguments.command == "models":
            make_models(home, ["gqa-1b", "mha-1b"])
        elif arguments.command == "run":
            run(home, arguments, POINTS)
        elif arguments.command == "smoke":
            make_models(home, ["tiny"])
            arguments.rounds, arguments.steps = 1, 4
            results = run(home, arguments, SMOKE)
            sys.exit(1 if results["left_out"] else 0)
        else:
            write_report(json.loads((home.path / "results.json").read_text()), home.path)
    except Missing as reason:
        sys.exit(f"peers.py: {reason}")


if __name__ == "__main__":
    main()
