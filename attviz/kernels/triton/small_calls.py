"""Several small calls in one launch: a table of addresses and strides goes to the device, and every program looks its call up in it."""

from typing import Any

import torch
import triton
import triton.language as tl

from attviz.kernels.triton.launch import as_bytes, bias_strides, head_pad, on_device, outliving, start
from attviz.kernels.triton.logsumexp import weigh_rows

BLOCK_Q = 16
COLUMNS = 20  # of the table: four addresses, the offset, and strides of query (4), key (4), log-sum-exp (3) and bias (4)


@triton.jit(do_not_specialize=["scale", "q_len", "kv_len"])
def calls_kernel(
    table, weights, scale, q_len, kv_len, past, query_type, bias_type,
    NUM_BATCHES: tl.constexpr, NUM_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_PAD: tl.constexpr,
    PACKED: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """One program per (call, batch, head, block of queries). ``query_type`` and ``bias_type`` only pass their types."""
    blocks = tl.cdiv(q_len, BLOCK_Q)
    outer = tl.program_id(0) // blocks
    head, batch = outer % NUM_HEADS, outer // NUM_HEADS % NUM_BATCHES
    row = table + outer // (NUM_HEADS * NUM_BATCHES) * COLUMNS
    kv_head = head // GROUP
    query = tl.load(row).to(query_type.dtype) + batch * tl.load(row + 5) + head * tl.load(row + 6)
    key = tl.load(row + 1).to(query_type.dtype) + batch * tl.load(row + 9) + kv_head * tl.load(row + 10)
    logsumexp = tl.load(row + 2).to(tl.pointer_type(tl.float32)) + batch * tl.load(row + 13) + head * tl.load(row + 14)
    rows = tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row_ok, dims = rows < q_len, tl.arange(0, HEAD_PAD)
    dim_ok = dims[None, :] < HEAD_DIM
    if past is not None:
        offset = tl.minimum(tl.load(past).to(tl.int64), kv_len - (1 if PACKED else q_len))
    else:
        offset = tl.load(row + 4)
    columns = offset + (rows * 0 if PACKED else rows)
    at = rows.to(tl.int64)[:, None] * tl.load(row + 7) + dims.to(tl.int64)[None, :] * tl.load(row + 8)
    q = tl.load(query + at, mask=row_ok[:, None] & dim_ok, other=0.0).to(tl.float32)
    at = columns.to(tl.int64)[:, None] * tl.load(row + 11) + dims.to(tl.int64)[None, :] * tl.load(row + 12)
    k = tl.load(key + at, mask=row_ok[:, None] & dim_ok, other=0.0).to(tl.float32)
    lse = tl.load(logsumexp + rows * tl.load(row + 15), mask=row_ok, other=0.0)
    bias = None
    bias_q, bias_k = 0, 0
    if bias_type is not None:
        bias = tl.load(row + 3).to(bias_type.dtype) + batch * tl.load(row + 16) + head * tl.load(row + 17)
        bias_q, bias_k = tl.load(row + 18), tl.load(row + 19)
    found = weigh_rows(
        tl.sum(q * k, axis=1), bias, None, None, lse, 0, rows * 0 if PACKED else rows, row_ok, columns,
        scale, 1.0, kv_len, 0, bias_q, bias_k, 0, 0, False,
    )  # fmt: skip
    tl.store(weights + outer.to(tl.int64) * q_len + rows, found, mask=row_ok)


def launch(
    queries: list[torch.Tensor],
    keys: list[torch.Tensor],
    logsumexps: list[torch.Tensor],
    biases: list[torch.Tensor],
    scale: float,
    offsets: list[int],
    past: torch.Tensor | None,
    packed: bool,
) -> torch.Tensor:
    """Arguments and result of the operator ``attviz::weights_of_calls``: one copy to the device and one launch."""
    query, (batch, num_heads, q_len, head_dim) = queries[0], queries[0].shape
    num_kv_heads, kv_len = keys[0].shape[1:3]
    weights = outliving((len(queries), batch, num_heads, q_len), query.device)
    if weights.numel() == 0:
        return weights
    rows = []
    for number, (one, key, lse, offset) in enumerate(zip(queries, keys, logsumexps, offsets, strict=True)):
        bias = biases[number] if biases else None
        address = 0 if bias is None else bias.data_ptr()
        places = (one.data_ptr(), key.data_ptr(), lse.data_ptr(), address, offset)
        rows.append((*places, *one.stride(), *key.stride(), *lse.stride(), *bias_strides(bias)))
    table = torch.tensor(rows, dtype=torch.int64, pin_memory=query.is_cuda).to(query.device, non_blocking=True)
    first_bias = as_bytes(biases[0]) if biases else None
    known = (
        *(calls_kernel, query.device, query.dtype, None if first_bias is None else first_bias.dtype),
        *(past is None, batch, num_heads, num_kv_heads, head_dim, packed),
    )

    def constants() -> dict[str, Any]:
        sizes = {"NUM_BATCHES": batch, "NUM_HEADS": num_heads, "GROUP": num_heads // num_kv_heads, "HEAD_DIM": head_dim}
        rest = {"HEAD_PAD": head_pad(head_dim), "PACKED": packed, "COLUMNS": COLUMNS, "BLOCK_Q": BLOCK_Q}
        return {**sizes, **rest, "num_warps": 4, "enable_fp_fusion": True}

    programs = triton.cdiv(q_len, BLOCK_Q) * len(queries) * batch * num_heads
    with on_device(query):
        start(calls_kernel, programs, known, (table, weights, scale, q_len, kv_len, past, query, first_bias), constants)
    return weights
