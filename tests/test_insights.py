"""What stands out: every number of a sentence agrees with a plain loop, and a null is what chance gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attviz
from attviz._insights import change_sentences, head_cards, insights, read_corpus, sentences, text_sentences
from attviz._insights._chance import chance_of_best, chance_of_mean
from attviz._insights._words import CLASSES, word_classes
from attviz.records import Analysis, Document


def make(diagonals, *, outcomes=None, special=True):
    """Documents with these diagonals, the first and the last token special."""
    documents = []
    for number, diagonal in enumerate(diagonals):
        count = diagonal.shape[2]
        words = [f"word{(number + i) % 5}" if i % 3 else "." for i in range(count - 2)]
        marks = np.array([special, *[False] * (count - 2), special])
        label = None if outcomes is None else 0
        prediction = None if outcomes is None else int(not outcomes[number])
        tokens = ("[CLS]" if special else "a", *words, "[SEP]" if special else "b")
        documents.append(Document("", tokens, diagonal.astype(np.float32), special=marks, label=label, prediction=prediction))
    return Analysis(("l0", "l1"), documents)


def random_diagonals(seed, lengths=(9, 14, 7, 20, 11)):
    rng = np.random.default_rng(seed)
    return [rng.beta(0.6, 6.0, (2, 3, length)) for length in lengths]


def by_name(found):
    return {one.name: one for one in found}


@given(st.integers(0, 200), st.lists(st.integers(3, 12), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_levels_agree_with_a_loop(seed, lengths):
    analysis = make(random_diagonals(seed, lengths))
    rows, even = [[] for _ in range(6)], []
    for document in analysis.documents:
        flat = document.diagonal.reshape(6, -1).astype(np.float64)
        for token in np.flatnonzero(~document.special):
            even.append(1 / len(document.tokens))
            for row in range(6):
                rows[row].append(flat[row, token])
    found = by_name(insights(analysis))
    assert found["own"].value == pytest.approx(np.mean(rows))
    assert found["own"].expected == pytest.approx(np.mean(even))
    means = [np.mean(row) for row in rows]
    if max(means) > np.median(means):
        assert found["most"].value == pytest.approx(max(means))
        assert found["most"].state["pin"][0] == f"L{np.argmax(means) // 3}·H{np.argmax(means) % 3}"


def test_heads_that_never_look_at_themselves_are_counted_and_named():
    diagonals = random_diagonals(0)
    for diagonal in diagonals:
        diagonal[1, 2] = 0.5 / diagonal.shape[2]
        diagonal[0, 1] = np.minimum(0.9 / diagonal.shape[2], diagonal[0, 1])
    found = by_name(insights(make(diagonals)))["never"]
    assert found.value == 2
    assert "2 of 6 heads never look at their own position" in found.text
    assert set(found.state["pin"]) == {"L0·H1", "L1·H2"}


def test_special_tokens_are_left_out_of_everything_but_their_own_sentence():
    loud = random_diagonals(1)
    for diagonal in loud:
        diagonal[:, :, [0, -1]] = 0.9
    quiet = [diagonal.copy() for diagonal in loud]
    for diagonal in quiet:
        diagonal[:, :, [0, -1]] = 0.01
    one, other = by_name(insights(make(loud))), by_name(insights(make(quiet)))
    assert one["special"].value == pytest.approx(0.9)
    assert other["special"].value == pytest.approx(0.01)
    assert "give themselves 90%, more than the other tokens in" in one["special"].text
    assert "give themselves 1%, less than the other tokens in" in other["special"].text
    assert {name: found.text for name, found in one.items() if name != "special"} == {
        name: found.text for name, found in other.items() if name != "special"
    }


def test_a_causal_first_token_counts_nowhere():
    diagonals = random_diagonals(2)
    for diagonal in diagonals:
        diagonal[:, :, 0] = 1.0
    analysis = make(diagonals, special=False)
    assert by_name(insights(analysis))["own"].value == pytest.approx(np.mean(np.concatenate([d[:, :, 1:].reshape(-1) for d in diagonals])))
    assert by_name(insights(analysis))["own"].expected == pytest.approx(
        np.mean(np.concatenate([1 / np.arange(2, d.shape[2] + 1) for d in diagonals]))
    )


def test_a_head_that_knows_wrong_documents_is_found_and_noise_is_not():
    outcomes = [number % 3 != 0 for number in range(30)]
    noise = random_diagonals(3, [12] * 30)
    found = by_name(insights(make(noise, outcomes=outcomes)))["wrong"]
    assert found.text.startswith("No head tells wrong documents from right ones")
    assert abs(found.value) <= found.expected
    for diagonal, right in zip(noise, outcomes, strict=True):
        diagonal[1, 0] += 0 if right else 0.3
    found = by_name(insights(make([np.minimum(one, 1) for one in noise], outcomes=outcomes)))["wrong"]
    assert found.text.startswith("L1·H0 tells wrong documents from right ones")
    assert found.value > found.expected
    assert found.state == {"pin": ["L1·H0"], "outcome": "wrong"}


def test_the_null_of_outcomes_holds_its_level():
    """Of 60 noise corpora at most a few may exceed a 95 % null: with 60 draws at 5 %, ten or more have a chance of 1e-3."""
    outcomes = [number % 2 == 0 for number in range(12)]
    exceeded = 0
    for seed in range(60):
        found = by_name(insights(make(random_diagonals(seed, [6] * 12), outcomes=outcomes)))["wrong"]
        exceeded += abs(found.value) > found.expected
    assert exceeded < 10


def test_chance_levels_agree_with_theory():
    values = np.random.default_rng(0).random(4000)
    low, high = chance_of_mean(values, 100)  # drawn at random, hence 0.02 and 0.01 below
    spread = 1.96 * np.sqrt(1 / 12 / 100)
    assert (low, high) == (pytest.approx(0.5 - spread, abs=0.02), pytest.approx(0.5 + spread, abs=0.02))
    singles = chance_of_best(values, np.ones(20, dtype=int))  # the largest of 20 uniforms: 95 % below 0.95 ** (1 / 20)
    assert singles == pytest.approx(0.95 ** (1 / 20), abs=0.01)


def test_a_document_that_is_unlike_the_others_is_told_so():
    diagonals = random_diagonals(5, [10] * 12)
    diagonals[7][0, 2] = 0.8
    told = text_sentences(read_corpus(make(diagonals).documents))
    head = next(one for one in told[7] if one.name == "head")
    assert head.text.startswith("L0·H2 is where this text differs most: 80%")
    assert head.value > head.expected
    assert head.document == 7


def test_a_token_far_above_its_mean_elsewhere_is_told():
    diagonals = random_diagonals(6, [12] * 10)
    diagonals[4][:, :, 5] = 0.9
    corpus = read_corpus(make(diagonals).documents)
    token = next(one for one in text_sentences(corpus)[4] if one.name == "token")
    assert token.state == {"t": 5}
    assert token.value == pytest.approx(0.9, rel=1e-5)


@given(st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_head_cards_agree_with_a_loop(seed):
    analysis = make(random_diagonals(seed))
    cards = head_cards(read_corpus(analysis.documents))
    values, best = [[] for _ in CLASSES], (-1.0, 0, 0)
    for number, document in enumerate(analysis.documents):
        own = document.diagonal[1, 1].astype(np.float64)
        for token, kind in enumerate(word_classes(document.tokens)):
            if not document.special[token]:
                values[kind].append(own[token])
                best = max(best, (own[token], number, token))
    for kind, mean in enumerate(cards["kinds"][4]):
        assert (mean is None) if not values[kind] else mean == pytest.approx(np.mean(values[kind]), rel=1e-3)  # the cards round
    assert cards["top"][4][0] == [best[1], best[2], pytest.approx(best[0], rel=1e-3)]
    flat = np.concatenate([one.diagonal.reshape(6, -1)[:, ~one.special] for one in analysis.documents], axis=1).astype(np.float64)
    expected = np.corrcoef(flat)[4]
    nearest = max((row for row in range(6) if row != 4), key=lambda row: expected[row])
    assert cards["near"][4][0] == [nearest, pytest.approx(expected[nearest], abs=2e-3)]


def test_what_changed_between_two_sides_and_what_did_not():
    before = random_diagonals(8, [10] * 8)
    noisy = [np.clip(one + 0.01 * np.random.default_rng(i).standard_normal(one.shape), 0, 1) for i, one in enumerate(before)]
    still = by_name(change_sentences(read_corpus(make(before).documents), read_corpus(make(noisy).documents), ("a", "b")))["change"]
    assert abs(still.value) < 0.02
    for one in noisy:
        one[1, 1] = np.minimum(1, one[1, 1] + 0.2)
    moved = by_name(change_sentences(read_corpus(make(before).documents), read_corpus(make(noisy).documents), ("a", "b")))["change"]
    assert moved.text.startswith("L1·H1 changed most")
    assert moved.value > moved.expected


def test_the_same_analysis_gives_the_same_sentences_and_an_empty_one_none():
    analysis = make(random_diagonals(9))
    assert attviz.insights(analysis) == attviz.insights(analysis)
    assert attviz.insights(Analysis(("l",), [])) == ()
    missing = Document("", ("a", "b"), np.full((1, 2, 2), np.nan, np.float32))
    assert sentences(read_corpus([missing])) == ()


def test_missing_values_are_no_zeros():
    diagonals = random_diagonals(10)
    holed = [one.copy() for one in diagonals]
    for one in holed:
        one[0, 0, 2:4] = np.nan
    values = [one.reshape(6, -1)[:, 1:-1] for one in holed]
    assert by_name(insights(make(holed)))["own"].value == pytest.approx(np.nanmean(np.concatenate([one.reshape(-1) for one in values])))
