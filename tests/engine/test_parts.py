"""Tape, noise, schedule and optimizers, checked against formulas or PyTorch."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from headsweep.config.training_section import TrainingConfig
from headsweep.engine.numerics.dropout_noise import (
    apply_dropout,
    minibatch_key,
    signed,
    uniforms,
    uniforms_at,
)
from headsweep.engine.numerics.optimizers import make_optimizer
from headsweep.engine.numerics.schedule import learning_rate
from headsweep.engine.programs.linear_rows import rows_at_once, sharing_sizes
from headsweep.engine.programs.retrieval import label_affinity
from headsweep.engine.tape import batches, permutation

CPU = torch.device("cpu")


class TestTape:
    @given(n=st.integers(1, 200), batch_size=st.integers(1, 64), position=st.integers(0, 1000))
    def test_batches_of_an_epoch_hold_every_row_once(
        self, n: int, batch_size: int, position: int
    ) -> None:
        rows = Counter(
            row for batch in batches(7, position, n, batch_size) for row in batch.tolist()
        )
        left_out = 1 if n > batch_size > 1 and n % batch_size == 1 else 0
        if n > 1 and batch_size == 1:
            left_out = 1
        assert len(rows) == n - left_out
        assert set(rows.values()) == {1}

    def test_permutation_of_other_positions_and_seeds_differs(self) -> None:
        orders = {
            tuple(permutation(seed, position, 50).tolist())
            for seed in (1, 2)
            for position in (0, 1)
        }
        assert len(orders) == 4
        assert permutation(1, 5, 50).equal(permutation(1, 5, 50))


class TestSharingSizes:
    @pytest.mark.parametrize(
        ("sizes", "sharing"),
        [
            ([64, 256, 1024], [[1024, 256, 64]]),
            ([64, 96, 256], [[256, 64], [96]]),  # 256 is no multiple of 96
            ([8, 64], [[64], [8]]),  # 8 rows fill no whole SIMD vector
            ([64, 8192], [[8192], [64]]),  # does not fit into a cache
        ],
    )
    def test_sharing_sizes_are_those_whose_minibatches_are_parts_of_each_other(
        self, sizes: list[int], sharing: list[list[int]]
    ) -> None:
        assert sharing_sizes(sizes) == sharing

    @pytest.mark.parametrize(
        ("batch_size", "left", "rows"),
        [(64, 5000, 1024), (64, 700, 640), (96, 5000, 960), (2048, 5000, 2048), (40, 5000, 40)],
    )
    def test_rows_at_once_are_whole_minibatches(
        self, batch_size: int, left: int, rows: int
    ) -> None:
        assert rows_at_once(batch_size, left) == rows


class TestNoise:
    @given(short=st.integers(0, 500), seed=st.integers(0, 2**40), step=st.integers(0, 10**6))
    def test_uniforms_of_a_shorter_stream_are_a_prefix(
        self, short: int, seed: int, step: int
    ) -> None:
        long = uniforms(seed, step, 1, 500, CPU)
        assert uniforms(seed, step, 1, short, CPU).equal(long[:short])

    @pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
    def test_kept_drops_at_the_given_rate(self, dropout: float) -> None:
        mask = apply_dropout(torch.ones(200_000), uniforms(1, 2, 3, 200_000, CPU), dropout)
        assert (mask == 0).double().mean().item() == pytest.approx(dropout, abs=0.005)
        assert mask.max() == 1

    @pytest.mark.parametrize("key_of_seed", [1, 2**31 + 7])
    def test_uniforms_on_a_cpu_equal_those_of_other_devices(self, key_of_seed: int) -> None:
        n = 2**17 + 3
        key = signed(minibatch_key(key_of_seed, 2, 3))
        elsewhere = uniforms_at(torch.arange(n, dtype=torch.int32), key)
        assert uniforms(key_of_seed, 2, 3, n, CPU).equal(elsewhere)

    def test_uniforms_of_other_steps_layers_and_seeds_are_uncorrelated(self) -> None:
        places = [(1, 1, 0), (1, 2, 0), (1, 1, 1), (2, 1, 0)]
        streams = torch.stack([uniforms(*place, 50_000, CPU).double() for place in places])
        correlation = torch.corrcoef(streams) - torch.eye(len(places))
        assert correlation.abs().max() < 0.02


class TestLabelAffinity:
    @given(
        st.lists(
            st.sets(st.integers(0, 3)).map(lambda labels: [float(j in labels) for j in range(4)]),
            min_size=1,
            max_size=8,
        )
    )
    def test_label_affinity_is_jaccard_overlap_over_the_other_rows(
        self, rows: list[list[float]]
    ) -> None:
        sets = [{j for j, held in enumerate(row) if held} for row in rows]
        expected = torch.tensor([[overlap(a, b) for b in sets] for a in sets]).fill_diagonal_(0)
        for i, row in enumerate(expected):
            if row.sum() == 0:
                row.fill_(1)[i] = 0
        expected /= expected.sum(dim=1, keepdim=True).clamp_min(1e-9)
        torch.testing.assert_close(label_affinity(torch.tensor(rows)), expected)


def overlap(a: set[int], b: set[int]) -> float:
    """Return the Jaccard overlap, which is 1 for two empty sets."""
    return len(a & b) / len(a | b) if a | b else 1.0


class TestSchedule:
    def test_learning_rate_rises_in_warm_up_and_falls_to_zero(self) -> None:
        training = TrainingConfig(learning_rate=1.0, max_epochs=10, warmup_epochs=2.0)
        rates = [learning_rate(training, step, 5) for step in range(50)]
        assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert all(a > b for a, b in pairwise(rates[10:]))
        assert rates[-1] < 0.01

    def test_learning_rate_with_cosine_equals_pytorch(self) -> None:
        training = TrainingConfig(learning_rate=0.3, max_epochs=4)
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
        for step in range(40):
            ours = learning_rate(training, step, 10)
            assert ours == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
            optimizer.step()
            scheduler.step()

    def test_learning_rate_with_constant_schedule_stays(self) -> None:
        training = TrainingConfig(learning_rate=0.3, schedule="constant", max_epochs=4)
        assert {learning_rate(training, step, 10) for step in range(40)} == {0.3}


TorchOptimizer = Callable[[list[Tensor], TrainingConfig], torch.optim.Optimizer]


def torch_adamw(params: list[Tensor], t: TrainingConfig) -> torch.optim.Optimizer:
    betas = (t.beta1, t.beta2)
    return torch.optim.AdamW(
        params, lr=t.learning_rate, betas=betas, weight_decay=t.weight_decay, fused=True
    )


def torch_sgd(params: list[Tensor], t: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        params, lr=t.learning_rate, momentum=t.momentum, weight_decay=t.weight_decay, fused=True
    )


@pytest.mark.parametrize(("name", "torchs"), [("adamw", torch_adamw), ("sgd", torch_sgd)])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_optimizer_step_equals_pytorch_to_the_bit(
    name: str, torchs: TorchOptimizer, clip_norm: float | None
) -> None:
    training = TrainingConfig.model_validate(
        {"optimizer": name, "learning_rate": 0.05, "weight_decay": 0.1, "clip_norm": clip_norm}
    )
    ours = [torch.randn(5, 3), torch.randn(7)]
    theirs = [p.clone().requires_grad_() for p in ours]
    reference = torchs(list(theirs), training)
    grads = [torch.empty_like(p) for p in ours]
    optimizer = make_optimizer(ours, grads, training)
    for step in range(1, 21):
        for grad in grads:
            grad.normal_()
        for p, grad in zip(theirs, grads, strict=True):
            p.grad = grad.clone()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs, clip_norm)
        reference.step()
        optimizer.clip()
        optimizer.step(training.learning_rate, step)
    for p, expected in zip(ours, theirs, strict=True):
        assert p.equal(expected)
