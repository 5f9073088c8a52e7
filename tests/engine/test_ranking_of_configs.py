"""The ranking of configs does not depend on which of them were trained together."""

from pathlib import Path

import optuna
import pytest
from scipy.stats import kendalltau

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.engine import groups
from headsweep.engine.programs.mlp_stacked import StackedMLPProgram
from headsweep.engine.train_configs import train_to_end
from headsweep.search.space import suggest
from headsweep.search.study_file import load_study_file
from headsweep.settings import EngineSettings
from tests.helpers.splits import make_split

STUDIES = Path(__file__).parents[2] / "search_spaces"
SPLITS = make_split("train", 200, seed=1), make_split("valid", 200, seed=2)


def drawn_configs(study: str, n: int) -> list[Config]:
    """Return random configs of a shipped study's space, with one epoch each."""
    # From weights of 0, AdamW's first step ranks alike at all learning rates.
    spec = load_study_file(STUDIES / f"{study}.yaml", ["head.init=default"])
    short = {"training.max_epochs": 1, "training.warmup_epochs": 0.0}
    draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [
        with_values(spec.config, suggest(draws.ask(), spec.space, spec.config) | short, where=study)
        for _ in range(n)
    ]


def reached(configs: list[Config]) -> list[float]:
    settings = EngineSettings(device="cpu", slots=50)
    return [trained.best_value for trained in train_to_end(configs, *SPLITS, settings)]


@pytest.mark.parametrize("study", ["linear_visual", "mlp_visual"])
def test_train_to_end_of_fifty_configs_ranks_alike_alone_and_fused(
    study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are equal to the bit on a CPU; the stacked program of a GPU gives the same ranking."""
    configs = drawn_configs(study, 50)
    alone = [value for one in configs for value in reached([one])]
    assert len(set(alone)) > 40  # there is something to rank
    assert reached(configs) == alone
    monkeypatch.setitem(groups.PROGRAMS, "mlp", StackedMLPProgram)
    assert kendalltau(alone, reached(configs)).statistic >= 0.98
