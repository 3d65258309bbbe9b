"""The text alone: a small page that tints, tells and switches, and carries nothing else."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from attviz.errors import ArgumentError
from attviz.records import Document
from attviz.viewer import view

pytestmark = pytest.mark.browser
AXE = Path(__file__).parents[2] / "frontend" / "node_modules" / "axe-core" / "axe.min.js"


def readout(sheet):
    return sheet.locator(".slim > .readout").inner_text()


def test_the_text_alone_tints_and_tells_what_a_token_gives_itself(show, analysis):
    sheet = show(view(analysis, precision="f32", show="text"), width=820, height=340)
    assert sheet.locator(".card").count() == 1
    token = sheet.locator(".token", has_text="pounds")
    token.hover()
    sheet.settle()
    place = analysis.documents[0].tokens.index("pounds")
    assert f"“pounds” gives itself {analysis.documents[0].diagonal[:, :, place].mean():.3f}"[:34] in readout(sheet)
    assert token.evaluate("e => e.style.backgroundColor") != ""
    sheet.locator(".token", has_text="CLS").hover()
    sheet.settle()
    assert readout(sheet) == "A special token, left out until you switch it in."
    sheet.get_by_role("button", name="in", exact=True).click()
    sheet.locator(".token", has_text="CLS").hover()
    sheet.settle()
    assert "CLS” gives itself" in readout(sheet)
    sheet.get_by_label("Document").select_option("2")
    sheet.until("document.querySelector('.lines').textContent.includes('federer')")


def test_the_text_alone_carries_about_a_third_of_the_page(analysis):
    whole, text = view(analysis).html, view(analysis, show="text").html
    assert len(text) < 0.4 * len(whole)
    assert "attviz-corpus-0" not in text
    assert "attviz-insights" not in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_the_text_alone(show, analysis, theme):
    sheet = show(view(analysis, show="text"), width=390, height=600, color_scheme=theme)
    sheet.evaluate(AXE.read_text(encoding="utf-8"))
    run = "() => axe.run(document, { resultTypes: ['violations'] }).then(r => r.violations.map(v => `${v.id}: ${v.nodes[0].html}`))"
    assert sheet.evaluate(run) == []
    assert sheet.evaluate("document.documentElement.scrollWidth") == 390


def test_paper_gets_all_of_the_text_alone(show, tmp_path):
    words = tuple(f"word{i}" for i in range(80))
    values = np.full((1, 2, 80), 0.4, np.float32)
    sheet = show(view(Document(" ".join(words), words, values), show="text"), width=1200, height=340)
    (tmp_path / "text.pdf").write_bytes(sheet.pdf(format="A5", print_background=True))
    told = subprocess.run(["pdftotext", tmp_path / "text.pdf", "-"], check=True, capture_output=True, text=True).stdout
    assert set(words) <= set(told.split())


def test_the_text_alone_says_what_it_cannot_show(analysis):
    with pytest.raises(ArgumentError, match='show must be "page" or "text", got \'strip\''):
        view(analysis, show="strip")
    with pytest.raises(ArgumentError, match="Leave one of the two out"):
        view(analysis, show="text", pairs=True)
    image = Document("", tuple("abcd"), np.full((1, 1, 4), 0.5, np.float32), grid=(2, 2))
    with pytest.raises(ArgumentError, match="these documents are images; leave show out"):
        view(image, show="text")
    with pytest.raises(ArgumentError, match="Call attviz.view without show="):
        view(analysis, show="text").widget()
