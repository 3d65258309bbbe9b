"""The three views of pairs: what is pointed at, opened, pinned and told, by pointer, key and address."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from attviz.records import Document
from attviz.viewer import view
from attviz.viewer.pairs import PairLayer

pytestmark = pytest.mark.browser
AXE = Path(__file__).parents[2] / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
WORDS = ("[CLS]", "the", "old", "bridge", "over", "the", "river", "[SEP]")


def softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.fixture
def layers():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 3, 4, len(WORDS), 16)).astype(np.float32)
    made = [PairLayer(f"encoder.layer.{i}", 1.5 * query[i], key[i], scale=0.25) for i in range(2)]
    return [*made, PairLayer("encoder.layer.2", weights=softmax(query[2] @ key[2].swapaxes(1, 2)))]


@pytest.fixture
def paired(layers):
    own = np.full((3, 4, len(WORDS)), 0.25, np.float32)
    special = np.array([word.startswith("[") for word in WORDS])
    documents = [Document(" ".join(WORDS), WORDS, own, special=special, name=f"text {i}") for i in range(2)]
    return view(documents, pairs=[layers, []])


def weights(layer):
    return softmax(layer.scale * layer.query @ layer.key.swapaxes(1, 2))


def readout(sheet):
    return sheet.locator(".card-pairs .readout").inner_text()


def point_at_query(sheet, query):
    box = sheet.locator(".figure.pairs-lines").bounding_box()
    row = (box["height"] - 22 - 6) / len(WORDS)
    sheet.mouse.move(box["x"] + 20, box["y"] + 22 + (query + 0.5) * row)
    sheet.settle()


def test_head_view_tells_where_a_token_looks_and_pins_it(show, paired, layers):
    sheet = show(paired, address="tab=pairs&x=pairs.layer=1&x=pairs.heads=2")
    point_at_query(sheet, 3)
    row = weights(layers[1])[2, 3]
    best = int(row.argmax())
    assert f"“bridge” 3 looks most: H2 at “{WORDS[best]}” {best}" in readout(sheet)
    assert float(readout(sheet).split("(")[1][:-1]) == pytest.approx(row[best], abs=0.005)
    sheet.mouse.down()
    sheet.mouse.up()
    assert sheet.hash()["t"] == ["3"]
    sheet.mouse.move(5, 5)
    sheet.settle()
    assert "“bridge” 3 looks most" in readout(sheet)


def test_pointing_into_the_matrix_tells_the_pair(show, paired, layers):
    sheet = show(paired, address="tab=pairs")
    sheet.until("document.querySelectorAll('.pairs-list li').length > 3")
    mean = weights(layers[0]).mean(0)
    strongest = max((mean[q, k], q, k) for q in range(1, 7) for k in range(1, 7))
    first = sheet.locator(".pairs-list li").first.inner_text().split()
    assert first[:3] == [WORDS[strongest[1]], "→", WORDS[strongest[2]]]
    assert float(first[-1]) == pytest.approx(strongest[0], abs=0.005)
    box = sheet.locator(".figure.pairs-matrix canvas").first.bounding_box()
    sheet.mouse.move(box["x"] + box["width"] * 5.5 / 8, box["y"] + box["height"] * 2.5 / 8)
    sheet.settle()
    assert readout(sheet).startswith("“old” 2 → “the” 5: H0 ")
    found = [float(part.split()[1]) for part in readout(sheet).split(": ")[1].split(" · ")]
    assert found == pytest.approx(list(weights(layers[0])[:, 2, 5]), abs=0.005)


def test_a_pair_that_is_pointed_at_in_the_list_comes_into_sight(show):
    rng = np.random.default_rng(0)
    names = tuple(f"w{i}" for i in range(120))
    query, key = rng.normal(size=(2, 1, 120, 8)).astype(np.float32)
    document = Document(" ".join(names), names, np.full((1, 1, 120), 0.2, np.float32))
    sheet = show(view([document], pairs=[[PairLayer("layer", 2 * query, key, scale=0.35)]]), address="tab=pairs", height=650)
    sheet.until("document.querySelectorAll('.pairs-list li').length > 3")
    places = [int(text.split()[0]) for text in sheet.locator(".pairs-list .note").all_inner_texts()]
    far = next(i for i, place in enumerate(places) if place > 60)
    sheet.locator(".pairs-list li").nth(far).hover()
    sheet.settle()
    assert sheet.evaluate("document.querySelector('.pairs-scroll').scrollTop") > 100
    assert f"\u201cw{places[far]}\u201d {places[far]} \u2192" in readout(sheet)


def test_heads_are_chosen_by_click_and_double_click(show, paired):
    sheet = show(paired, address="tab=pairs")
    heads = sheet.locator(".pairs-head")
    heads.nth(1).click()
    assert sheet.hash()["x"] == ["pairs.view=heads", "pairs.layer=0", "pairs.heads=1"]
    heads.nth(3).click()
    assert sheet.hash()["x"][2] == "pairs.heads=1,3"
    assert sheet.locator(".pairs-side h3").first.inner_text() == "L0, mean of 2 heads"
    sheet.locator(".card-pairs").get_by_role("button", name="all", exact=True).click()
    assert len(sheet.hash()["x"]) == 2


def test_model_view_draws_every_head_and_opens_one(show, paired):
    sheet = show(paired, address="tab=pairs&x=pairs.view=model")
    sheet.until("document.querySelector('.pairs-model-part')?.dataset.done === '12'")
    box = sheet.locator(".figure.pairs-model canvas").first.bounding_box()
    pixels = sheet.evaluate(
        """() => {
            const canvas = document.querySelector(".figure.pairs-model canvas");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    assert pixels > 100
    cell = (box["width"] - 34) / 4
    sheet.mouse.move(box["x"] + 34 + 2.5 * cell, box["y"] + 20 + 1.5 * cell)
    sheet.settle()
    assert readout(sheet).startswith("L1·H2 · encoder.layer.1")
    sheet.until("document.querySelector('.pairs-side h3').textContent === 'L1·H2'")
    sheet.mouse.down()
    sheet.mouse.up()
    assert sheet.hash()["x"] == ["pairs.view=heads", "pairs.layer=1", "pairs.heads=2"]


def test_neuron_view_adds_up(show, paired, layers):
    sheet = show(paired, address="tab=pairs&x=pairs.view=neurons&x=pairs.heads=1&t=2")
    box = sheet.locator(".figure.pairs-neurons").bounding_box()
    row = (box["height"] - 62 - 6) / len(WORDS)
    sheet.mouse.move(box["x"] + box["width"] - 20, box["y"] + 62 + 4.5 * row)
    sheet.settle()
    found = [float(text) for text in re.findall(r"(?:sum|scale|weight) (-?[\d.]+)", readout(sheet))]
    product = float(layers[0].query[1, 2] @ layers[0].key[1, 4])
    assert found == pytest.approx([product, 0.25, weights(layers[0])[1, 2, 4]], abs=0.01)
    seen = set()
    for x in range(int(box["x"]) + 160, int(box["x"] + box["width"]) - 300, 9):
        sheet.mouse.move(x, box["y"] + 62 + 4.5 * row)
        told = re.search(r"element (\d+): query (\S+) × key (\S+) = (\S+)", readout(sheet))
        if told and "10" not in told[0].split("·")[-1]:
            at, *numbers = told.groups()
            one, other = layers[0].query[1, 2, int(at)], layers[0].key[1, 4, int(at)]
            assert [float(number) for number in numbers] == pytest.approx([one, other, one * other], abs=0.01)
            seen.add(int(at))
    assert len(seen) > 8


def test_an_image_shows_where_a_patch_looks(show):
    rng = np.random.default_rng(0)
    names = ("[CLS]", *(f"{row},{column}" for row in range(2) for column in range(3)))
    query, key = rng.normal(size=(2, 2, 7, 8)).astype(np.float32)
    layer = PairLayer("layer", 2 * query, key, scale=0.35)
    own = np.full((1, 2, 7), 0.2, np.float32)
    document = Document("", names, own, special=np.array([True, *[False] * 6]), grid=(2, 3))
    image = (rng.random((20, 30, 3)) * 255).astype(np.uint8)
    sheet = show(view([document], pairs=[[layer]], images=[image]), address="tab=pairs&x=pairs.heads=1")
    sheet.until("document.querySelector('.figure.pairs-patches canvas')?.width > 1")
    box = sheet.locator(".figure.pairs-patches canvas").first.bounding_box()
    sheet.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.75)
    sheet.settle()
    assert readout(sheet).startswith("\u201c1,1\u201d 5 looks most")
    row = weights(layer)[1, 5, 1:]
    colors = sheet.evaluate(
        """() => {
            const canvas = document.querySelector(".figure.pairs-patches canvas");
            const { width, height } = canvas;
            const green = canvas.getContext("2d").getImageData(0, 0, width, height).data.filter((_, at) => at % 4 === 1);
            return [width, height, [...green]];
        }"""
    )
    green = np.reshape(colors[2], colors[1::-1])
    cells = [block.mean() for half in np.array_split(green, 2) for block in np.array_split(half, 3, axis=1)]  # viridis grows in green
    assert int(np.argmax(cells)) == int(row.argmax())


