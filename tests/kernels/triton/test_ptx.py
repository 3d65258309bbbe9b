"""What the compiler makes of the kernels for sm_80 and sm_90, executed by the interpreter of tests/kernels/ptx.py, against float64."""

import pytest
import torch
import triton

from attviz.kernels import TokenOrder, TokenState, diagonal_from_logsumexp, diagonal_from_weights, merge_by_token
from attviz.kernels import logsumexp as logsumexp_operator
from attviz.kernels import tokens as tokens_operator
from attviz.kernels import weights as weights_operator
from attviz.kernels.references import dense_logits, diagonal_from_logsumexp_reference, diagonal_from_weights_reference
from attviz.kernels.summary import head_aggregates_reference
from attviz.kernels.tokens import merge_by_token_reference
from attviz.kernels.triton import logsumexp, tokens, weights
from benchmarks.kernels.compile import TARGETS, recording
from tests.kernels.ptx import Machine, PtxError, parse

ARCHITECTURES = ("sm_80", "sm_90")
COMPILER = tuple(int(part) for part in triton.__version__.split(".")[:2])


class Executed:
    """A compiled kernel that the interpreter runs, in the place of the one that a driver would."""

    function = packed_metadata = None

    compiled = 0

    def __init__(self, recorded):
        Executed.compiled += 1
        self.signature = recorded.source.signature
        compiled = triton.compile(recorded.source, target=TARGETS[self.arch], options=recorded.options)
        self.program, self.shared = parse(compiled.asm["ptx"]), compiled.metadata.shared

    def launch_metadata(self, *_):
        return None

    def __getitem__(self, grid):
        return lambda *bound: self.run(*grid, None, None, None, None, None, None, *bound)

    def run(self, grid_0, grid_1, grid_2, stream, function, metadata, launch_metadata, enter, leave, *bound):
        assert grid_1 == grid_2 == 1
        given = [value for value, kind in zip(bound, self.signature.values(), strict=True) if kind != "constexpr"]
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        arguments = [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in given]
        Machine(self.program, grid_0, [*arguments, 0, 0], tensors, self.shared).run()  # the last two are scratch, which is not used


@pytest.fixture(params=ARCHITECTURES)
def on(request, monkeypatch):
    """Launches on CPU tensors run the PTX of one architecture."""
    if COMPILER < (3, 6):
        pytest.skip(f"Triton {triton.__version__} writes instructions that the interpreter does not know")
    monkeypatch.setattr(logsumexp_operator, "_logsumexp_op", logsumexp.launch)
    monkeypatch.setattr(weights_operator, "_weights_op", weights.launch)
    monkeypatch.setattr(tokens_operator, "_merge_op", tokens.launch)
    monkeypatch.setattr(Executed, "arch", request.param, raising=False)
    monkeypatch.setattr(tokens.long_kernel, "warmup", lambda *_, **__: None)
    with recording(request.param, Executed):
        yield request.param


# ---- the interpreter itself, on PTX written by hand

HEAD = ".visible .entry f(\n.param .u64 f_param_0, .param .u64 f_param_1, .param .u32 f_param_2\n)\n.reqntid 64\n{\n"
START = """
    ld.param.b64 %rd1, [f_param_0];
    ld.param.b64 %rd2, [f_param_1];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
"""


def by_hand(body, source, number=3, out=None):
    target = torch.zeros(64) if out is None else out
    arguments = [source.data_ptr(), target.data_ptr(), number]
    Machine(parse(HEAD + START + body + "\nret;\n}\n"), 1, arguments, [source, target], 256).run(limit=2000)
    return target


