"""Every heuristic that goes by a name, in one table: classes, attributes and parameters.

A name may raise an expectation (a miss is then loud) or help to find a tensor. It never decides alone what a number means.
"""

from __future__ import annotations

import re

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