def test_a_layer_of_weights_shows_its_heads_and_has_no_neurons(show, paired, layers):
    sheet = show(paired, address="tab=pairs&x=pairs.layer=2&x=pairs.heads=0")
    assert "weights in 16 bits" in sheet.locator(".card-pairs header .note").inner_text()
    point_at_query(sheet, 1)
    assert float(readout(sheet).split("(")[1][:-1]) == pytest.approx(layers[2].weights[0, 1].max(), abs=0.001)
    sheet.locator(".card-pairs").get_by_role("button", name="Neurons", exact=True).click()
    sheet.settle()
    assert sheet.locator(".pairs-lack").is_visible()
    assert sheet.locator(".figure.pairs-neurons").is_hidden()


def test_keys_move_through_tokens_layers_and_documents(show, paired):
    sheet = show(paired, address="tab=pairs")
    sheet.locator(".figure.pairs-lines").focus()
    sheet.keyboard.press("ArrowDown")
    sheet.keyboard.press("ArrowDown")
    sheet.until("document.querySelector('.live').textContent.includes('“the” 1 looks most')")
    sheet.keyboard.press("Enter")
    sheet.keyboard.press("ArrowRight")
    assert sheet.hash()["t"] == ["1"]
    assert "pairs.layer=1" in sheet.hash()["x"]
    sheet.locator("h1").click()
    sheet.evaluate("document.activeElement.blur()")
    sheet.keyboard.press("ArrowDown")
    sheet.until("document.querySelector('.pairs .empty') !== null")
    assert "Document 1 has no query and key in this page" in sheet.locator(".pairs .empty").inner_text()
    sheet.keyboard.press("ArrowUp")
    sheet.until("document.querySelector('.figure.pairs-lines') !== null")


