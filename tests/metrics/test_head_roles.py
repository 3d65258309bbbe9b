"""HeadRoles against loops over the float64 matrix, planted heads, uncertain ones, and every way of merging."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

import attviz
from attviz.errors import ArgumentError, EmptyMetricError, MetricError
from attviz.metrics import HeadRoles, HeadStatistics
from attviz.metrics.roles_table import RolesTable, Rule

IDS = torch.tensor([[5, 7, 8, 7, 9, 7, 8], [2, 5, 6, 5, 6, 0, 0], [4, 4, 3, 2, 1, 0, 0]])
MASK = (IDS != 0).long()
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16, "vocab_size": 12}


def sharpened(model, parts):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in parts):
                parameter *= 15
    return model.eval()


def make(kind):
    torch.manual_seed(0)
    if kind == "causal":
        model = LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2, bos_token_id=5, eos_token_id=6, use_cache=False))
    else:
        model = BertModel(BertConfig(**SIZES, bos_token_id=5, eos_token_id=6))
    return sharpened(model, ("q_proj.weight", "k_proj.weight", "query.weight", "key.weight"))


def by_loops(weights, role, text):
    """Mass and chance of one text and head, from its matrix ``[tokens, tokens]``, row by row."""
    ids, length, masses, chances = IDS[text].tolist(), int(MASK[text].sum()), [], []
    for i in range(length):
        seen = [j for j in range(length) if weights[i, j] > 0]
        before = [j for j in range(i) if ids[j] == ids[i]]
        keys = {
            "own": [i],
            "previous": [i - 1],
            "next": [i + 1],
            "first": [0],
            "special": [j for j in range(length) if ids[j] in (5, 6)],
            "duplicate": before[-1:] or [-1],
            "induction": [before[-1] + 1] if before else [-1],
        }[role]
        if len(seen) < 2 or (role != "special" and not 0 <= keys[0] < IDS.shape[1]) or (role == "next" and i + 1 >= IDS.shape[1]):
            continue
        masses.append(sum(float(weights[i, j]) for j in keys))
        chances.append(len([j for j in keys if j in seen]) / len(seen) if role == "special" else 1 / len(seen))
    return masses, chances


@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_masses_and_chances_are_those_of_the_matrix(kind):
    model = make(kind)
    roles = HeadRoles(("own", "previous", "next", "first", "special", "duplicate", "induction"))
    with torch.no_grad(), attviz.capture(model, metrics=roles, keep="none"):
        model(input_ids=IDS, attention_mask=MASK)
    table = roles.compute()
    exact = make(kind).double()
    exact.set_attn_implementation("eager")
    with torch.no_grad():
        weights = torch.stack(exact(input_ids=IDS, attention_mask=MASK, output_attentions=True).attentions)
    weights[weights < 1e-30] = 0
    for place, role in enumerate(table.roles):
        for layer in range(2):
            for head in range(4):
                means = []
                for text in range(3):
                    masses, chances = by_loops(weights[layer, text, head], role, text)
                    if masses:
                        means.append((sum(masses) / len(masses), sum(chances) / len(chances)))
                mass, chance = torch.tensor(means, dtype=torch.float64).unbind(1)
                where = (place, layer, head)
                assert int(table.texts[where]) == len(means), (role, layer, head)
                torch.testing.assert_close(table.mass[where], mass.mean(), rtol=1e-4, atol=1e-6, msg=str((role, layer, head)))
                torch.testing.assert_close(table.chance[where], chance.mean(), rtol=1e-5, atol=1e-6, msg=str((role, layer, head)))
                if len(means) > 1:
                    error = (mass - chance).std() / len(means) ** 0.5
                    torch.testing.assert_close(table.error[where], error, rtol=1e-3, atol=1e-6)  # a spread of nearly equal means


def planted(mass, chance=0.1, error=0.01, texts=32, roles=("own", "previous", "induction"), rule=None):
    """A table of one layer, whose heads have the masses given."""
    values = torch.tensor(mass, dtype=torch.float64).T[:, None]
    full = torch.full_like(values, 1.0)
    return RolesTable(("a",), roles, values, chance * full, error * full, chance * full[0], (texts * full).long(), rule or Rule())


def test_labels_say_what_stands_out_and_call_the_rest_uncertain_or_none():
    table = planted([[0.05, 0.8, 0.1], [0.1, 0.12, 0.11], [0.4, 0.41, 0.1], [0.1, 0.1, 0.6]])
    assert table.labels == (("previous", "none", "uncertain", "induction"),)
    assert table.candidate(0, 2) == "previous"
    assert table.find("induction") == [(0, 3, 0.6, pytest.approx(6.0))]
    assert planted([[0.05, 0.8, 0.1]], texts=4).labels == (("uncertain",),)  # four texts tell no error
    assert planted([[0.05, 0.8, 0.1]], error=0.4).labels == (("uncertain",),)
    assert planted([[0.05, 0.3, 0.1]], chance=0.2).labels == (("none",),)  # 1.5 times chance
    assert planted([[float("nan"), 0.8, 0.1]]).labels == (("previous",),)
    vague = torch.tensor([0.01, 0.5, 0.01], dtype=torch.float64).view(3, 1, 1)  # the second may be as strong as the first
    assert planted([[0.8, 0.6, 0.4]])._replace(error=vague).labels == (("uncertain",),)
    assert planted([[0.8, 0.4, 0.6]])._replace(error=vague).labels == (("own",),)
    assert repr(table) == "<RolesTable 1 layers, 4 heads: 1 previous, 1 induction; 1 uncertain>"
    with pytest.raises(ArgumentError, match="role must be one of 'own', 'previous', 'induction'"):
        table.find("first")


def test_the_frame_has_one_row_a_head():
    frame = planted([[0.05, 0.8, 0.1], [0.1, 0.12, 0.11]]).to_pandas()
    assert frame["label"].tolist() == ["previous", "none"]
    assert {"layer", "head", "candidate", "null", "induction", "induction_chance", "induction_error"} <= set(frame.columns)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), risk=st.floats(0.001, 0.2))
def test_chance_alone_labels_no_head(seed, risk):
    """Masses scattered around chance by their own error: no head has a role."""
    generator = torch.Generator().manual_seed(seed)
    noise = 0.3 + 0.02 * torch.randn(3, 1, 16, generator=generator, dtype=torch.float64)
    full = torch.ones_like(noise)
    table = RolesTable(
        ("a",), ("own", "previous", "induction"), noise, 0.3 * full, 0.02 * full, full[0], (32 * full).long(), Rule(risk=risk)
    )
    assert set(table.labels[0]) == {"none"}


def test_any_cut_of_the_stream_and_any_merge_gives_the_same():
    model = make("causal")

    def run(metric, rows):
        with torch.no_grad(), attviz.capture(model, metrics=metric, keep="none"):
            model(input_ids=IDS[rows], attention_mask=MASK[rows])
        return metric

    whole, first, second = run(HeadRoles(), slice(0, 3)), run(HeadRoles(), slice(0, 1)), run(HeadRoles(), slice(1, 3))
    first.merge_state(second)
    for left, right in zip(whole.compute()[2:7], first.compute()[2:7], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-9, equal_nan=True)


def test_wrong_use_is_told():
    for options, message in (
        ({"roles": ("own", "cousin")}, "roles must be chosen from"),
        ({"roles": ()}, "roles must be chosen from"),
        ({"roles": "own"}, "roles must be chosen from"),
        ({"least": 1.5}, "least must be between 0 and 1, got 1.5"),
        ({"reading": "own"}, "chooses its own readings"),
    ):
        with pytest.raises(ArgumentError, match=message):
            HeadRoles(**options)
    record = attviz.records.DiagonalRecord("a", 0, 0, torch.rand(1, 2, 3))
    with pytest.raises(MetricError, match="needs more than the diagonal. Pass it to attviz.capture"):
        HeadRoles().update(record)
    silent = HeadRoles()
    silent.update(dataclasses.replace(record, reasons={"visible": "no mask is known"}))
    with pytest.raises(EmptyMetricError, match="no layer could provide .*no mask is known"):
        silent.compute()
    with pytest.raises(MetricError, match="cannot merge"):
        HeadRoles().merge_state(HeadStatistics())