EVEN = 1 - torch.arange(64) % 2
FLOATS = torch.linspace(-3.0, 3.0, 64)
ONE_LINE = {
    "add.f32 %r3, %r2, 0f3F800000;": lambda x: x + 1,
    "fma.rn.f32 %r3, %r2, %r2, %r2;": lambda x: x * x + x,
    "ex2.approx.f32 %r3, %r2;": torch.exp2,
    "neg.f32 %r3, %r2;": torch.neg,
    "setp.lt.f32 %p1, %r2, 0f00000000;\nselp.f32 %r3, %r2, 0f40000000, %p1;": lambda x: torch.where(x < 0, x, 2.0),
    "max.f32 %r3, %r2, 0f7FC00000;": lambda x: x,  # a NaN gives way
    "shfl.sync.bfly.b32 %r3, %r2, 1, 31, -1;": lambda x: x.view(32, 2).flip(1).flatten(),
    "and.b32 %r9, %r1, 1;\nsetp.eq.b32 %p1, %r9, 0;\nmov.b32 %r3, 0f00000000;\n@%p1 mov.b32 %r3, %r2;": lambda x: x * EVEN,
    "cvt.rn.f32.s32 %r3, -7;": lambda x: torch.full_like(x, -7),
    "mov.b32 %r9, -7;\ndiv.s32 %r9, %r9, 2;\ncvt.rn.f32.s32 %r3, %r9;": lambda x: torch.full_like(x, -3),  # towards zero
    "mov.b32 %r9, -16;\nshr.s32 %r9, %r9, 2;\ncvt.rn.f32.s32 %r3, %r9;": lambda x: torch.full_like(x, -4),
    "bfe.u32 %r9, %r1, 1, 2;\ncvt.rn.f32.u32 %r3, %r9;": lambda x: (torch.arange(64) // 2 % 4).float(),
    "mov.b32 {%rs1, %rs2}, %r2;\ncvt.f32.bf16 %r3, %rs2;": lambda x: (x.view(torch.int32) & -65536).view(torch.float32),
    "cvt.f64.f32 %rd9, %r2;\ndiv.rn.f64 %rd9, %rd9, 0d4008000000000000;\ncvt.rn.f32.f64 %r3, %rd9;": lambda x: (x.double() / 3).float(),
    "shl.b32 %r9, %r1, 2;\nst.shared.b32 [%r9], %r2;\nbar.sync 0;\nxor.b32 %r9, %r9, 252;\nld.shared.b32 %r3, [%r9];": lambda x: x.flip(0),
}


@pytest.mark.parametrize("body", ONE_LINE)
def test_instructions_do_what_the_manual_says(body):
    found = by_hand(f"ld.global.b32 {{ %r2 }}, [ %rd4 + 0 ];\n{body}\nst.global.b32 [ %rd5 + 0 ], {{ %r3 }};\n", FLOATS.clone())
    torch.testing.assert_close(found, ONE_LINE[body](FLOATS), rtol=1e-6, atol=0)


def test_lanes_that_loop_longer_join_the_others_again():
    body = """
        mov.b32 %r3, 0;
    $L__BB0_1:
        add.s32 %r3, %r3, 1;
        setp.le.s32 %p1, %r3, %r1;
        @%p1 bra $L__BB0_1;
        shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
        cvt.rn.f32.s32 %r5, %r4;
        st.global.b32 [ %rd5 + 0 ], { %r5 };
    """
    assert by_hand(body, FLOATS.clone()).tolist() == (torch.arange(64).view(32, 2).flip(1).flatten() + 1).tolist()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.global.b32 { %r2 }, [ %rd4 + 4096 ];", "outside of every tensor"),
        ("ld.global.b32 { %r2 }, [ %rd4 + 2 ];", "no multiple of 4 bytes"),
        ("prmt.b32 %r2, %r1, %r1, 0;", "prmt is not known"),
        ("setp.lt.u32 %p1, %r1, 3;\n@%p1 shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;", "guard that parts the warp"),
        ("setp.lt.u32 %p1, %r1, 3;\n@%p1 bra $L__BB0_1;\nshfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;\n$L__BB0_1:", "not all lanes of the warp"),
        ("$L__BB0_1:\nbra $L__BB0_1;", "no end in sight"),
    ],
)
def test_what_a_device_would_not_forgive_raises(body, message):
    with pytest.raises(PtxError, match=message):
        by_hand(body, FLOATS.clone())


# ---- the kernels

SHAPES = [  # batch, kv heads, group, q_len, further keys, head_dim, dtype
    (1, 1, 1, 1, 0, 16, torch.float32),
    (2, 2, 2, 37, 3, 32, torch.bfloat16),
    (1, 1, 3, 70, 0, 80, torch.float16),
    (2, 1, 4, 5, 1, 128, torch.bfloat16),
]
OPTIONS = ("plain", "bias", "index", "each head", "packed", "heads last")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_diagonal_kernel_agrees_with_float64(on, shape, options):
    batch, num_kv_heads, group, q_len, extra, head_dim, dtype = shape
    heads, kv_len, given = num_kv_heads * group, q_len + extra, {}
    batch = 1 if options == "packed" else batch
    query = torch.randn(batch, q_len, heads, head_dim).to(dtype).transpose(1, 2)
    key = torch.randn(batch, num_kv_heads, kv_len, head_dim).to(dtype)
    rows = {}
    if options == "bias":
        rows = {"bias": torch.randn(batch, 1, q_len, kv_len), "softcap": 3.0}
        given = {**rows, "sinks": torch.randn(heads), "row_mask": torch.ones(batch, q_len, dtype=torch.bool)}
    elif options in ("index", "each head"):
        shape = (batch, q_len) if options == "index" else (batch, heads, q_len)
        given = {"index": torch.randint(-1, kv_len + 1, shape), "window_size": (3, 0)}
    elif options == "packed":
        edges = [0, q_len // 3, q_len // 3, q_len]
        given = {"cu_seqlens_q": torch.tensor(edges, dtype=torch.int32), "cu_seqlens_k": torch.tensor([*edges[:3], kv_len])}
    elif options == "heads last":
        query, key = (x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) for x in (query, key))
    logsumexp = dense_logits(query, key, **rows).logsumexp(-1).float()
    actual = diagonal_from_logsumexp(query, key, logsumexp, **given)
    given.pop("row_mask", None)
    expected = diagonal_from_logsumexp_reference(query, key, logsumexp, **given)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


