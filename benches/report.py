"""What was measured, as a table in Markdown and a chart in SVG."""

import json
from statistics import median

# Shares of the processors' time that strangers may have while something is measured, and of a median that the rounds may
# differ by, until a figure is no longer worth quoting.
FOREIGN = 0.05
SPREAD = 0.25
COLOURS = ["#c0392b", "#2980b9", "#27ae60", "#8e44ad", "#d35400", "#16a085", "#7f8c8d"]


def write(output, scenarios, versions, measured, machine, command):
    rows = [row(scenario, list(versions), measured) for scenario in scenarios]
    output.parent.mkdir(parents=True, exist_ok=True)
    everything = {"machine": machine, "command": command, "versions": versions, "measured": measured}
    output.with_suffix(".json").write_text(json.dumps(everything, indent=1) + "\n")
    output.with_suffix(".md").write_text(table(rows, versions, machine, command))
    output.with_suffix(".svg").write_text(chart(rows, list(versions)))


def row(scenario, proxies, measured):
    """Of each proxy the median, its spread, and whether the machine was quiet enough."""
    cells = {}
    for proxy in proxies:
        runs = [m for m in measured if m["proxy"] == proxy and m["scenario"] == scenario.name]
        values = [run[scenario.figure] for run in runs if run.get(scenario.figure) is not None]
        if len(values) < len(runs) or not values:
            cells[proxy] = None
            continue
        middle = median(values)
        spread = (max(values) - min(values)) / middle if middle else 0.0
        noisy = spread > SPREAD or median(run["foreign"] for run in runs) > FOREIGN
        cells[proxy] = {"median": middle, "spread": spread, "noisy": noisy}
    return scenario, cells


def table(rows, versions, machine, command):
    names = list(versions)
    lines = [
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, by `{command}`.",
        "Medians of all rounds; less is better. In brackets: how many times the best of the others that is.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for scenario, cells in rows:
        lines.append(f"| {scenario.title} ({scenario.unit}) | " + " | ".join(cell(cells, name) for name in names) + " |")
    lines += ["", "Versions: " + "; ".join(versions.values()) + "."]
    noisy = [f"{s.title}: {name}" for s, cells in rows for name, cell in cells.items() if cell and cell["noisy"]]
    if noisy:
        lines += [
            "",
            f"Figures with a ~ are not worth quoting: their rounds differ by more than {SPREAD:.0%}, or strangers had more "
            f"than {FOREIGN:.0%} of the processors ({len(noisy)} of {sum(len(cells) for _, cells in rows)}).",
        ]
    if any(cell is None for _, cells in rows for cell in cells.values()):
        lines += ["", "A – stands where the proxy did not get through; the .json beside says why."]
    return "\n".join(lines) + "\n"


def cell(cells, name):
    mine = cells[name]
    if mine is None:
        return "–"
    others = [other["median"] for proxy, other in cells.items() if other and proxy != name]
    ratio = f" ({mine['median'] / min(others):.2f})" if others and min(others) else ""
    text = f"{'~' if mine['noisy'] else ''}{number(mine['median'])} ±{mine['spread'] / 2:.0%}{ratio}"
    return f"**{text}**" if not others or mine["median"] <= min(others) else text


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def chart(rows, names):
    """Of each scenario one group of bars: how many times the best each proxy takes."""
    bar, gap, left, width, limit = 11, 14, 330, 460, 6.0
    height = sum(bar * len(names) + gap for _ in rows) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for at, name in enumerate(names):
        x = 10 + at * 110
        parts.append(f'<rect x="{x}" y="10" width="11" height="11" fill="{COLOURS[at]}"/><text x="{x + 16}" y="20">{name}</text>')
    y = 40
    for scenario, cells in rows:
        best = min((cell["median"] for cell in cells.values() if cell), default=0)
        parts.append(f'<text x="{left - 8}" y="{y + bar * len(names) / 2 + 4}" text-anchor="end">{scenario.title}</text>')
        for at, name in enumerate(names):
            if cells[name] is not None and best:
                parts.append(one_bar(left, y + at * bar, bar - 2, width, limit, cells[name]["median"] / best, COLOURS[at]))
        y += bar * len(names) + gap
    parts.append(f'<text x="{left}" y="{y + 10}">times the best of all; less is better; bars end at {limit:.0f}</text></svg>')
    return "\n".join(parts) + "\n"


def one_bar(x, y, height, width, limit, ratio, colour):
    length = min(ratio, limit) / limit * width
    label = f'<text x="{x + length + 4:.0f}" y="{y + height}" font-size="9">{ratio:.2f}</text>'
    return f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{height}" fill="{colour}"/>{label}'
