"""Every heuristic based on a name, in one table: classes, attributes and parameters.

A name may raise an expectation (a miss is then loud) or help to find a tensor. It never decides alone what a number means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from torch import nn

# ---- classes

ATTENTION = re.compile(r"attention|attn|mha\b", re.IGNORECASE)
# The last words of a class with "attention" in its name that make it something else: its output projection, a container, a mask builder.
# Words in front say of what kind an attention is (RelPosition, Masked, QKNorm) and make it nothing else.
NOT_ATTENTION = re.compile(
    r"(output|intermediate|norm|pool|pooling|pooler|pool2d|embeddings?|structure|mask|downsample|downsampler|downsampling|projection|position|"
    r"decoder_?layer|encoder_?layer|outputs|masks|config|mixin)\d*$",
    re.IGNORECASE,
)
NO_SOFTMAX = re.compile(r"linear_?att|lightning|delta|retention|rwkv|yoso|lsh|fourier|mamba|performer|hyena", re.IGNORECASE)
# Whole words: "Propagate" is no gate.
OTHER_SOFTMAX = re.compile(r"(^|_)(top_?k_?)?(router|gate|gating|experts?|moe|pool|pooler|pooling|classifier|lm_head)(_|$)", re.IGNORECASE)
CROSS_CLASS = re.compile(r"cross", re.IGNORECASE)

# ---- attributes

CROSS_PATH = re.compile(
    r"(^|\.)(cross_?attn|cross_?attention|encoder_attn|EncDecAttention|enc_dec_attn|multihead_attn)(\.|$)", re.IGNORECASE
)
CROSS_FLAGS = ("is_cross_attention", "is_cross_attn")
NUM_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_attention_head", "nhead", "heads", "nh")

# Packages whose attention was checked class by class: where evidence fails, their names and shapes may decide.
CHECKED_LIBRARIES = frozenset({"torch", "transformers"})

# ---- parameters of a forward

TOKEN_IDS = ("input_ids", "decoder_input_ids", "idx", "tokens", "token_ids", "ids")
REAL_TOKENS = ("attention_mask", "decoder_attention_mask")  # True where the token is real
PADDING = ("src_key_padding_mask", "key_padding_mask", "tgt_key_padding_mask")  # True where it is padding
OTHER_INPUTS = ("pixel_values", "input_features", "input_values", "pixel_values_videos")
OWN_SEQUENCE = ("hidden_states", "x", "query")
OTHER_SEQUENCE = frozenset(
    "key_value_states encoder_hidden_states cross_hidden_states encoder_output encoder_out enc_output context memory".split()
)  # of nn.MultiheadAttention it is the key
# Parameters that bring no sequence to attend to; every other may.
NO_SEQUENCE = re.compile(
    r"mask|position|bias|cache|past|rotary|freq|cos$|sin$|^output_|^use_|^need_|head_mask|emb$|embeddings?$|^pe$|pos|^args$|^kwargs$|temb|time|scale",
    re.IGNORECASE,
)

POSITIONS, EMBEDDED, OTHER_STATES = "position_ids", "inputs_embeds", "encoder_hidden_states"
FULL_ATTENTION = "full_attention"  # of several ready-made masks, that of layers which see everything
BEAM_SEARCH = "_beam_search"  # the function of transformers whose steps change the places of rows

# ---- attributes of modules, configurations and caches

SINK = "sink"  # in the name of a parameter: a learned logit that joins the softmax
QUERY_GROUPS = "num_key_value_groups"
CONFIG_HEADS = "num_attention_heads"
CACHE_LENGTH, CACHE_LAYERS, CACHE_OF_ITSELF, CACHE_LIMIT = "get_seq_length", "layers", "self_attention_cache", "max_cache_len"
USES_CACHE = "use_cache"


# ---- what they are asked


@lru_cache(maxsize=1024)  # a model has many modules of few classes
def named_after_attention(class_name: str) -> bool:
    """Whether a class, judging by its name, should attend."""
    return bool(ATTENTION.search(class_name)) and not NOT_ATTENTION.search(class_name)


def is_cross_attention(name: str, module: nn.Module) -> bool:
    """Whether a module's name or a flag says that it attends to another sequence: an expectation, not evidence."""
    if any(getattr(module, flag, False) is True for flag in CROSS_FLAGS):
        return True
    return bool(CROSS_PATH.search(name) or CROSS_CLASS.search(type(module).__name__))


def names_another(module: nn.Module, parameters: Iterable[str]) -> bool:
    """Whether one of these parameters is named like another sequence: an expectation, not evidence."""
    names = {"key"} if isinstance(module, nn.MultiheadAttention) else OTHER_SEQUENCE
    return any(name in names for name in parameters)  # one of equal values has another name here


def is_other_softmax(name: str, module: nn.Module) -> bool:
    """Whether a softmax in this module belongs to a router, a pooling head or a classifier rather than to attention."""
    return any(OTHER_SOFTMAX.search(_in_words(each)) for each in (name.rsplit(".", 1)[-1], type(module).__name__))


def without_softmax(module: nn.Module) -> str | None:
    """Why a module whose class is named after attention runs no softmax, if its name tells."""
    name = type(module).__name__
    return f"{name} weighs tokens without a softmax, so there is no attention matrix and no diagonal" if NO_SOFTMAX.search(name) else None


def number_of_heads(module: nn.Module | None) -> int | None:
    """Number of heads, according to the module's attributes."""
    return next((value for name in NUM_HEADS if isinstance(value := getattr(module, name, None), int) and value > 0), None)


def predicts_ahead(module: nn.Module | None) -> bool:
    """Whether a module has streams that predict later tokens, in addition to the tokens' own (ProphetNet)."""
    return isinstance(getattr(module, "ngram", None), int) and hasattr(module, "num_buckets")


def has_sinks(module: nn.Module | None) -> bool:
    """Whether a learned logit of each head joins the denominator (GPT-OSS): one more column after the keys."""
    return module is not None and any(SINK in name for name in module._parameters)


def heads_of_config(model: nn.Module | None) -> Any:
    """How many heads the configuration of a model or of a module says; None where it says nothing."""
    return getattr(getattr(model, "config", None), CONFIG_HEADS, None)


def implementation_of(module: nn.Module, model: nn.Module) -> str:
    """The attention implementation of transformers that a module, or its model, is set to; empty where there is none."""
    return str(getattr(getattr(module, "config", getattr(model, "config", None)), "_attn_implementation", "") or "")


# ---- softmaxes that are not queries by keys, in transformers: what their modules are known by


def pools_tokens(module: nn.Module) -> bool:
    """Funnel, from its second block on: its units are means of tokens."""
    return bool(getattr(module, "block_index", 0)) and hasattr(getattr(module, "config", None), "block_sizes")


def sees_random_blocks(module: nn.Module) -> bool:
    """BigBird on long texts."""
    return hasattr(module, "num_random_blocks") and hasattr(module, "seed")


def approximates_by_landmarks(module: nn.Module) -> bool:
    """Nystromformer, on texts longer than its landmarks."""
    return hasattr(module, "num_landmarks") and module.num_landmarks != getattr(module, "seq_len", None)


def one_sided_window(module: nn.Module) -> int | None:
    """Longformer: how far a token sees to one side."""
    found = getattr(module, "one_sided_attn_window_size", None)
    return found if isinstance(found, int) else None


def block_length(module: nn.Module) -> int | None:
    """LongT5: tokens in a block."""
    found = getattr(module, "block_len", None)
    return found if isinstance(found, int) else None


def _in_words(name: str) -> str:
    """``TopKRouter`` as ``Top_K_Router``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
