"""Pages with their data mutated, in a real browser: each opens or says what is damaged, within 10 seconds and 1 GB of script memory.

    python -m benchmarks.attacks.pages [--budget 1000] [--seed 0]

Half of the mutants have bytes of a data block changed, half a value of its JSON replaced by one of another kind. The script itself is left
alone: its hash stands in the page's policy, so a changed one does not run. An error that nothing caught, a page that stays empty and a tab
that dies are faults. Needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from attviz.viewer import view
from attviz.viewer.html import script_json
from benchmarks.attacks.bytes_changed import mutated
from benchmarks.attacks.kills import analysis, documents
from benchmarks.attacks.mutants import SECONDS

FLAGS = ["--no-sandbox", "--disable-gpu", "--js-flags=--max-old-space-size=1024"]
_BLOCK = re.compile(r'(<script type="application/json"[^>]*>)(.*?)(</script>)', re.DOTALL)
_VALUES: tuple[Any, ...] = (None, True, -1, 0, 1.5, 10**9, 1e300, "", "x", "\u202e\x1b[31m", "9" * 5000, [], [[]], [None], {}, {"0": {}})


def mutant(html: str, dice: random.Random) -> str:
    """The page with one of its data blocks changed."""
    block = dice.choice(list(_BLOCK.finditer(html)))
    if dice.random() < 0.5:
        changed = mutated(block[2].encode(), dice).decode("utf-8", "replace")
    else:
        content = json.loads(block[2])
        for _ in range(dice.choice((1, 1, 2))):
            _replace(content, dice)
        changed = script_json(content)
    return html[: block.start(2)] + changed + html[block.end(2) :]


def _replace(content: Any, dice: random.Random) -> None:
    """One value, at any depth, becomes another, or goes."""
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        places += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    if places:
        holder, key = dice.choice(places)
        if dice.random() < 0.2:
            del holder[key]
        else:
            holder[key] = dice.choice(_VALUES)


def outcome(tab: Any, path: Path) -> str:
    """What became of one page: 'told', 'opened', or the fault."""
    uncaught: list[str] = []
    tab.on("pageerror", lambda error: uncaught.append(str(error)))
    try:
        tab.goto(path.as_uri(), timeout=1000 * SECONDS)
        tab.wait_for_selector(".page-header, .boot", timeout=1000 * SECONDS)
        for number in range(len(documents())):  # each is read when it is opened
            tab.evaluate("(n) => { location.hash = `d=${n}`; }", number)
            tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")
        told = tab.locator(".boot, .notice, [role=alert]").count() > 0  # of the last document
    except Exception as error:  # a time-out, or a tab that died
        return f"{type(error).__name__}: {str(error)[:200]}"
    if uncaught:
        return f"not caught: {uncaught[0][:200]}"
    return "told" if told else "opened"


def run(budget: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Try so many pages; counts of outcomes and the faults."""
    from playwright.sync_api import sync_playwright

    counts: Counter[str] = Counter()
    faults: list[str] = []
    whole = view(analysis()).html
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "mutant.html"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for number in range(budget):
            path.write_text(mutant(whole, random.Random(f"{seed} {number}")), encoding="utf-8")
            tab = browser.new_page()
            result = outcome(tab, path)
            tab.close()
            if result in ("told", "opened"):
                counts[result] += 1
            else:
                faults.append(f"page {number} (seed {seed}): {result}")
        browser.close()
    return counts, faults


def main() -> int:
    """Run and print; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts, faults = run(args.budget, args.seed)
    print("\n".join([*faults, *(f"{name:<24}{count:>8}" for name, count in sorted(counts.items()))]))
    print(f"{len(faults)} faults of {args.budget} pages")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
