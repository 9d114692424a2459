"""Tables of what run.sh measured, as Markdown, shaped as the paper's figures where it has one, its figures beside ours:
report.py RESULTS.jsonl REPORT.md

Charts are SVG files beside the report."""

import json
import os
import sys

import charts
import published

# Layers, and what `polar bench gpu` calls their parts: attention, q k v, out-projection, up, down, router of heads, of neurons.
MODELS = {
    "opt-66b": dict(
        layers=64, context=1920, attention="72/72 x 128, context 1920", qkv="27648 x 9216", out="9216 x 9216", up="36864 x 9216",
        down="9216 x 36864", heads="72 heads of 9216", neurons="36864 neurons, rank 1024, of 9216"),
    "opt-6.7b": dict(layers=32, context=1920, heads="32 heads of 4096", neurons="16384 neurons, rank 1024, of 4096"),
    "llama-2-7b": dict(layers=32, context=3968, heads="32 heads of 4096"),
    "llama-3.1-8b": dict(layers=32, context=8192, heads="8 heads of 4096"),
}
# The most of a step that routers and selection may take.
ROUTER_SHARE = 0.03


class Charts:
    """Writes charts beside the report, and gives the lines that show them there."""

    def __init__(self, report):
        self.base = os.path.splitext(report)[0]

    def add(self, name, *arguments, **options):
        path = f"{self.base}-{name}.svg"
        with open(path, "w") as file:
            file.write(charts.line_chart(*arguments, **options))
        return [f"![{arguments[0]}]({os.path.basename(path)})", ""]


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]


def percent(part, whole):
    return f"{100 * part / whole:.0f} %" if whole else "-"


def times(value):
    return f"{value:.2f}x"


def text(value, digits=0):
    return "-" if value is None else f"{value:.{digits}f}"


def break_even(rows):
    """The density at which the selective product takes the dense one's time, between two measured ones."""
    rows = sorted((row["density"], row["ratio"]) for row in rows)
    for (d0, r0), (d1, r1) in zip(rows, rows[1:]):
        if r0 <= 1 < r1:
            return f"{d0 + (1 - r0) / (r1 - r0) * (d1 - d0):.2f}"
    return "above 1" if rows and rows[-1][1] <= 1 else "none"


class Measurements:
    def __init__(self, lines):
        self.rows = [dict(line["result"], weights=line.get("weights")) for line in lines]
        self.copy = max((row["bandwidth"] for row in self.rows if row.get("section") == "copy"), default=0)

    def section(self, name):
        return [row for row in self.rows if row.get("section") == name]

    def seconds(self, section, shape, batch, variant, density=1, weights="bf16"):
        """The last measurement of an op of ours; None where there is none."""
        found = [
            row["seconds"] for row in self.section(section)
            if (row["shape"], row["batch"], row["variant"], row["weights"]) == (shape, batch, variant, weights)
            and abs(row["density"] - density) < 0.007
        ]
        return found[-1] if found else None

    def step(self, model, batch, context, mode):
        found = [
            row for row in self.rows
            if (row.get("model"), row.get("batch"), row.get("context"), row.get("mode")) == (model, batch, context, mode)
        ]
        return found[-1] if found else None

    def dense(self, row):
        """Our dense op of a row's shape and batch: of the row's format where that was measured, else of bf16."""
        dense = {"attention": "dense", "linear": "linear", "selective": "dense up"}.get(row["section"])
        if row["section"] == "selective" and row["variant"].endswith("down"):
            dense = "dense down"
        for weights in (row["weights"], "bf16"):
            seconds = self.seconds(row["section"], row["shape"], row["batch"], dense, weights=weights)
            if seconds:
                return seconds
        return None


