"""One rank of tests/metrics/_streaming/test_synchronisation.py: ``python distributed_worker.py SCENARIO RANK WORLD FOLDER``.

Each scenario asserts on every rank; a failed assertion ends the process with an error, which the test shows.
"""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from attviz.errors import MetricError
from attviz.metrics import HeadStatistics, TokenStatistics, VocabularyStatistics
from attviz.records import DiagonalRecord

VOCAB, LAYERS, HEADS = 13, 2, 3
GATHERS = ("all_gather", "all_gather_object", "all_gather_into_tensor", "gather", "gather_object", "broadcast_object_list")


def record_of(rank, step, layer):
    """A record that depends on rank, step and layer alone; texts of several lengths, so that shards are uneven."""
    generator = torch.Generator().manual_seed(10_000 * rank + 100 * step + layer)
    length = 3 + (rank + step) % 4
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, -1] = False
    diagonal = 1e-4 + 1e-7 * torch.randn(2, HEADS, length, generator=generator)
    diagonal = diagonal.clamp_min(0).masked_fill(~mask[:, None], torch.nan)
    ids = torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(rank * 50 + step))
    return DiagonalRecord(f"layer.{layer}", layer, step, diagonal, ids, mask)


def shard(rank, steps=None):
    """Rank r sees r * 3 steps: rank 0 has no data at all."""
    return [record_of(rank, step, layer) for step in range(3 * rank if steps is None else steps) for layer in range(LAYERS)]


def feed(metric, records):
    for record in records:
        metric.update(record)
    return metric


def values(records, layer, head, token=None):
    found = []
    for record in records:
        if record.layer_index == layer:
            wanted = record.query_mask if token is None else record.query_mask & (record.token_ids == token)
            found.append(record.diagonal[:, head][wanted].double())
    return torch.cat(found)


def assert_cell(seen, table, place):
    assert table.count[place] == len(seen), (place, table.count[place], len(seen))
    if len(seen):
        torch.testing.assert_close(table.mean[place], seen.mean(), rtol=1e-12, atol=0)
        assert (table.max[place], table.min[place]) == (seen.max(), seen.min())
    if len(seen) > 1:
        torch.testing.assert_close(table.std[place], seen.std(), rtol=1e-9, atol=1e-18)


def pool(rank, world, folder):
    """Uneven shards, rank 0 empty, the world and a group of two: every rank reads the statistics of all values."""
    for name in GATHERS:
        setattr(dist, name, lambda *args, called=name, **kwargs: sys.exit(f"{called} was called"))
    everything = [record for other in range(world) for record in shard(other)]
    heads, words = feed(HeadStatistics(), shard(rank)), feed(VocabularyStatistics(VOCAB, by="head"), shard(rank))
    table, vocabulary = heads.compute(), words.compute()
    assert table.layers == ("layer.0", "layer.1"), table.layers  # rank 0 learned them too
    for layer in range(LAYERS):
        for head in range(HEADS):
            assert_cell(values(everything, layer, head), table, (layer, head))
            for token in range(VOCAB):
                assert_cell(values(everything, layer, head, token), vocabulary, (layer, head, token))
    assert bool(heads._state.layers) == (rank > 0), "a synchronised state was left behind"
    feed(heads, shard(rank, steps=1))  # what each rank sees stays its own and goes on
    assert int(heads.compute().count[0, 0]) == len(values(everything, 0, 0)) + sum(len(values(shard(r, 1), 0, 0)) for r in range(world))
    check_a_rank_that_ran_no_model(rank, everything)
    check_local_reading(rank)
    check_groups(rank, world)
    check_disagreements(rank)


def check_a_rank_that_ran_no_model(rank, everything):
    """It does not know the size of the vocabulary; the others tell it."""
    words = feed(VocabularyStatistics(VOCAB if rank else None, by="head"), shard(rank))
    table = words.compute()
    for token in range(VOCAB):
        assert_cell(values(everything, 1, 2, token), table, (1, 2, token))
    assert words.vocab_size == VOCAB


