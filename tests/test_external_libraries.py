"""Models that are not from transformers, or that other libraries have wrapped."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import types
import warnings
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import attviz

BERT = BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
LLAMA = LlamaConfig(
    vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0
)


def assert_right(model: nn.Module, *args: torch.Tensor, layers: int, **kwargs: torch.Tensor) -> None:
    """Every attention of the model against the independent reference, by ``attviz.check``."""
    check = attviz.check(model, *args, **kwargs)
    assert check.ok, check
    assert sum(row.shape is not None for row in check.layers) == layers


class CausalSelfAttention(nn.Module):
    """As small language models are taught: one projection, heads split by view."""

    def __init__(self, flash: bool) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.n_head, self.flash = nn.Linear(32, 96), nn.Linear(32, 32), 4, flash
        self.register_buffer("bias", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

    def forward(self, x):
        query, key, value = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.c_attn(x).split(32, dim=2))
        if self.flash:
            y = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            scores = query @ key.transpose(-2, -1) * 8**-0.5
            scores = scores.masked_fill(self.bias[:, :, : x.shape[1], : x.shape[1]] == 0, float("-inf"))
            y = nn.functional.softmax(scores, dim=-1) @ value
        return self.c_proj(y.transpose(1, 2).flatten(2))


class SmallGPT(nn.Module):
    def __init__(self, flash: bool) -> None:
        super().__init__()
        self.wte = nn.Embedding(99, 32)
        self.h = nn.ModuleList(nn.ModuleDict({"ln": nn.LayerNorm(32), "attn": CausalSelfAttention(flash)}) for _ in range(3))

    def forward(self, idx):
        x = self.wte(idx)
        for block in self.h:
            x = x + block["attn"](block["ln"](x))
        return x


@pytest.mark.parametrize("flash", [True, False])
def test_hand_written_language_model(flash):
    model, idx = SmallGPT(flash).eval(), torch.randint(0, 99, (2, 9))
    with torch.no_grad(), attviz.capture(model) as cap:
        model(idx)
    assert_right(model, idx, layers=3)
    assert cap.layers == ("h.0.attn", "h.1.attn", "h.2.attn")
    assert torch.equal(cap.token_ids, idx)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # x-transformers calls autocast and the jit by their old names
@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_x_transformers(flash, causal):
    library = importlib.import_module("x_transformers")
    layers = (library.Decoder if causal else library.Encoder)(
        dim=32, depth=2, heads=4, attn_dim_head=8, attn_flash=flash, rotary_pos_emb=True
    )
    model, ids = library.TransformerWrapper(num_tokens=99, max_seq_len=32, attn_layers=layers).eval(), torch.randint(0, 99, (2, 9))
    assert_right(model, ids, layers=2)
    with torch.no_grad(), attviz.capture(model, token_ids="x") as cap:
        model(ids)
    assert torch.equal(cap.token_ids, ids)


def source(package: str, name: str) -> types.ModuleType:
    """One file of an installed package, without the package's own imports (image transforms, tokenizers) that a model does not need."""
    found = importlib.util.find_spec(package)
    assert found is not None, f"pip install --no-deps {package.replace('_', '-')}"
    assert found.submodule_search_locations is not None
    spec = importlib.util.spec_from_file_location(name, Path(found.submodule_search_locations[0], f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_vit_pytorch():
    library = source("vit_pytorch", "vit")
    model = library.ViT(image_size=32, patch_size=8, num_classes=3, dim=32, depth=2, heads=4, dim_head=8, mlp_dim=48).eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(image)
    assert_right(model, image, layers=2)
    assert cap.diagonal.shape == (2, 2, 4, 17)


@pytest.mark.parametrize("flash", [True, False])
def test_openai_whisper(monkeypatch, flash):
    for name in ("numba", "tiktoken"):  # its alignment and its tokenizer: imported with the model, not used by it
        monkeypatch.setitem(sys.modules, name, MagicMock())
    model_file = importlib.import_module("whisper.model")
    sizes = model_file.ModelDimensions(
        n_mels=16, n_audio_ctx=12, n_audio_state=32, n_audio_head=4, n_audio_layer=2,
        n_vocab=99, n_text_ctx=16, n_text_state=32, n_text_head=4, n_text_layer=2,
    )  # fmt: skip
    model = model_file.Whisper(sizes).eval()
    nn.init.normal_(model.decoder.positional_embedding)  # left as the memory was
    sound, ids = torch.randn(2, 16, 24), torch.randint(0, 99, (2, 7))
    monkeypatch.setattr(model_file.MultiHeadAttention, "use_sdpa", flash)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(sound, ids)
    assert_right(model, sound, ids, layers=4)
    assert [record.diagonal.shape for record in cap.records] == [(2, 4, 12)] * 2 + [(2, 4, 7)] * 2
    assert set(cap.skipped) == {"decoder.blocks.0.cross_attn", "decoder.blocks.1.cross_attn"}


def test_sentence_transformers():
    library = importlib.import_module("sentence_transformers")
    home = "sentence_transformers.sentence_transformer.modules"  # before release 6: sentence_transformers.models
    pooling = importlib.import_module(home if importlib.util.find_spec(home.rpartition(".")[0]) else "sentence_transformers.models").Pooling

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel(BERT)

        def forward(self, features):
            return {**features, "token_embeddings": self.bert(**features).last_hidden_state}

    model = library.SentenceTransformer(modules=[Tower(), pooling(32)], device="cpu").eval()
    features = {"input_ids": torch.randint(0, 99, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    assert_right(model, dict(features), layers=2)
    with torch.no_grad(), attviz.capture(model) as cap:
        model(dict(features))
    assert torch.equal(cap.token_ids, features["input_ids"])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers by its old name
def test_low_rank_adapters():
    library = importlib.import_module("peft")
    model = library.get_peft_model(
        LlamaForCausalLM(LLAMA), library.LoraConfig(r=2, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    )
    model.eval()
    ids = torch.randint(1, 99, (2, 7))
    with torch.no_grad(), attviz.capture(model) as cap:
        model(input_ids=ids)
    assert_right(model, input_ids=ids, layers=2)
    assert all(name.endswith("self_attn") for name in cap.layers)


def test_quantised_linears():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(BertModel(BERT).eval(), {nn.Linear}, dtype=torch.qint8)
        for implementation in ("sdpa", "eager"):
            model.set_attn_implementation(implementation)
            check = attviz.check(model, torch.randint(0, 99, (2, 7)))
            assert check.outputs_identical
            # Right as queries by keys, not more: a linear rounds by its largest input, so one disturbed token changes all a little.
            assert [row.status for row in check.layers] == ["could not tell"] * 2
            assert max(row.error for row in check.layers) < 1e-6


def test_replicas_of_data_parallel_keep_their_names():
    """DataParallel makes replicas: new modules, same hooks, run in threads."""
    model, ids = BertModel(BERT).eval(), torch.randint(0, 99, (2, 7))
    with torch.no_grad(), attviz.capture(model) as plain:
        model(ids)
    assert_right(model, ids, layers=2)
    with torch.no_grad(), attviz.capture(model, keep="all") as cap:
        replica = replicate(model)
        replica(ids)
    assert [record.layer for record in cap.records] == ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"]
    assert torch.equal(cap.diagonal, plain.diagonal)


def replicate(module: nn.Module) -> nn.Module:
    """What ``nn.parallel.replicate`` does to each module, without its devices."""
    replica = module._replicate_for_data_parallel()
    replica._parameters = dict(module._parameters)
    replica._modules = {name: None if child is None else replicate(child) for name, child in module._modules.items()}
    return replica


DISTRIBUTED = """
import os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel
import attviz

def run(rank, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    plain = BertModel(config, add_pooling_layer=False).eval()
    torch.manual_seed(rank)
    ids = torch.randint(0, 99, (2, 7))
    with torch.no_grad(), attviz.capture(plain) as cap:
        plain(ids)
    truth = cap.diagonal
    wrapped = DistributedDataParallel(plain)
    with attviz.capture(wrapped) as cap:
        wrapped(ids).last_hidden_state.sum().backward()
    assert cap.layers == tuple("module.encoder.layer.%d.attention.self" % n for n in range(2)), cap.layers
    assert torch.equal(cap.diagonal, truth)
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.device_mesh import init_device_mesh
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    sharded = BertModel(config, add_pooling_layer=False).eval()
    for layer in sharded.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    with attviz.capture(sharded) as cap:
        sharded(ids).last_hidden_state.sum().backward()
    assert cap.layers == tuple("encoder.layer.%d.attention.self" % n for n in range(2)), cap.layers
    assert torch.allclose(cap.diagonal, truth, atol=1e-6)
    dist.barrier()  # a process that leaves while the other still talks to it is aborted by gloo
    dist.destroy_process_group()
    print(f"seen {rank} ", end="", flush=True)  # in one write: two processes share the stream

if __name__ == "__main__":
    mp.spawn(run, args=(int(sys.argv[1]),), nprocs=2)
"""


def test_two_processes_of_ddp_and_fsdp2(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(DISTRIBUTED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(port)], capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(re.findall(r"seen \d", done.stdout)) == ["seen 0", "seen 1"]  # the gloo of torch 2.9 talks on stdout
