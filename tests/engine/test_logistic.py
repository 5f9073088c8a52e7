"""Logistic regression equals scikit-learn's, solved to convergence in double precision."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from headsweep.engine.numerics.logistic_solver import solve_logistic
from headsweep.engine.train_configs import train_to_end
from headsweep.errors import ConfigError
from headsweep.settings import EngineSettings
from tests.helpers.splits import config, make_split

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3)


def ill_conditioned(n: int = 1500, d: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Features with standard deviations over three decades and nonzero means; one is constant."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, d)) * np.logspace(0, -3, d) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = np.column_stack([x + 0.7, np.full(n, 2.0)])
    logits = 3 * x[:, :1] - 4 * x[:, 1:2] + rng.logistic(size=(n, 3)) - [-1.0, 0.0, 4.0]
    return x.astype(np.float32), (logits > 0).astype(np.float32)


def sklearn_scores(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    model = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-10, max_iter=10_000)
    return model.fit(x.astype(np.float64), y).predict_proba(x.astype(np.float64))[:, 1]


def test_solve_logistic_at_every_penalty_gives_scores_of_sklearn() -> None:
    x, y = ill_conditioned()
    problems = [(penalty, j) for penalty in PENALTIES for j in range(3)]
    solution = solve_logistic(
        torch.tensor(x),
        torch.tensor(np.stack([y[:, j] for _, j in problems])),
        torch.tensor([penalty for penalty, _ in problems]),
    )
    assert solution.converged.all()
    scores = torch.sigmoid(solution.weight @ torch.tensor(x).T + solution.bias.unsqueeze(1))
    for row, (penalty, j) in enumerate(problems):
        expected = sklearn_scores(x, y[:, j], penalty)
        np.testing.assert_allclose(scores[row].numpy(), expected, atol=1e-4)


def test_solve_logistic_without_positives_gives_low_scores() -> None:
    x, _ = ill_conditioned()
    targets = torch.zeros(1, len(x))
    solution = solve_logistic(torch.tensor(x), targets, torch.tensor([0.1]))
    assert solution.weight.isfinite().all()
    assert torch.sigmoid(solution.weight @ torch.tensor(x).T + solution.bias).max() < 0.01


def test_solve_logistic_of_separable_classes_stays_finite() -> None:
    x, _ = ill_conditioned()
    targets = torch.tensor(x[:, 0] > np.median(x[:, 0])).float().unsqueeze(0)
    solution = solve_logistic(torch.tensor(x), targets, torch.tensor([1e-4]))
    assert solution.weight.isfinite().all()
    scores = torch.sigmoid(solution.weight @ torch.tensor(x).T + solution.bias.unsqueeze(1))
    expected = sklearn_scores(x, targets[0].numpy(), 1e-4)
    np.testing.assert_allclose(scores[0].numpy(), expected, atol=2e-4)


def test_train_to_end_with_lbfgs_takes_one_epoch_and_predicts_as_sklearn() -> None:
    train, valid = make_split("train", 300, seed=1), make_split("valid", 90, seed=2)
    penalties = (0.3, 0.01)
    configs = [
        config("training.optimizer=lbfgs", f"training.weight_decay={p}", "features=both")
        for p in penalties
    ]
    trained = train_to_end(configs, train, valid, EngineSettings(device="cpu"))
    mean, std = (
        np.concatenate([getattr(train.features[m], f)(axis=0) for m in ("visual", "text")])
        for f in ("mean", "std")
    )
    x, x_valid = (
        (np.concatenate([s.features["visual"], s.features["text"]], axis=1) - mean) / std
        for s in (train, valid)
    )
    for one, penalty in zip(trained, penalties, strict=True):
        assert len(one.history) == 1
        scores = one.predictor({m: torch.tensor(f) for m, f in valid.features.items()}).numpy()
        for j in range(scores.shape[1]):
            model = LogisticRegression(C=1 / (300 * penalty), tol=1e-10, max_iter=10_000)
            model.fit(x.astype(np.float64), train.targets[:, j])
            expected = model.predict_proba(x_valid.astype(np.float64))[:, 1]
            np.testing.assert_allclose(scores[:, j], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("override", "law"),
    [
        ("head=mlp", "head.kind must be linear"),
        ("training.loss=focal", "training.loss must be bce"),
        ("training.label_smoothing=0.1", "training.label_smoothing must be 0.0"),
        ("training.weight_decay=0", "training.weight_decay must be greater than 0"),
    ],
)
def test_config_with_lbfgs_and_no_logistic_regression_is_refused(override: str, law: str) -> None:
    with pytest.raises(ConfigError, match=law):
        config("training.optimizer=lbfgs", override)