CHANGES = {
    "none": lambda query: {},
    "values": lambda query: {"query": query + 1},
    "batch": lambda query: {"query": torch.randn(3, 9, 4, 16).transpose(1, 2)},
    "length": lambda query: {"query": query[:, :, :5]},
    "dtype": lambda query: {"query": query.bfloat16()},
    "strides": lambda query: {"query": query.contiguous()},
    "alignment": lambda query: {"query": torch.randn(9 * 4 * 16 + 1)[1:].view(1, 9, 4, 16).transpose(1, 2)},
    "softcap": lambda query: {"softcap": 2.0},
    "another key": lambda query: {"index": -1},
    "one of its own for each head": lambda query: {"index": torch.zeros(1, 4, 9, dtype=torch.long)},
    "one for all heads": lambda query: {"index": torch.zeros(1, 9, dtype=torch.long)},
    "window": lambda query: {"index": -1, "window_size": (0, -1)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_kept_kernel_serves_what_it_was_compiled_for_and_nothing_else(on, change):
    query = torch.randn(1, 9, 4, 16).transpose(1, 2)
    given = {"query": query, **CHANGES[change](query)}
    changed = given.pop("query")
    before = Executed.compiled
    for each, options in ((query, {}), (changed, given), (query, {}), (changed, given)):
        logsumexp = dense_logits(each, each, softcap=options.get("softcap", 0.0)).logsumexp(-1).float()
        actual = diagonal_from_logsumexp(each, each, logsumexp, **options)
        expected = diagonal_from_logsumexp_reference(each, each, logsumexp, **options)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    same = change in ("none", "values", "batch")  # another length has other strides
    assert Executed.compiled - before == (1 if same else 2)


def test_offsets_past_2_to_the_31_are_reached(on):
    length = 66000
    storage = torch.empty(length, length, dtype=torch.float16)  # 8.7 GB that are never touched but at two places
    query = storage.as_strided((1, 2, 3, 16), (0, 65000 * length, length, 1), 0)
    query.copy_(torch.randn(1, 2, 3, 16))
    for extras in (False, True):
        found = logsumexp.launch(query, query, torch.zeros(1, 2, 3), -0.01, None, None, 0, 0.0, *(None,) * 4, 0, -1, -1, extras)[0]
        torch.testing.assert_close(found, torch.exp(-0.01 * query.float().square().sum(-1)))


@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, torch.float32), (2, 5, 19, torch.float16), (1, 12, 40, torch.bfloat16)], ids=str)
def test_the_weights_kernel_agrees_with_float64(on, shape, extras):
    batch, num_heads, q_len, dtype = shape
    matrix = torch.randn(batch, num_heads, q_len, q_len + 3).softmax(-1).to(dtype)
    diagonal, first, aggregates = weights.launch(matrix, 2, extras)
    torch.testing.assert_close(diagonal.double(), diagonal_from_weights_reference(matrix, kv_offset=2), rtol=0, atol=0)
    assert torch.equal(diagonal_from_weights(matrix, kv_offset=2), diagonal)
    if extras:
        torch.testing.assert_close(first, matrix[..., 0].float(), rtol=0, atol=0)
        expected = head_aggregates_reference(diagonal)
        torch.testing.assert_close(aggregates.double(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(("num_heads", "length"), [(1, 7), (5, 40), (40, 12), (3, 520)])
def test_the_tokens_kernels_agree_with_welford(on, num_heads, length):
    ids = torch.where(torch.rand(1, length) < 0.9, 3, torch.randint(-1, 6, (1, length)))  # beyond 512 one segment is cut in pieces
    state = expected = TokenState.empty(6, num_heads)
    order = TokenOrder.of(ids)
    for _ in range(2):
        diagonal = torch.rand(1, num_heads, length)
        expected = merge_by_token_reference(expected, ids, diagonal)
        merge_by_token(state, order, diagonal)
    for have, want in zip(state, expected, strict=True):
        torch.testing.assert_close(have.double(), want.double(), rtol=1e-12, atol=1e-13)