def ops(data):
    out = []
    for section in ["attention", "linear", "selective", "router"]:
        rows = data.section(section)
        if not rows:
            continue
        lines = []
        for row in rows:
            dense = data.dense(row)
            lines.append((
                row["shape"], row["batch"], f"{row['density']:.3g}", row["variant"], row["weights"], f"{row['seconds'] * 1e6:.1f}",
                f"{row['bandwidth']:.0f}", percent(row["bandwidth"], data.copy),
                f"{row['seconds'] / dense:.3f}" if dense else f"{row['ratio']:.3f}" if "ratio" in row else "-",
            ))
        out += [f"## {section}", ""] + table(
            ["shape", "batch", "density", "variant", "format", "us", "GB/s", "of copy", "time over our dense"], lines)
        if section == "selective":
            keys = sorted({(row["shape"], row["batch"], row["variant"], row["weights"]) for row in rows
                           if row["variant"].startswith("selective ")})
            out += table(
                ["shape", "batch", "product", "format", "break-even density"],
                [
                    (*key, break_even([
                        row for row in rows if (row["shape"], row["batch"], row["variant"], row["weights"]) == key]))
                    for key in keys
                ],
            )
    return out


def router_share(data):
    """Routers with their selection over a dense step, at batch sizes that both were measured at."""
    lines = []
    for name, model in MODELS.items():
        for batch in (1, 16, 64):
            step = data.step(name, batch, model["context"], "dense")
            heads = data.seconds("router", model["heads"], batch, "heads")
            if not step or heads is None:
                continue
            neurons = data.seconds("router", model["neurons"], batch, "neurons, top-k") if "neurons" in model else None
            whole = model["layers"] * (heads + (neurons or 0)) / step["seconds"]
            share = lambda value: "-" if value is None else f"{100 * model['layers'] * value / step['seconds']:.2f} %"
            lines.append((
                name, batch, model["context"], f"{step['seconds'] * 1e3:.2f}", share(heads), share(neurons), f"{100 * whole:.2f} %",
                "yes" if whole <= ROUTER_SHARE else "no"))
    if not lines:
        return []
    return ["## Routers and selection over a dense step", "", "Routers of neurons run beside attention where a step overlaps them.", ""] + table(
        ["model", "batch", "context", "dense step, ms", "heads", "neurons", "both", "<= 3 %"], lines)


def breakdown(data):
    """Fig 1a."""
    model, lines = MODELS["opt-66b"], []
    for batch in (1, 4, 16, 64):
        step = data.step("opt-66b", batch, model["context"], "dense")
        parts = [data.seconds("linear", model[part], batch, "linear") for part in ("qkv", "out", "up", "down")]
        attention = data.seconds("attention", model["attention"], batch, "dense")
        if step and attention and all(parts):
            qkv, out, up, down = (model["layers"] * part for part in parts)
            ours = [step["seconds"] - model["layers"] * (attention + sum(parts)), qkv, model["layers"] * attention, out, up + down]
            lines.append((batch, "ours", f"{step['seconds'] * 1e3:.1f}", *(percent(part, step["seconds"]) for part in ours)))
        if batch in published.FIG_1A and lines:
            total, shares = published.FIG_1A[batch]
            lines.append((batch, "published, A100", total, *(f"{share:.0f} %" for share in shares)))
    if not lines:
        return []
    return ["## As Fig 1a: a dense step of OPT-66B, context 1920", "",
            "Ours from the times of its ops; what is left of the whole step is under others.", ""] + table(
        ["batch", "", "ms", *published.FIG_1A_PARTS], lines)


