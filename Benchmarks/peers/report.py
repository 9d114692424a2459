"""The table and the chart of a run."""

import html


def label(point):
    if point["kind"] == "sparse":
        return f"{point['model']}, batch {point['batch']}, context {point['context']}, {point['weights']}: {point['form']:.0%} of heads against all"
    what = "prefill" if point["kind"] == "prefill" else f"batch {point['batch']}"
    return f"{point['model']}, {what}, context {point['context']}, {point['weights']} against {point['peer']} {point['form']}"


def markdown(results):
    facts = results["conditions"]
    lines = [
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, {facts['date']}; medians of {facts['rounds']} rounds, "
        "ours and theirs by turns.", "", "| point | ours, tokens/s | theirs, tokens/s | ratio (all rounds) | bar |", "|---|---|---|---|---|",
    ]
    for point in results["points"]:
        rounds = ", ".join(f"{item['ratio']:.2f}" for item in point["rounds"])
        bar = f"{point['bar']:.2f}x" if point["bar"] else "-"
        lines.append(f"| {label(point)} | {point['ours']:.1f} | {point['theirs']:.1f} | **{point['ratio']:.2f}x** ({rounds}) | {bar} |")
    for item in results["left_out"]:
        lines.append(f"\nLeft out: {item['point']}: {item['reason'].splitlines()[0]}")
    return "\n".join(lines) + "\n"


def chart(results):
    """Bars of the ratios; a line marks 1x, a tick each point's bar."""
    points = results["points"]
    row, left, width = 26, 430, 900
    most = max([2.0] + [max(point["ratio"], point["bar"] or 0) for point in points]) * 1.1
    scale = (width - left - 60) / most
    height = 40 + row * len(points) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>', '<text x="10" y="20" font-size="14">Tokens per second, Polar over the other</text>',
    ]
    for index, point in enumerate(points):
        top = 34 + index * row
        parts.append(f'<text x="{left - 8}" y="{top + 14}" text-anchor="end">{html.escape(label(point))}</text>')
        good = point["bar"] is None or point["ratio"] >= point["bar"]
        parts.append(f'<rect x="{left}" y="{top + 3}" width="{point["ratio"] * scale:.1f}" height="{row - 10}" fill="{"#2f6f9f" if good else "#9fb8cc"}"/>')
        parts.append(f'<text x="{left + point["ratio"] * scale + 5:.1f}" y="{top + 15}">{point["ratio"]:.2f}x</text>')
        if point["bar"]:
            place = left + point["bar"] * scale
            parts.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{top}" y2="{top + row - 4}" stroke="#c0392b" stroke-width="2"/>')
    one = left + scale
    parts.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="30" y2="{height - 16}" stroke="black" stroke-dasharray="3 3"/>')
    parts.append(f'<text x="{one:.1f}" y="{height - 4}" text-anchor="middle">1x</text></svg>')
    return "\n".join(parts) + "\n"


def write_report(results, folder):
    (folder / "results.md").write_text(markdown(results))
    (folder / "results.svg").write_text(chart(results))
    print(markdown(results))
