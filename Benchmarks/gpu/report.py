"""Tables of what run.sh measured, as Markdown: report.py RESULTS.jsonl REPORT.md"""

import json
import sys

# Speed-ups that Polar Sparsity (arXiv 2505.14884) reports for whole steps.
PUBLISHED = {"opt-6.7b": 1.83, "opt-30b": 1.97, "llama-2-7b": 1.85, "llama-2-13b": 1.85}


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]


def percent(part, whole):
    return f"{100 * part / whole:.0f} %" if whole else "-"


def break_even(rows):
    """The density at which the selective product takes the dense one's time, between two measured ones."""
    rows = sorted((row["density"], row["ratio"]) for row in rows)
    for (d0, r0), (d1, r1) in zip(rows, rows[1:]):
        if r0 <= 1 < r1:
            return f"{d0 + (1 - r0) / (r1 - r0) * (d1 - d0):.2f}"
    return "above 1" if rows and rows[-1][1] <= 1 else "none"


def main():
    lines = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
    copy = max((line["result"]["bandwidth"] for line in lines if line["result"].get("section") == "copy"), default=0)
    out = ["# Measurements on a GPU", "", f"Copy bandwidth {copy:.0f} GB/s (read and written).", ""]
    results = [line["result"] for line in lines]
    for section in ["attention", "linear", "selective", "router"]:
        rows = [row for row in results if row.get("section") == section]
        if not rows:
            continue
        out += [f"## {section}", ""] + table(
            ["shape", "batch", "density", "variant", "us", "GB/s", "of copy", "time over dense"],
            [
                (
                    row["shape"], row["batch"], f"{row['density']:.3g}", row["variant"], f"{row['seconds'] * 1e6:.1f}",
                    f"{row['bandwidth']:.0f}", percent(row["bandwidth"], copy), f"{row['ratio']:.3f}",
                )
                for row in rows
            ],
        )
        if section == "selective":
            shapes = sorted({(row["shape"], row["batch"]) for row in rows})
            out += table(
                ["shape", "batch", "break-even density"],
                [
                    (shape, batch, break_even([
                        row for row in rows
                        if (row["shape"], row["batch"], row["variant"]) == (shape, batch, "selective up")]))
                    for shape, batch in shapes
                ],
            )
    rows = [row for row in results if row.get("section") == "training"]
    if rows:
        out += ["## Training of routers", ""] + table(
            ["part", "inputs", "outputs", "rank", "tokens", "us", "GB/s", "of copy"],
            [
                (
                    row["part"], row["hidden"], row["outputs"], row["rank"], row["batch"], f"{row['seconds'] * 1e6:.0f}",
                    f"{row['bandwidth']:.0f}", percent(row["bandwidth"], copy),
                )
                for row in rows
            ],
        )
    steps = [row for row in results if "model" in row]
    if steps:
        out += ["## Whole decode steps", ""] + table(
            ["model", "batch", "context", "mode", "ms", "tokens/s", "of copy", "speed-up", "bytes allow", "of the gain", "published"],
            [
                (
                    row["model"], row["batch"], row["context"], row["mode"], f"{row['seconds'] * 1e3:.2f}",
                    f"{row['tokensPerSecond']:.0f}", percent(row["bandwidth"], copy), f"{row['speedup']:.2f}x",
                    f"{row['byteSpeedup']:.2f}x", percent(row["speedup"] - 1, row["byteSpeedup"] - 1),
                    f"{PUBLISHED[row['model']]:.2f}x" if row["model"] in PUBLISHED and row["mode"] != "dense" else "",
                )
                for row in steps
            ],
        )
    skipped = [f"- {row['skipped']}: {row['reason']}" for row in results if "skipped" in row]
    if skipped:
        out += ["## Left out", ""] + skipped + [""]
    open(sys.argv[2], "w").write("\n".join(out))
    print("\n".join(out))


if __name__ == "__main__":
    main()