def kernels(data, drawn):
    """Figs 4 and 11."""
    model, out = MODELS["opt-66b"], []
    sources = {
        "selective GEMM (up-projection)": ("selective", model["up"], "selective up", "dense up", "published selective GEMM"),
        "selective attention": ("attention", model["attention"], "zero", "dense", "published selective attention"),
    }
    for title, (section, shape, variant, dense, theirs) in sources.items():
        columns = [("ours, bf16", [data.seconds(section, shape, 64, variant, d) for d in published.DENSITIES],
                    data.seconds(section, shape, 64, dense))]
        columns.append(("ours, f16", [data.seconds(section, shape, 64, variant, d, "f16") for d in published.DENSITIES],
                        data.seconds(section, shape, 64, dense, weights="f16")))
        columns.append(("their kernel, this card", [data.seconds(section, shape, 64, theirs, d, "f16") for d in published.DENSITIES], None))
        measured = [column for column in columns if any(column[1])]
        if not measured:
            continue
        for card, (values, whole) in published.FIG_4[title].items():
            measured.append((f"published, {card}", [value / 1e3 for value in values], whole / 1e3))
        rows = [
            (f"{density:.1f}", *("-" if column[1][index] is None else f"{column[1][index] * 1e3:.3f}" for column in measured),
             *(f"{column[2] / column[1][index]:.2f}x" if column[2] and column[1][index] else "-" for column in measured))
            for index, density in enumerate(published.DENSITIES)
        ]
        rows.append(("dense", *("-" if column[2] is None else f"{column[2] * 1e3:.3f}" for column in measured), *("" for _ in measured)))
        name = "fig-4-gemm" if section == "selective" else "fig-4-attention"
        lines = {
            column[0]: [(d, value * 1e3) for d, value in zip(published.DENSITIES, column[1]) if value] for column in measured}
        out += [f"## As Fig 4: {title}, OPT-66B, batch 64, context 1920", ""] + table(
            ["density", *(f"{column[0]}, ms" for column in measured), *(f"over dense: {column[0]}" for column in measured)], rows)
        out += drawn.add(
            name, f"{title}, OPT-66B, batch 64, context 1920", "density", "milliseconds", lines, logarithmic_x=False)
    return out


def throughput(data, drawn):
    """Figs 6, 7 and 12."""
    out = []
    for name in sorted({row["model"] for row in data.rows if "model" in row}):
        figure, context, theirs = published.THROUGHPUT.get(name, (None, None, {}))
        contexts = sorted({row["context"] for row in data.rows if row.get("model") == name})
        lines = []
        for batch in sorted({row["batch"] for row in data.rows if row.get("model") == name}):
            for ours_context in [context] if context in contexts else contexts[-1:]:
                dense, mlp, heads, polar = (data.step(name, batch, ours_context, mode) for mode in ("dense", "mlp", "heads", "polar"))
                if not dense:
                    continue
                best = polar or heads
                paper = theirs.get(batch) if ours_context == context else None
                lines.append((
                    batch, ours_context, text(dense["tokensPerSecond"]), text(mlp and mlp["tokensPerSecond"]),
                    text(heads and heads["tokensPerSecond"]), text(polar and polar["tokensPerSecond"]),
                    percent(dense["bandwidth"], data.copy), percent(best["bandwidth"], data.copy) if best else "-",
                    times(best["speedup"]) if best else "-", times(best["byteSpeedup"]) if best else "-",
                    percent(best["speedup"] - 1, best["byteSpeedup"] - 1) if best else "-",
                    *((f"{paper[0]:g}", text(paper[1]), f"{paper[2]:g}", times(paper[2] / paper[0])) if paper else ("-",) * 4),
                ))
        if lines:
            title = f"As Fig {figure}: {name}" if figure else name
            at = context if context in contexts else contexts[-1]
            series = {"ours, dense": [], "ours, sparse": [], "published, dense": [], "published, Polar": []}
            for batch in sorted({line[0] for line in lines}):
                dense, best = data.step(name, batch, at, "dense"), data.step(name, batch, at, "polar") or data.step(name, batch, at, "heads")
                series["ours, dense"].append((batch, dense["tokensPerSecond"]))
                if best:
                    series["ours, sparse"].append((batch, best["tokensPerSecond"]))
            if at == context:
                series["published, dense"] = [(batch, rates[0]) for batch, rates in theirs.items()]
                series["published, Polar"] = [(batch, rates[2]) for batch, rates in theirs.items()]
            out += [f"## {title}, tokens per second", "",
                    f"The paper's best: {times(published.BEST[name])}." if name in published.BEST else "Not in the paper.", ""] + table(
                ["batch", "context", "dense", "MLP", "heads", "Polar", "dense of copy", "sparse of copy", "speed-up", "bytes allow",
                 "of the gain", "published dense", "published MLP", "published Polar", "published speed-up"], lines)
            out += drawn.add(
                f"throughput-{name}", f"{name}, context {at}", "batch", "tokens per second",
                {key: line for key, line in series.items() if line})
    return out