def picture(sheet, kind):
    with sheet.expect_download() as caught:
        sheet.locator(".card-pairs").get_by_role("button", name=kind, exact=True).click()
    return Path(caught.value.path()).read_bytes()


@pytest.mark.parametrize("scene", ["heads", "model", "neurons"])
def test_each_view_becomes_a_picture_with_title_key_and_caption(show, paired, scene):
    sheet = show(paired, address=f"tab=pairs&x=pairs.view={scene}&x=pairs.layer=1&x=pairs.heads=0,2&t=3", height=420)
    if scene == "model":
        sheet.until("document.querySelector('.pairs-model-part')?.dataset.done === '12'")
    svg = picture(sheet, "SVG").decode()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert (
        texts[0]
        == {"heads": "text 0: L1 (encoder.layer.1)", "neurons": "text 0: L1 (encoder.layer.1)", "model": "text 0: all heads"}[scene]
    )
    assert texts[-1].startswith("attviz \u00b7 ")
    if scene == "model":
        assert svg.count("<image ") == 12
    else:
        assert [text for text in texts if re.fullmatch(r"H\d", text)] == (["H0", "H2"] if scene == "heads" else ["H0"])
        assert all(word in texts for word in WORDS), "all rows, not only those in sight"
    image = imread(io.BytesIO(picture(sheet, "PNG")), format="png")
    width, height = (float(size) for size in re.search(r'<svg[^>]* width="([\d.]+)" height="([\d.]+)"', svg).groups())
    assert image.shape[:2] == (round(3 * height), round(3 * width))
    assert image.std() > 0.02


