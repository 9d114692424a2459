"""Line charts as SVG, for report.py."""

import html
import math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 70, 20, 40, 110
COLOURS = ["#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a"]


def ticks(low, high, logarithmic):
    if logarithmic:
        return [2.0**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
    step = 10 ** math.floor(math.log10(max(high, 1e-9)))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1, 2) if high / (step * part) <= 8)
    return [step * index for index in range(math.ceil(high / step) + 1)]


def line_chart(title, x_title, y_title, series, logarithmic_x=True):
    """`series`: name to list of (x, y); a name that starts with "published" is dashed. y starts at 0."""
    points = [point for line in series.values() for point in line]
    xs = ticks(min(x for x, _ in points), max(x for x, _ in points), logarithmic_x)
    ys = ticks(0, max(y for _, y in points), False)
    scale = math.log2 if logarithmic_x else float
    span = max(scale(xs[-1]) - scale(xs[0]), 1e-9)
    place_x = lambda x: LEFT + (scale(x) - scale(xs[0])) / span * (WIDTH - LEFT - RIGHT)
    place_y = lambda y: HEIGHT - BOTTOM - y / ys[-1] * (HEIGHT - TOP - BOTTOM)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="22" text-anchor="middle" font-size="15">{html.escape(title)}</text>',
    ]
    for y in ys:
        out.append(f'<path d="M{LEFT} {place_y(y):.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>')
        out.append(f'<text x="{LEFT - 6}" y="{place_y(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in xs:
        out.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - BOTTOM + 36}" text-anchor="middle">{html.escape(x_title)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_title)}</text>')
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        dash = ' stroke-dasharray="5 4"' if name.startswith("published") else ""
        path = " L".join(f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in sorted(line))
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        out += [f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        x, y = LEFT + index % 2 * 280, HEIGHT - 56 + index // 2 * 18
        out.append(f'<path d="M{x} {y - 4}h24" stroke="{colour}" stroke-width="2"{dash}/><text x="{x + 30}" y="{y}">{html.escape(name)}</text>')
    return "\n".join(out + ["</svg>", ""])
