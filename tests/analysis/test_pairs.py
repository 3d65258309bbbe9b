"""`attviz.pairs` and its command: a few texts, an image, an encoder-decoder; what is asked wrongly."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers

import attviz
from attviz.cli import main
from attviz.errors import ArgumentError
from tests.tiny import Encoder

MAJOR = int(transformers.__version__.split(".")[0])


def part(html, name):
    return json.loads(html.split(f'id="attviz-{name}">')[1].split("</script>")[0])


@pytest.fixture(scope="module")
def minilm():
    from attviz.analysis.models import load_model

    return load_model("all-MiniLM-L6-v2")


def test_texts_of_different_lengths_become_documents(minilm):
    model, tokenizer = minilm
    model.train()
    html = attviz.pairs(model, tokenizer, ["The bank by the river.", "It rained."], layers=[0, 5], heads=[1, 2, 3]).html
    assert model.training
    model.eval()
    head = part(html, "head")
    assert [row["tokens"] for row in head["documents"]] == [8, 5]
    assert [row["name"] for row in head["documents"]] == ["text 0", "text 1"]
    found = part(html, "pairs-1")
    assert found["sides"][0] == {"tokens": ["[CLS]", "it", "rained", ".", "[SEP]"], "special": [0, 4]}
    assert [(layer["name"], layer["heads"], layer["form"]) for layer in found["layers"]] == [
        ("encoder.layer.0.attention.self", [1, 2, 3], "f16"),
        ("encoder.layer.5.attention.self", [1, 2, 3], "f16"),
    ]
    assert max(layer["error"] for layer in found["layers"]) < 0.004


def test_a_long_text_is_cut(minilm):
    page = attviz.pairs(*minilm, "word " * 60, max_length=16)
    assert part(page.html, "pairs-0")["layers"][0]["size"] == [16, 16]


@pytest.fixture
def t5(minilm):
    from transformers import T5Config, T5Model

    torch.manual_seed(0)
    config = T5Config(vocab_size=30522, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0)
    tokenizer = copy.deepcopy(minilm[1])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # those of T5's own
    return T5Model(config).eval(), tokenizer


def test_an_encoder_decoder_shows_three_kinds(t5):
    html = attviz.pairs(*t5, "good day to you", targets="guten tag").html
    found = part(html, "pairs-0")
    source, target = (side["tokens"] for side in found["sides"])
    assert source == ["[CLS]", "good", "day", "to", "you", "[SEP]"]
    assert target[:2] == ["[PAD]", "[CLS]"]
    assert [(layer["cross"], layer["q"], layer["k"]) for layer in found["layers"]] == [
        *[(False, 0, 0)] * 2,
        *[(False, 1, 1)] * 2,
        *[(True, 1, 0)] * 2,
    ]
    if MAJOR < 5:  # its T5 has no fused attention: the page carries its weights
        assert [layer["form"] for layer in found["layers"]] == ["weights"] * 6
        return
    assert [layer.get("bias") for layer in found["layers"]] == [["line", 2]] * 4 + [None] * 2
    assert [layer["band"] for layer in found["layers"]] == [[None, None]] * 2 + [[None, 0]] * 2 + [[None, None]] * 2


def test_an_image_model_shows_its_patches():
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    html = attviz.pairs(ViTModel(config).eval(), processor, [np.zeros((40, 40, 3), np.uint8)]).html
    found = part(html, "pairs-0")
    assert found["layers"][0]["size"] == [5, 5]
    assert found["sides"][0] == {"tokens": ["[CLS]", "0,0", "0,1", "1,0", "1,1"], "special": [0]}
    assert part(html, "doc-0")["patches"] == [2, 2]
    assert part(html, "doc-0")["image"].startswith("data:image/png")


def test_what_does_not_fit_is_told(minilm, t5):
    with pytest.raises(ArgumentError, match="there are no texts"):
        attviz.pairs(*minilm, [])
    with pytest.raises(ArgumentError, match="BertModel has no decoder to read targets="):
        attviz.pairs(*minilm, "a", targets="b")
    with pytest.raises(ArgumentError, match=r"T5Model has a decoder. Pass targets=\[...\], what the decoder reads"):
        attviz.pairs(*t5, "a")
    with pytest.raises(ArgumentError, match="2 targets for 1 texts"):
        attviz.pairs(*t5, "a", targets=["b", "c"])


def test_the_cure_that_the_error_names_works(minilm):
    model, tokenizer = minilm
    inputs = tokenizer("The bank.", return_tensors="pt")
    with attviz.capture(model) as cap, torch.no_grad():
        model(**inputs)
    with pytest.raises(ArgumentError, match=r"this Capture holds diagonals only"):
        attviz.view(cap, tokenizer=tokenizer, pairs=True)
    with attviz.capture(model, read=[attviz.readings.QueryKey()]) as cap, torch.no_grad():
        model(**inputs)
    assert part(attviz.view(cap, tokenizer=tokenizer, pairs=True).html, "pairs-0")["layers"][0]["size"] == [5, 5]
    assert "attviz-pairs-0" not in attviz.view(cap, tokenizer=tokenizer, pairs=False).html
    with attviz.capture(model, read=[attviz.readings.QueryKey(max_tokens=3)]) as cap, torch.no_grad():
        model(**inputs)
    with pytest.raises(ArgumentError, match=r"a layer said: 5 tokens are more than max_tokens=3"):
        attviz.view(cap, tokenizer=tokenizer, pairs=True)


def test_query_and_key_that_overflow_are_told():
    model = Encoder(1).eval()
    with torch.no_grad():
        model.blocks[0].attention.query.weight *= 1e6
    x = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    for dtype, fits in ((torch.float16, False), (torch.float32, True)):
        with attviz.capture(model, read=[attviz.readings.QueryKey(dtype=dtype)]) as cap, torch.no_grad():
            model(x)
        if fits:
            assert part(attviz.view(cap).html, "pairs-0")["layers"][0]["form"] == "f32"
        else:
            with pytest.raises(ArgumentError, match=r"do not fit torch.float16.*QueryKey\(dtype=torch.float32\)"):
                attviz.view(cap)


def test_the_command_writes_a_page(tmp_path, capsys):
    (tmp_path / "more.txt").write_text("It rained.\n\n", encoding="utf-8")
    arguments = [
        "pairs",
        "all-MiniLM-L6-v2",
        "The bank.",
        "--file",
        str(tmp_path / "more.txt"),
        "-o",
        str(tmp_path / "p.html"),
        "--layers",
        "0",
    ]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'p.html'}\n"
    html = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert len(part(html, "head")["documents"]) == 2
    assert len(part(html, "pairs-1")["layers"]) == 1
    assert main(["pairs", "all-MiniLM-L6-v2", "-o", str(tmp_path / "q.html")]) == 2
    assert "there are no texts" in capsys.readouterr().err
