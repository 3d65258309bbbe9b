"""A tiny text model for the tests of this folder, and figures without a display."""

import matplotlib

from tests.text_models import classifier, config, texts, tokenizer  # noqa: F401  # fixtures

matplotlib.use("Agg")
