"""What the torch implementation and the Triton twin of the passes are both held to: a float64 oracle, on random input."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from attviz.kernels import facts_from_logsumexp, mass_from_logsumexp, reach_from_logsumexp, received_from_logsumexp
from attviz.kernels.references import received_from_logsumexp_reference, summary_from_qk_reference, weights_reference


@st.composite
def options_of(draw, num_heads: int, q_len: int, kv_len: int):
    """Options of a dense attention, and a mask of its queries."""
    options = {
        "is_causal": draw(st.booleans()),
        "window_size": draw(st.sampled_from([(-1, -1), (3, 0), (17, 2), (-1, 5)])),
        "causal_alignment": draw(st.sampled_from(["bottom_right", "top_left"])),
        "softcap": draw(st.sampled_from([0.0, 2.0])),
    }
    if draw(st.booleans()):
        options["key_mask"] = torch.rand(2, kv_len) > 0.3
    if draw(st.booleans()):
        options["alibi_slopes"] = torch.linspace(0.1, 0.5, num_heads)
    shape = draw(st.sampled_from([None, (kv_len,), (q_len, kv_len), (2, 1, 1, kv_len), (2, num_heads, q_len, kv_len)]))
    if shape is not None:
        options["bias"] = (
            torch.rand(shape) > 0.3 if draw(st.booleans()) else torch.randn(shape).masked_fill(torch.rand(shape) > 0.8, -torch.inf)
        )
    return options, draw(st.sampled_from([None, torch.rand(2, q_len) > 0.3]))


def rows_of(query, key, options, sinks=None):
    """The log-sum-exp of the rows in the float32 that a kernel returns; -inf where a row is dead."""
    return summary_from_qk_reference(query, key, **options, sinks=sinks).logsumexp.float()


def assert_passes(query, key, lse, options, query_mask=None, kv_offset=None, tolerance=2e-5):
    """Each pass against dense float64."""
    batch, _, q_len, _ = query.shape
    kv_len, device = key.shape[2], query.device
    truth = weights_reference(query, key, lse, **options)

    def close(found, expected, what):
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), expected, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text: f"{what}: {text}"
        )

    found = received_from_logsumexp(query, key, lse, query_mask=query_mask, **options)
    expected = received_from_logsumexp_reference(query, key, lse, query_mask, **options)
    close(found[0], expected[0], "received")
    assert torch.equal(found[1].double(), expected[1]), "counts of queries"
    for features in (torch.randn(kv_len, 3), torch.randn(batch, kv_len, 70)[:, :, ::2], torch.rand(kv_len, 1) > 0.5):
        features = features.to(device)
        wide = features.double() if features.ndim == 2 else features.double()[:, None]
        close(mass_from_logsumexp(query, key, lse, features, **options), truth @ wide, f"mass of {tuple(features.shape)}")
    rows, facts = summary_from_qk_reference(query, key, **options), facts_from_logsumexp(query, key, lse, **options)
    close(facts[0], rows.row_entropy, "entropy")
    close(facts[1], rows.row_max_logit, "largest logit")
    own = torch.arange(q_len, device=device) + (kv_len - q_len if kv_offset is None else kv_offset)
    distance = (torch.arange(kv_len, device=device) - own[:, None]).abs().double()
    for reach in (-1, 0, 4):
        kept = truth if reach < 0 else truth * (distance <= reach)
        both = torch.stack((kept.sum(-1), (kept * distance).sum(-1)), -1)
        close(reach_from_logsumexp(query, key, lse, reach=reach, kv_offset=kv_offset, **options), both, f"reach {reach}")


def assert_packed_passes(query, key, lse, bounds_q, bounds_k, options, tolerance=2e-5):
    """The same where several texts share a row; each is aligned at its end."""
    packed = {**options, "cu_seqlens_q": bounds_q, "cu_seqlens_k": bounds_k}
    truth = weights_reference(query, key, lse, **packed)
    last_q, last_k = int(bounds_q[-1]), int(bounds_k[-1])
    features, close = torch.randn(key.shape[2], 5), {"rtol": tolerance, "atol": tolerance}
    found = received_from_logsumexp(query, key, lse, **packed)
    torch.testing.assert_close(found[0].double(), truth[:, :, :last_q].sum(-2), **close)
    assert (found[:, :, :, last_k:] == 0).all()
    mass = mass_from_logsumexp(query, key, lse, features, **packed)
    torch.testing.assert_close(mass[:, :, :last_q].double(), (truth @ features.double())[:, :, :last_q], **close)
    assert mass[:, :, last_q:].isnan().all()
    near = reach_from_logsumexp(query, key, lse, reach=1, **packed)
    own = torch.cat(
        [torch.arange(d - (b - a), d) for a, b, d in zip(bounds_q.tolist(), bounds_q[1:].tolist(), bounds_k[1:].tolist(), strict=False)]
    )
    distance = (torch.arange(key.shape[2]) - own[:, None]).abs()
    kept = truth[:, :, :last_q] * (distance <= 1)
    torch.testing.assert_close(near[:, :, :last_q].double(), torch.stack((kept.sum(-1), (kept * distance).sum(-1)), -1), **close)