def latency(data, drawn):
    """Figs 14 and 15."""
    out = []
    for name, (figure, theirs) in published.LATENCY.items():
        lines = []
        for context in sorted({row["context"] for row in data.rows if row.get("model") == name and row.get("batch") == 16}):
            dense, mlp, heads, polar = (data.step(name, 16, context, mode) for mode in ("dense", "mlp", "heads", "polar"))
            best, paper = polar or heads, theirs.get(context)
            if not dense or not best:
                continue
            milliseconds = lambda row: "-" if row is None else f"{row['seconds'] * 1e3:.2f}"
            lines.append((
                context, milliseconds(dense), milliseconds(mlp), milliseconds(best), times(best["speedup"]), times(best["byteSpeedup"]),
                *((f"{paper[0]:g}", text(paper[1], 1), f"{paper[2]:g}", times(paper[0] / paper[2])) if paper else ("-",) * 4)))
        if lines:
            out += [f"## As Fig {figure}: {name}, milliseconds of a step at batch 16", ""] + table(
                ["context", "dense", "MLP", "sparse", "speed-up", "bytes allow", "published dense", "published MLP",
                 "published sparse", "published speed-up"], lines)
            series = {"ours, dense": [], "ours, sparse": []}
            for context in sorted({line[0] for line in lines}):
                series["ours, dense"].append((context, data.step(name, 16, context, "dense")["seconds"] * 1e3))
                best = data.step(name, 16, context, "polar") or data.step(name, 16, context, "heads")
                series["ours, sparse"].append((context, best["seconds"] * 1e3))
            series["published, dense"] = [(context, values[0]) for context, values in theirs.items()]
            series["published, Polar"] = [(context, values[2]) for context, values in theirs.items()]
            out += drawn.add(f"latency-{name}", f"{name}, batch 16", "context", "milliseconds of a step", series)
    return out


def training(data):
    rows = data.section("training")
    if not rows:
        return []
    return ["## Training of routers", ""] + table(
        ["part", "inputs", "outputs", "rank", "tokens", "us", "GB/s", "of copy"],
        [
            (
                row["part"], row["hidden"], row["outputs"], row["rank"], row["batch"], f"{row['seconds'] * 1e6:.0f}",
                f"{row['bandwidth']:.0f}", percent(row["bandwidth"], data.copy),
            )
            for row in rows
        ],
    )


def steps(data):
    rows = [row for row in data.rows if "model" in row]
    if not rows:
        return []
    return ["## All decode steps", ""] + table(
        ["model", "batch", "context", "mode", "ms", "tokens/s", "of copy", "speed-up", "bytes allow", "of the gain"],
        [
            (
                row["model"], row["batch"], row["context"], row["mode"], f"{row['seconds'] * 1e3:.2f}",
                f"{row['tokensPerSecond']:.0f}", percent(row["bandwidth"], data.copy), times(row["speedup"]),
                times(row["byteSpeedup"]), percent(row["speedup"] - 1, row["byteSpeedup"] - 1),
            )
            for row in rows
        ],
    )


def main():
    data = Measurements([json.loads(line) for line in open(sys.argv[1]) if line.strip()])
    out = [
        "# Measurements on a GPU", "", f"Copy bandwidth {data.copy:.0f} GB/s (read and written). Published figures: Polar Sparsity, arXiv "
        "2505.14884, read off its charts.", ""]
    drawn = Charts(sys.argv[2])
    out += breakdown(data)
    for part in (kernels, throughput, latency):
        out += part(data, drawn)
    for part in (router_share, ops, training, steps):
        out += part(data)
    skipped = [f"- {row['skipped']}: {row['reason']}" for row in data.rows if "skipped" in row]
    if skipped:
        out += ["## Left out", ""] + skipped + [""]
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(out))
    print("\n".join(out))


if __name__ == "__main__":
    main()