@pytest.mark.parametrize("scene", ["heads", "model", "neurons"])
def test_print_shows_what_the_screen_shows(show, paired, scene):
    sheet = show(paired, address=f"tab=pairs&x=pairs.view={scene}")
    sheet.until("document.querySelectorAll('.pairs-list li').length > 3" if scene != "neurons" else "true")
    sheet.emulate_media(media="print")
    sheet.set_viewport_size({"width": 700, "height": 1000})
    found = sheet.evaluate(
        """() => [...document.querySelectorAll(".card-pairs :not([hidden]) > .figure canvas:not(.over)")].map(canvas => {
            const [one, card] = [canvas, canvas.closest(".card")].map(element => element.getBoundingClientRect());
            const bent = one.width / one.height - canvas.width / canvas.height;
            return [one.width, one.height, one.right <= card.right + 1, one.bottom <= card.bottom + 1, bent];
        })"""
    )
    assert len(found) == (1 if scene == "neurons" else 2)
    for width, height, inside, above, bent in found:
        assert min(width, height) > 60
        assert inside
        assert above
        assert abs(bent) < 0.05
    if scene != "neurons":
        assert sheet.locator(".pairs-pair").first.is_visible()


def test_special_tokens_are_out_of_the_overview_until_they_are_asked_for(show, paired):
    sheet = show(paired, address="tab=pairs&x=pairs.heads=0")
    drawn = {}
    for choice in ("out", "in"):
        sheet.get_by_role("group", name="Special tokens").get_by_role("button", name=choice, exact=True).click()
        sheet.settle()
        sheet.until("document.querySelectorAll('.pairs-list li').length > 3")
        svg = picture(sheet, "SVG").decode()
        drawn[choice] = svg.count("<path ")
        assert ("without special tokens" in svg) == (choice == "out")
        pairs = " ".join(sheet.locator(".pairs-pair").all_inner_texts())
        assert ("[CLS]" in pairs or "[SEP]" in pairs) == (choice == "in")
    assert 0 < drawn["out"] < drawn["in"]


@pytest.mark.parametrize("dim", [32, 128])
def test_numbers_of_the_neuron_view_fit_a_phone(show, dim):
    query, key = np.random.default_rng(0).normal(size=(2, 2, len(WORDS), dim)).astype(np.float32)
    document = Document(" ".join(WORDS), WORDS, np.full((1, 2, len(WORDS)), 0.2, np.float32))
    made = view([document], pairs=[[PairLayer("layer 0", query, key, scale=0.1)]])
    sheet = show(made, address="tab=pairs&x=pairs.view=neurons", width=390, height=844)
    picture = Image.open(io.BytesIO(sheet.locator(".figure.pairs-neurons").screenshot())).convert("RGB")
    edge = np.asarray(picture).astype(int)[:, -4:]
    assert np.abs(edge - edge[2, 0]).max() < 12  # no digit is cut by the edge


