"""Every heuristic that goes by a name, in one table: classes, attributes and parameters.

A name may raise an expectation (a miss is then loud) or help to find a tensor. It never decides alone what a number means.
"""

from __future__ import annotations

import re

# ---- classes

ATTENTION = re.compile(r"attention|attn|mha\b", re.IGNORECASE)
# Word parts that make a class with "attention" in its name something else: its output projection, a container, a mask builder.
NOT_ATTENTION = re.compile(
    r"output|intermediate|norm|pool|embed|structure|mask|downsampl|projection|position|decoder_?layer|encoder_?layer", re.IGNORECASE
)
NO_SOFTMAX = re.compile(r"linear_?att|lightning|delta|retention|rwkv|yoso|lsh|fourier|mamba|performer|hyena", re.IGNORECASE)
OTHER_SOFTMAX = re.compile(r"router|gate|expert|moe|pool|classif|lm_head", re.IGNORECASE)
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