def check_local_reading(rank):
    metric = feed(HeadStatistics(), shard(rank))
    if rank == 0:
        try:
            metric.compute_local()
        except MetricError as error:
            assert "nothing was seen yet" in str(error)  # noqa: PT017
        else:
            raise AssertionError("an empty rank read something by itself")
    else:
        assert_cell(values(shard(rank), 1, 2), metric.compute_local(), (1, 2))
    tokens = feed(TokenStatistics(), shard(rank, steps=1))
    assert tokens.compute().mean.shape == record_of(rank, 0, 0).query_mask.shape  # other ranks hold other tokens: nothing is pooled


def check_groups(rank, world):
    groups = [dist.new_group([first, first + 1]) for first in range(0, world, 2)]
    metric = feed(HeadStatistics(process_group=groups[rank // 2]), shard(rank, steps=2))
    pair = shard(rank - rank % 2, steps=2) + shard(rank - rank % 2 + 1, steps=2)
    assert_cell(values(pair, 1, 1), metric.compute(), (1, 1))


def check_disagreements(rank):
    """All ranks must raise, none may hang, and the state stays."""
    other_name = DiagonalRecord(f"model{rank % 2}", 0, 0, torch.rand(1, HEADS, 2))
    other_heads = DiagonalRecord("model", 0, 0, torch.rand(1, 2 + rank % 2, 2))
    cases = (
        (feed(HeadStatistics(), [other_name]), "disagree about layer 0"),
        (feed(HeadStatistics(), [other_heads]), "disagree about layer 0"),
        (feed(VocabularyStatistics(VOCAB + rank % 2), shard(rank, 1)), "different classes, options or sizes"),
    )
    for metric, message in cases:
        before = metric._state
        try:
            metric.compute()
        except MetricError as error:
            assert message in str(error), error  # noqa: PT017
            assert "The state is unchanged" in str(error), error  # noqa: PT017
        else:
            raise AssertionError(f"no error: {message}")
        assert metric._state is before


def die(rank, world, folder):
    """Rank 1 is killed in the middle of a run; rank 0 gets a clear error, keeps its numbers and saves them."""
    heads, words = HeadStatistics(), VocabularyStatistics(VOCAB)
    for step in range(6):
        for layer in range(LAYERS):
            for metric in (heads, words):
                metric.update(record_of(rank, step, layer))
        if step == 3:
            heads.compute()  # all is well so far
            heads.save_state(folder / f"heads{rank}.safetensors")
            words.save_state(folder / f"words{rank}.safetensors")
        if step == 4 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    seen = feed(HeadStatistics(), shard(rank, steps=6))
    try:
        heads.compute()
    except MetricError as error:
        assert "an all-reduce among 2 processes failed on rank 0" in str(error), error  # noqa: PT017
        assert "This rank's state is intact" in str(error), error  # noqa: PT017
    else:
        raise AssertionError("a dead rank went unnoticed")
    for left, right in zip(heads.compute_local()[1:], seen.compute_local()[1:], strict=True):
        assert torch.equal(left, right)
    heads.save_state(folder / f"heads{rank}.safetensors")


def resume(rank, world, folder):
    """Both ranks go on from what they saved (rank 0 after step 5, rank 1 after step 3): the result is that of an undisturbed run."""
    makers = {"heads": HeadStatistics, "words": lambda: VocabularyStatistics(VOCAB)}
    for name, make in makers.items():
        metric, undisturbed = make(), feed(make(), shard(rank, steps=8))
        metric.load_state(folder / f"{name}{rank}.safetensors")
        done = metric.update_count // LAYERS
        assert done == (6 if (rank, name) == (0, "heads") else 4), done
        for record in shard(rank, steps=8)[done * LAYERS :]:
            metric.update(record)
        for left, right in zip(metric.compute(), undisturbed.compute(), strict=True):
            same = torch.equal(left.nan_to_num(-1), right.nan_to_num(-1)) if isinstance(left, torch.Tensor) else left == right
            assert same, (name, left, right)


def main():
    scenario, rank, world, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous-{scenario}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    {"pool": pool, "die": die, "resume": resume}[scenario](rank, world, folder)
    print("done", flush=True)
    if scenario != "die":
        dist.barrier()
        dist.destroy_process_group()
    os._exit(0)  # after a death the group cannot be taken down in order


if __name__ == "__main__":
    main()