def test_damaged_pairs_are_told(show, paired):
    html = re.sub(r' data-sum="[0-9a-f]{8}"', "", paired.html)
    start = html.index('id="attviz-pairs-0-0">') + len('id="attviz-pairs-0-0">')
    sheet = show(html[: start + 1] + html[start + 9 :], address="tab=pairs")
    sheet.until("document.querySelector('.notice') !== null")
    assert "encoder.layer.0 are cut short; make the page again" in sheet.locator(".notice").inner_text()


def test_a_hostile_address_and_hostile_names_stay_harmless(show, layers):
    words = ("</script><script>window.hacked=1</script>", "<img src=x onerror=window.hacked=1>", "\u202egnp", "=1+1", *"abcd")
    named = [PairLayer("<b>layer</b>", one.query, one.key, one.weights, one.scale) for one in layers]
    page = view([Document("x", words, np.full((1, 4, 8), 0.5, np.float32))], pairs=[named])
    sheet = show(page, address="tab=pairs&x=pairs.layer=99&x=pairs.heads=__proto__,-1,7&x=pairs.view=%3Cimg%3E&x=pairs.query=1e9")
    sheet.until("document.querySelectorAll('.pairs-list li').length > 3")
    assert sheet.evaluate("window.hacked") is None
    assert sheet.locator(".card-pairs img, .card-pairs b").count() == 0
    with sheet.expect_download() as caught:
        sheet.locator(".card-pairs").get_by_role("button", name="CSV", exact=True).click()
    lines = Path(caught.value.path()).read_text(encoding="utf-8").split("\n")
    assert any("'=1+1" in line for line in lines)


@pytest.mark.parametrize("scene", ["heads", "model", "neurons"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(show, paired, scene, theme):
    sheet = show(paired, address=f"tab=pairs&theme={theme}&x=pairs.view={scene}&t=2")
    sheet.evaluate(AXE.read_text(encoding="utf-8"))
    run = "() => axe.run(document, { resultTypes: ['violations'] }).then(r => r.violations.map(v => `${v.id}: ${v.nodes[0].html}`))"
    assert sheet.evaluate(run) == []


SIZES = [(1280, 720), (1366, 650), (1440, 760), (1536, 730), (1440, 900), (2560, 1440), (768, 1024), (390, 844)]


@pytest.mark.parametrize("scene", ["heads", "model", "neurons"])
def test_nothing_leaves_its_card_or_overlaps_in_any_window(show, paired, scene):
    sheet = show(paired, address=f"tab=pairs&x=pairs.view={scene}")
    for width, height in SIZES:
        sheet.set_viewport_size({"width": width, "height": height})
        sheet.settle()
        sheet.settle()
        faults = sheet.evaluate(
            """() => {
                const card = document.querySelector(".card-pairs");
                const box = card.getBoundingClientRect();
                const faults = [];
                for (const one of card.querySelectorAll("button, select, .figure, p, h2, h3, li")) {
                    if (!one.offsetParent || one.closest(".pairs-scroll, .pairs-side") !== null) continue;
                    const at = one.getBoundingClientRect();
                    const inside = at.left > box.left - 1 && at.right < box.right + 1 && at.bottom < box.bottom + 1;
                    if (!inside) faults.push(`outside: ${one.className}`);
                }
                const all = card.querySelectorAll("header button, header select, .pairs-heads button");
                const controls = [...all].filter(one => one.offsetParent);
                controls.forEach((one, i) => controls.slice(i + 1).forEach(other => {
                    const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
                    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
                    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
                    if (across > 1.5 && down > 1) faults.push(`overlap: ${one.textContent} ${other.textContent}`);
                }));
                const figure = card.querySelector(".pairs-part .figure").getBoundingClientRect();
                if (figure.width < 200 || figure.height < 120) faults.push(`small: ${figure.width} x ${figure.height}`);
                if (document.documentElement.scrollWidth > document.documentElement.clientWidth) {
                    const wide = [...card.querySelectorAll("*")].find(one => one.getBoundingClientRect().right > innerWidth + 1);
                    if (wide) faults.push(`wider than the window: ${wide.className}`);
                }
                return faults;
            }"""
        )
        assert faults == [], (width, height)
