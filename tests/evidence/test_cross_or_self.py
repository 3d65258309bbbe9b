"""Self, cross or joint: settled by where query and key come from, whatever modules, attributes and parameters are called."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.evidence.judge import B, E, H, T, assert_right, assert_skipped, diagonal, heads, is_loud, seen, weights


class Any2(nn.Module):
    """Query of one input, key and value of another, under any name."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.fused = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E), fused

    def forward(self, a, b, c=None):
        query, key, value = heads(self.q(a)), heads(self.k(b)), heads(self.v(b if c is None else c))
        if self.fused:
            return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return ((query @ key.mT / math.sqrt(E // H)).softmax(-1) @ value).transpose(1, 2).flatten(2)

    def truth(self, x):
        return diagonal(weights(heads(self.q(x)), heads(self.k(x))))


class Block(nn.Module):
    """Calls its attention in a way of its own."""

    def __init__(self, attention: nn.Module, how) -> None:
        super().__init__()
        self.multihead_attn, self.how, self.norm = attention, how, nn.LayerNorm(E)
        self.other_norm, self.drop = nn.LayerNorm(E), nn.Dropout(0.5)
        nn.init.normal_(self.other_norm.weight)

    def forward(self, *given):
        return self.how(self, *given)


SELF = {
    "x, x": lambda b, x: b.multihead_attn(x, x),
    "normed twice": lambda b, x: b.multihead_attn(b.norm(x), b.norm(x)),
    "as DETR": lambda b, x: b.multihead_attn(x + 1.0, x + 1.0, x),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("how", SELF)
def test_self_attention_by_whatever_name(how, fused):
    model, x = Block(Any2(fused), SELF[how]).eval(), torch.randn(B, T, E)
    cap = seen(model, x)
    given = {"x, x": x, "normed twice": model.norm(x), "as DETR": x + 1.0}[how]
    assert_right(cap, model.multihead_attn.truth(given))
    assert "same tokens" in cap.records[0].evidence


@pytest.mark.parametrize("fused", [True, False])
def test_two_norms_of_one_stream_are_one_sequence(fused):
    model, x = Block(Any2(fused), lambda b, x: b.multihead_attn(b.norm(x), b.other_norm(x))).eval(), torch.randn(B, T, E)
    attention = model.multihead_attn
    assert_right(seen(model, x), diagonal(weights(heads(attention.q(model.norm(x))), heads(attention.k(model.other_norm(x))))))


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_before_query_and_key_leaves_one_sequence(fused):
    model, x = Block(Any2(fused), lambda b, x: b.multihead_attn(b.drop(x), b.drop(x))).train(), torch.randn(B, T, E)
    cap = seen(model, x)
    assert len(cap.records) == 1


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("how", [lambda b, x, m: b.multihead_attn(x, m), lambda b, x, m: b.multihead_attn(b.norm(x), m, m)])
def test_cross_attention_of_equal_length_is_skipped(how, fused):
    model = Block(Any2(fused), how).eval()
    assert_skipped(seen(model, torch.randn(B, T, E), torch.randn(B, T, E)), "multihead_attn")


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_one_key_for_all_queries_is_skipped_beside_what_is_read(mixed, fused):
    """A single image or prompt (Stable Video Diffusion); where it comes from the tokens themselves, it is none of them either."""

    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.reads = Any2(fused), Any2(fused)

        def forward(self, x, prompt):
            prompt = prompt + x.mean(1, keepdim=True) if mixed else prompt
            return self.reads(x + self.own(x, x), prompt)

    model, x = Prompted().eval(), torch.randn(B, T, E)
    cap = seen(model, x, torch.randn(B, 1, E))
    assert cap.layers == ("own",)
    assert_right(cap, model.own.truth(x))


@pytest.mark.parametrize("fused", [True, False])
def test_chosen_tokens_that_read_another_input_are_skipped(fused):
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.reads, self.score = Any2(fused), Any2(fused), nn.Linear(E, 1)

        def forward(self, x, text):
            best = self.score(x)[..., 0].topk(4, dim=1).indices
            return self.reads((x + self.own(x, x)).gather(1, best[..., None].expand(-1, -1, E)), text)

    model, x = Reads().eval(), torch.randn(B, T, E)
    for length in (4, 6):
        cap = seen(model, x, torch.randn(B, length, E))
        assert cap.layers == ("own",)
        assert "different inputs" in cap.skipped["reads"]
        assert_right(cap, model.own.truth(x))


class Masked(Any2):
    def forward(self, x, mask):
        query, key, value = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        self.given = query, key, mask
        return ((query @ key.mT / math.sqrt(E // H) + mask).softmax(-1) @ value).transpose(1, 2).flatten(2)


def test_a_mask_from_another_input_does_not_say_where_the_keys_come_from():
    """Tokens some of which are filled with features of another input, under a mask that is looked up by index (VibeVoice)."""

    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.layers = nn.Embedding(20, E), nn.ModuleList(Masked(False) for _ in range(2))

        def forward(self, input_ids, features, attention_mask):
            for _ in range(3):  # far from its input, so the mask is nearer to one
                features = features.flip(1)
            x = self.embedding(input_ids).masked_scatter((input_ids == 0)[..., None], features)
            batch = torch.arange(len(attention_mask))[:, None, None, None]
            mask = torch.where(attention_mask[batch, torch.arange(T)].bool(), 0.0, torch.finfo(torch.float32).min)
            for layer in self.layers:
                x = x + layer(x, mask)
            return x

    model, ids, real = Filled().eval(), torch.randint(1, 20, (B, T)), torch.ones(B, T, dtype=torch.int64)
    ids[:, 2:4], real[1, 6:] = 0, 0
    cap = seen(model, ids, torch.randn(B, 2, E), real)
    missing = torch.where(real[:, None].bool(), 0.0, torch.nan)
    assert_right(cap, *(diagonal(weights(*layer.given)) + missing for layer in model.layers))


class Annotated(nn.Module):
    """Encoder and decoder in the style of the Annotated Transformer: one class for both kinds of attention."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.encoder, self.self_attn, self.src_attn = Any2(fused), Any2(fused), Any2(fused)

    def forward(self, source, target):
        memory = source + self.encoder(source, source)
        target = target + self.self_attn(target, target)
        return target + self.src_attn(target, memory)


@pytest.mark.parametrize("fused", [True, False])
def test_annotated_transformer(fused):
    model, source, target = Annotated(fused).eval(), torch.randn(B, T, E), torch.randn(B, T, E)
    cap = seen(model, source, target)
    assert_right(cap, model.encoder.truth(source), model.self_attn.truth(target))
    assert set(cap.skipped) == {"src_attn"}


class Shared(nn.Module):
    """One module for both: its first call attends to itself, its second to the memory."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.attention = Any2(fused)

    def forward(self, x, memory):
        return self.attention(self.attention(x, x), memory)


@pytest.mark.parametrize("fused", [True, False])
def test_one_module_used_both_ways(fused):
    model, x = Shared(fused).eval(), torch.randn(B, T, E)
    for _ in range(3):
        assert_right(seen(model, x, torch.randn(B, T, E)), model.attention.truth(x))


class Joint(nn.Module):
    """Image and text in one attention (SD3, Flux)."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.image, self.text, self.fused = nn.Linear(E, 3 * E), nn.Linear(E, 3 * E), fused

    def forward(self, hidden_states, encoder_hidden_states):
        query, key, value = self.split(hidden_states, encoder_hidden_states)
        if self.fused:
            out = F.scaled_dot_product_attention(query, key, value)
        else:
            out = (query @ key.mT / math.sqrt(E // H)).softmax(-1) @ value
        return out.transpose(1, 2).flatten(2).split([hidden_states.shape[1], encoder_hidden_states.shape[1]], 1)

    def split(self, image, text):
        return (
            torch.cat([heads(a), heads(b)], 2) for a, b in zip(self.image(image).chunk(3, -1), self.text(text).chunk(3, -1), strict=True)
        )


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("text", [T, 5])
def test_joint_attention_over_image_and_text_is_self_attention(fused, text):
    model, image, words = Joint(fused).eval(), torch.randn(B, T, E), torch.randn(B, text, E)
    query, key, _ = model.split(image, words)
    assert_right(seen(model, image, words), diagonal(weights(query, key)))


class Conditioned(nn.Module):
    """A conditioning vector under the name of another sequence; a class with "Cross" in its name."""

    def __init__(self, fused: bool, cls: type = Any2) -> None:
        super().__init__()
        self.crosstalk, self.film = type("CrossScaleMixer", (cls,), {})(fused), nn.Linear(E, E)

    def forward(self, x, context):
        return self.crosstalk(x * (1 + self.film(context)[:, None]), x * (1 + self.film(context)[:, None]))


@pytest.mark.parametrize("fused", [True, False])
def test_conditioning_vector_is_no_other_sequence(fused):
    model, x, vector = Conditioned(fused).eval(), torch.randn(B, T, E), torch.randn(B, E)
    assert_right(seen(model, x, vector), model.crosstalk.truth(x * (1 + model.film(vector)[:, None])))


class TwoWay(nn.Module):
    """SAM: tokens to image, then image to tokens, of equal numbers."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.own, self.to_image, self.to_token = Any2(fused), Any2(fused), Any2(fused)

    def forward(self, point_embedding, image_embedding):
        tokens = point_embedding + self.own(point_embedding, point_embedding)
        tokens = tokens + self.to_image(tokens, image_embedding)
        return tokens, image_embedding + self.to_token(image_embedding, tokens)


@pytest.mark.parametrize("fused", [True, False])
def test_two_way_attention(fused):
    model, points, image = TwoWay(fused).eval(), torch.randn(B, T, E), torch.randn(B, T, E)
    cap = seen(model, points, image)
    assert_right(cap, model.own.truth(points))
    assert set(cap.skipped) == {"to_image", "to_token"}


class Latents(nn.Module):
    """Perceiver: learned queries read the tokens, then attend among themselves; as many as tokens."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.latents, self.read, self.among = nn.Parameter(torch.randn(T, E)), Any2(fused), Any2(fused)

    def forward(self, x):
        latents = self.read(self.latents.expand(len(x), -1, -1), x)
        return latents + self.among(latents, latents)


@pytest.mark.parametrize("fused", [True, False])
def test_learned_queries_read_tokens_and_attend_among_themselves(fused):
    model, x = Latents(fused).eval(), torch.randn(B, T, E)
    cap = seen(model, x)
    assert_right(cap, model.among.truth(model.read(model.latents.expand(B, -1, -1), x)))
    assert set(cap.skipped) == {"read"}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_torch_multihead_attention_by_its_arguments(need_weights, train):
    attention, x, memory = nn.MultiheadAttention(E, H, batch_first=True).train(train), torch.randn(B, T, E), torch.randn(B, T, E)
    query, key, _ = (heads(part) for part in F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1))
    truth = diagonal(weights(query, key))
    assert_right(seen(attention, x + 0.0, x + 0.0, x, need_weights=need_weights), truth)
    cap = seen(attention, x, memory, memory, need_weights=need_weights)
    assert not cap.records
    assert len(cap.skipped) == 1


def test_torch_transformer_of_one_input_twice():
    """Encoder and decoder of the same tokens: the decoder's second attention is still one to the encoder's output."""
    model, x = nn.Transformer(E, H, 1, 1, 48, batch_first=True).eval(), torch.randn(B, T, E)
    cap = seen(model, x, x)
    assert len(cap.records) == 2
    assert set(cap.skipped) == {"decoder.layers.0.multihead_attn"}


class Inline(nn.Module):
    """No module of its own for either attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)

    def forward(self, x, y):
        a = F.scaled_dot_product_attention(heads(self.q(x)), heads(self.k(x)), heads(self.v(x)))
        b = F.scaled_dot_product_attention(heads(self.q(x)), heads(self.k(y)), heads(self.v(y)))
        return a + b


def test_both_kinds_in_one_forward():
    model, x, y = Inline().eval(), torch.randn(B, T, E), torch.randn(B, T, E)
    assert_right(seen(model, x, y), diagonal(weights(heads(model.q(x)), heads(model.k(x)))))


class Shuffled(nn.Module):
    """Keys reordered by what they hold: position i of a key is no longer token i, and nothing says which it is."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, E), nn.Linear(E, E)

    def forward(self, x):
        order = self.k(x).sum(-1).argsort(-1)[..., None].expand(-1, -1, E)
        return ((self.q(x) @ self.k(x).gather(1, order).mT).softmax(-1)) @ self.v(x).gather(1, order)


def test_keys_in_another_order_are_loud():
    assert "in a different order" in is_loud(Shuffled().eval(), torch.randn(B, T, E))
