"""Turn ``results/capture.csv`` into the Markdown table and the figure beside it.

python -m benchmarks.capture_report
"""

from __future__ import annotations

import csv
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
WHATS = {
    "forward": "enter, forward, read, leave",
    "steady": "forward in an open context",
    "between samples": "between samples of `every=N`",
}


def read(path: Path = RESULTS / "capture.csv") -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def table(rows: list[dict[str, str]]) -> str:
    """Ratios to the plain forward, and memory beside it, as Markdown."""
    lines = [
        "| case | way | time / plain forward (20 %, median, 80 %) | extra per attention | extra peak memory |",
        "|---|---|---|---|---|",
    ]
    memory = {(row["case"], row["provider"]): row["extra_peak_bytes"] for row in rows if row["what"] == "memory"}
    for row in rows:
        if row["what"] == "memory":
            continue
        way = row["provider"] if row["what"] == "forward" else f"{row['provider']}: {row['what']}"
        extra = memory.get((row["case"], row["provider"]), "") if row["what"] == "forward" else ""
        shown = f"{int(extra) / 2**20:+.1f} MiB" if extra else ""
        micro = f"{float(row['extra_us_per_attention']):.0f} us" if "tiny" in row["case"] else ""
        quantiles = f"{float(row['ratio_p20']):.3f}, **{float(row['ratio_p50']):.3f}**, {float(row['ratio_p80']):.3f}"
        lines.append(f"| {row['case']} | {way} | {quantiles} | {micro} | {shown} |")
    first = rows[0]
    lines.append("")
    lines.append(
        f"{first['device']}, {first['cores']} cores, {first['threads']} threads, torch {first['torch']}, "
        f"transformers {first['transformers']}, commit {first['commit']}, {first['utc']}."
    )
    return "\n".join(lines) + "\n"


def figure(rows: list[dict[str, str]], path: Path) -> None:
    """Extra time of each way, one group a case."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["what"] == "forward"]
    cases = list(dict.fromkeys(row["case"] for row in shown))
    colours = {"attviz": "#0072b2", "output_attentions": "#c95400", "nnsight": "#7a7200", "transformer_lens": "#a8479a"}
    fig = Figure(figsize=(7, 0.6 * len(cases) + 1.2), layout="constrained")
    ax = fig.subplots()
    for index, provider in enumerate(colours):
        own = [row for row in shown if row["provider"] == provider]
        places = [cases.index(row["case"]) + (index - 1.5) * 0.2 for row in own]
        low, middle, high = ([100 * (float(row[name]) - 1) for row in own] for name in ("ratio_p20", "ratio_p50", "ratio_p80"))
        errors = [[m - one for m, one in zip(middle, low, strict=True)], [one - m for m, one in zip(middle, high, strict=True)]]
        ax.barh(places, middle, height=0.18, color=colours[provider], label=provider, xerr=errors, error_kw={"lw": 0.8})
    ax.axvline(0.0, color="#16181d", lw=1)
    ax.set(yticks=range(len(cases)), yticklabels=cases, xlabel="extra time over the plain SDPA forward, % (median of alternating pairs)")
    ax.invert_yaxis()
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, 1.12), ncols=4)
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=150)


def main() -> None:
    rows = read()
    (RESULTS / "capture.md").write_text(table(rows))
    figure(rows, RESULTS / "capture.png")
    print(table(rows))


if __name__ == "__main__":
    main()
