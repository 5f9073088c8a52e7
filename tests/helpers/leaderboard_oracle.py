"""Every figure of a leaderboard from its parquet files, by scikit-learn, SciPy and plain loops.

Nothing of headsweep is imported here. Values are (c,) arrays by metric, NaN where undefined.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import optimize
from scipy.stats import binned_statistic, false_discovery_control, norm
from scipy.stats import t as student_t
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

Array = NDArray[np.float64]
Values = Mapping[str, Array]
Resamples = Iterator[NDArray[np.int64]]
"""Rows of one resample after another."""
CUTS = {"f1": "", "youden": "_youden"}


@dataclass(frozen=True, eq=False)
class Scored:
    """A parquet file of predictions: targets and scores (n, c)."""

    labels: list[str]
    patients: NDArray[np.str_]
    targets: NDArray[np.int64]
    scores: Array

    def take(self, rows: NDArray[Any]) -> Scored:
        return Scored(self.labels, self.patients[rows], self.targets[rows], self.scores[rows])


def read(path: Path) -> Scored:
    table = pq.read_table(path)
    named = [name for name in table.column_names if name.startswith("y_true:")]
    labels = [name.removeprefix("y_true:") for name in named]
    targets, scores = (
        np.stack([table[f"{kind}:{label}"].to_numpy() for label in labels], axis=1)
        for kind in ("y_true", "y_score")
    )
    patients = np.array(table["patient"].to_pylist())
    return Scored(labels, patients, targets.astype(np.int64), scores.astype(np.float64))


def thresholds(valid: Scored) -> dict[str, Array]:
    """Where F1, and where sensitivity + specificity, is largest; the highest of equals."""
    cuts = {kind: np.full(len(valid.labels), np.nan) for kind in CUTS}
    for j in range(len(valid.labels)):
        y, score = valid.targets[:, j], valid.scores[:, j]
        if y.any():
            precision, recall, cut = precision_recall_curve(y, score)
            total = precision + recall
            f1 = 2 * precision * recall / np.where(total > 0, total, 1)
            best = np.flatnonzero(np.isclose(f1[:-1], f1[:-1].max(), rtol=1e-12, atol=0))
            cuts["f1"][j] = cut[best[-1]]
        if 0 < y.sum() < len(y):
            false, true, cut = roc_curve(y, score, drop_intermediate=False)
            gain = true - false
            best = np.flatnonzero(np.isclose(gain[1:], gain.max(), rtol=1e-12, atol=1e-15))
            cuts["youden"][j] = cut[1:][best[0]]
    return cuts


def measure(scored: Scored, cuts: Mapping[str, Array]) -> dict[str, Array]:
    """Every metric of every label."""
    return ranking(scored) | operating(scored, cuts) | calibration(scored)


def ranking(scored: Scored) -> dict[str, Array]:
    found = {name: [] for name in ("auprc", "auroc", "auprc_skill")}
    for y, score in zip(scored.targets.T, scored.scores.T, strict=True):
        both = 0 < y.sum() < len(y)
        auprc = average_precision_score(y, score) if both else np.nan
        found["auprc"].append(auprc)
        found["auroc"].append(roc_auc_score(y, score) if both else np.nan)
        found["auprc_skill"].append((auprc - y.mean()) / (1 - y.mean()) if both else np.nan)
    return {name: np.array(values) for name, values in found.items()}


def operating(scored: Scored, cuts: Mapping[str, Array]) -> dict[str, Array]:
    """What frozen thresholds give."""
    found: dict[str, list[float]] = {}
    for kind, suffix in CUTS.items():
        for y, score, cut in zip(scored.targets.T, scored.scores.T, cuts[kind], strict=True):
            (tn, fp), (fn, tp) = confusion_matrix(y, score >= cut, labels=[0, 1]).tolist()
            known = not np.isnan(cut)
            ratios = {
                "f1": (2 * tp, 2 * tp + fp + fn if tp + fn else 0),
                "precision": (tp, tp + fp),
                "sensitivity": (tp, tp + fn),
                "specificity": (tn, tn + fp),
            }
            for name, (part, whole) in ratios.items():
                value = part / whole if whole and known else np.nan
                found.setdefault(name + suffix, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def calibration(scored: Scored) -> dict[str, Array]:
    found: dict[str, list[float]] = {"sensitivity_at_90_specificity": [], "brier": [], "ece": []}
    for y, score in zip(scored.targets.T, scored.scores.T, strict=True):
        best = np.nan
        if 0 < y.sum() < len(y):
            false, true, _ = roc_curve(y, score, drop_intermediate=False)
            best = true[1 - false >= 0.9].max()
        found["sensitivity_at_90_specificity"].append(best)
        found["brier"].append(brier_score_loss(y, score))
        bins = np.linspace(0, 1, 16)
        gaps = binned_statistic(score, score - y, "sum", bins).statistic
        found["ece"].append(float(np.abs(gaps).sum() / len(y)))
    return {name: np.array(values) for name, values in found.items()}


def macro(values: Values) -> dict[str, float]:
    """Means over the labels that have a value."""
    defined = {name: value[np.isfinite(value)] for name, value in values.items()}
    return {name: float(v.mean()) if v.size else np.nan for name, v in defined.items()}


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return {"mean": float(np.mean(values)), "std": float(spread)}


def report(seeds: Sequence[Scored], cuts: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """A split's entry of `metrics.json`, without intervals."""
    found = [measure(scored, cut) for scored, cut in zip(seeds, cuts, strict=True)]
    auprc = np.mean([values["auprc"] for values in found], axis=0)
    first = seeds[0]
    return {
        "n_rows": len(first.patients),
        "n_patients": len(set(first.patients)),
        "n_labels_used": int(np.isfinite(auprc).sum()),
        "worst_label": first.labels[int(np.nanargmin(auprc))],
        **{
            f"{name}_macro": over_seeds([macro(values)[name] for values in found])
            for name in found[0]
        },
        "per_label": {
            label: {
                "support": int(first.targets[:, j].sum()),
                "prevalence": float(first.targets[:, j].mean()),
                **{
                    name: over_seeds([float(values[name][j]) for values in found])
                    for name in found[0]
                },
            }
            for j, label in enumerate(first.labels)
        },
    }


def subgroups(seeds: Sequence[Scored], groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The `subgroups` of a split, without intervals."""
    found: dict[str, Any] = {}
    for attribute, of_row in groups.items():
        for group in set(of_row):
            rows = np.asarray(of_row) == group
            values = [ranking(scored.take(rows)) for scored in seeds]
            found.setdefault(attribute, {})[group] = {
                "n_rows": int(rows.sum()),
                "n_patients": len(set(seeds[0].take(rows).patients)),
                "n_labels_used": int(np.isfinite(values[0]["auprc"]).sum()),
                **{
                    f"{name}_macro": over_seeds([macro(value)[name] for value in values])
                    for name in ("auprc", "auroc")
                },
            }
    return found


def recalls(path: Path) -> dict[str, dict[str, float]]:
    """Recall@K by direction of the ranks in a parquet file."""
    table = pq.read_table(path)
    return {
        name.removeprefix("rank:"): {
            f"recall_at_{k}": float((table[name].to_numpy() <= k).mean()) for k in (1, 5, 10, 50)
        }
        for name in table.column_names
        if name.startswith("rank:")
    }


def recorded_resamples(patients: NDArray[np.str_], n: int, seed: int) -> Resamples:
    """Rows of each resample that a leaderboard draws: how often each sorted patient is drawn."""
    keys, of_row = np.unique(patients, return_inverse=True)
    share = np.full(len(keys), 1 / len(keys))
    for drawn in np.random.default_rng(seed).multinomial(len(keys), share, size=n):
        yield np.repeat(np.arange(len(of_row)), drawn[of_row])


def fresh_resamples(patients: NDArray[np.str_], n: int, seed: int) -> Resamples:
    """Rows of resamples drawn in the plainest way: a patient, then another, with all their rows."""
    rng = np.random.default_rng(seed)
    rows_of = [np.flatnonzero(patients == key) for key in np.unique(patients)]
    for _ in range(n):
        drawn = rng.integers(len(rows_of), size=len(rows_of))
        yield np.concatenate([rows_of[i] for i in drawn])


def bootstrap(
    resamples: Iterable[NDArray[np.int64]],
    seeds: Sequence[Scored],
    cuts: Sequence[Mapping[str, Array]],
) -> dict[str, Array]:
    """Plain loop over resamples; values over seeds by label and, last, their macro mean.

    Returns:
        (B, c + 1) by metric.
    """
    draws = [
        _mean([_drawn(scored.take(rows), cut) for scored, cut in zip(seeds, cuts, strict=True)])
        for rows in resamples
    ]
    return {name: np.stack([values[name] for values in draws]) for name in draws[0]}


def ranking_by_hand(scored: Scored) -> dict[str, Array]:
    """`ranking` without scikit-learn's checks of its input, which take most of a loop's time."""
    found = np.full((3, len(scored.labels)), np.nan)
    for j, (y, score) in enumerate(zip(scored.targets.T, scored.scores.T, strict=True)):
        p = y.sum()
        if not 0 < p < len(y):
            continue
        order = np.argsort(-score)
        last = np.flatnonzero(np.diff(score[order], append=-np.inf))
        true = np.cumsum(y[order])[last]
        false = last + 1 - true
        auprc = (np.diff(true, prepend=0) * true / (last + 1)).sum() / p
        found[0, j] = auprc
        found[1, j] = np.trapezoid(np.append(0, true), np.append(0, false)) / (p * (len(y) - p))
        found[2, j] = (auprc - y.mean()) / (1 - y.mean())
    return dict(zip(("auprc", "auroc", "auprc_skill"), found, strict=True))


def _drawn(scored: Scored, cuts: Mapping[str, Array]) -> dict[str, Array]:
    values = ranking_by_hand(scored)
    values["brier"] = ((scored.scores - scored.targets) ** 2).mean(axis=0)
    positive = scored.targets == 1
    for kind, suffix in CUTS.items():
        called = scored.scores >= cuts[kind]
        tp, fp = (called & positive).sum(axis=0), (called & ~positive).sum(axis=0)
        p, n = positive.sum(axis=0), (~positive).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            values[f"f1{suffix}"] = np.where(p > 0, 2 * tp / (tp + fp + p), np.nan)
            values[f"precision{suffix}"] = tp / (tp + fp)
            values[f"sensitivity{suffix}"] = tp / p
            values[f"specificity{suffix}"] = 1 - fp / n
    means = macro(values)
    return {name: np.append(value, means[name]) for name, value in values.items()}


def interval(estimate: float, draws: Array, patients: float, least: float = 10) -> Array:
    """Efron's bias-corrected percentiles, their normal quantile as Student's for so many patients.

    `patients` are those with a row of the rarer class; for a macro mean, their mean over labels.
    With fewer than `least` there is none.
    """
    if patients < least:
        return np.full(2, np.nan)
    draws = draws[np.isfinite(draws)]
    below = np.mean(draws < estimate) + np.mean(draws == estimate) / 2
    z0 = norm.ppf((below * len(draws) + 0.5) / (len(draws) + 1))
    reach = student_t(patients - 1).ppf(0.975) * math.sqrt(patients / (patients - 1))
    return np.quantile(draws, norm.cdf([2 * z0 - reach, 2 * z0 + reach]))


def rest_on(scored: Scored) -> list[float]:
    """Patients of each label's rarer class and, last, their mean over the labels with any."""
    counts = []
    for y in scored.targets.T:
        of = [{p for p, t in zip(scored.patients, y, strict=True) if t == k} for k in (0, 1)]
        counts.append(float(min(map(len, of))))
    return [*counts, float(np.mean([count for count in counts if count]))]


def score_interval(name: str, estimate: float, draws: Array, classes: tuple[float, float]) -> Array:
    """Areas whose standard error is large enough for the estimate, by root finding.

    `classes` are the patients with a positive and with a negative row. There is no interval with
    fewer than five of either.
    """
    if min(classes) < 5 or not math.isfinite(estimate):
        return np.full(2, np.nan)
    factor = _inflation(name, estimate, draws, classes)
    bias = 0.35 / classes[0] if name == "auprc" else 0.0

    def outside(area: float) -> float:
        quantile = student_t(12 + min(classes) - 1).ppf(0.975)
        reach = quantile * math.sqrt(_variance(name, area, classes) * factor)
        return abs(estimate - area - bias * (1 - area)) - reach

    middle = (estimate - bias) / (1 - bias)
    return np.array([optimize.brentq(outside, end, middle, xtol=1e-14) for end in (0.0, 1.0)])


def macro_auprc_interval(
    estimates: Array, draws: Array, classes: Sequence[tuple[float, float]]
) -> Array:
    """Normal interval of the mean of bias-corrected average precisions; draws are (B, c).

    There is none with fewer than five patients of the rarer class on average over labels.
    """
    used = [j for j, value in enumerate(estimates) if math.isfinite(value)]
    if np.mean([min(classes[j]) for j in used]) < 5:
        return np.full(2, np.nan)
    middles, variances, plain = [], [], []
    for j in used:
        bias = 0.35 / classes[j][0]
        middles.append((estimates[j] - bias) / (1 - bias))
        own = _shrunk(estimates[j], classes[j][0])
        factor = _inflation("auprc", estimates[j], draws[:, j], classes[j])
        variances.append(factor * _variance("auprc", own, classes[j]))
        plain.append(draws[np.isfinite(draws[:, j]), j].var())
    means = [row[used][np.isfinite(row[used])].mean() for row in draws]
    joint = np.var(means) * len(used) ** 2 / sum(plain)
    reach = norm.ppf(0.975) * math.sqrt(sum(variances) * joint) / len(used)
    mean, middle = estimates[used].mean(), np.mean(middles)
    return np.clip([min(middle - reach, mean), max(middle + reach, mean)], 0, 1)


def macro_auroc_interval(
    estimates: Array, draws: Array, classes: Sequence[tuple[float, float]]
) -> Array:
    """Means of ROC areas that are at most Student's quantile of standard errors away, by roots.

    There is none with fewer than five patients of the rarer class on average over labels.
    """
    used = [j for j, value in enumerate(estimates) if math.isfinite(value)]
    size = {j: min(classes[j]) for j in used}
    patients = sum(size.values())
    if patients / len(used) < 5:
        return np.full(2, np.nan)
    mean = float(estimates[used].mean())
    center = (mean * patients + 0.5) / (patients + 1)
    area = {j: (estimates[j] * size[j] + center) / (size[j] + 1) for j in used}
    formula = {j: _variance("auroc", area[j], classes[j]) for j in used}
    spread = {j: draws[np.isfinite(draws[:, j]), j].var() for j in used}
    added = 12 * np.mean(list(formula.values()))
    ratio = added + sum(size[j] * spread[j] for j in used)
    ratio /= added + sum((size[j] - 1) * formula[j] for j in used)
    own = {j: (12 * ratio * formula[j] + size[j] * spread[j]) / (size[j] + 11) for j in used}
    total = 0.0
    for j in used:
        for k in used:
            both = np.where(np.isfinite(draws[:, [j, k]]), draws[:, [j, k]], np.nan)
            centered = np.nan_to_num(both - np.nanmean(both, axis=0))
            shrunk = [min(1.0, math.sqrt(own[i] / spread[i])) if spread[i] else 1.0 for i in (j, k)]
            total += own[j] if j == k else np.cov(centered.T, ddof=0)[0, 1] * np.prod(shrunk)
    freedom = sum(own.values()) ** 2 / sum(own[j] ** 2 / (size[j] + 11) for j in used)
    middle = np.mean(list(area.values()))
    scale = student_t(freedom).ppf(0.975) ** 2 * total / len(used) ** 2 / (middle * (1 - middle))

    def outside(t: float) -> float:
        return (mean - t) ** 2 - scale * t * (1 - t)

    return np.array([optimize.brentq(outside, end, mean, xtol=1e-14) for end in (0.0, 1.0)])


def patients_of_classes(scored: Scored) -> list[tuple[float, float]]:
    """Patients with a positive and with a negative row of each label."""
    return [
        tuple(
            float(len({p for p, t in zip(scored.patients, y, strict=True) if t == k}))
            for k in (1, 0)
        )
        for y in scored.targets.T
    ]


def _shrunk(area: float, patients: float) -> float:
    return (area * patients + 0.5) / (patients + 1)


def _inflation(name: str, area: float, draws: Array, classes: tuple[float, float]) -> float:
    """Bootstrap variance over that of the formula, which counts as twelve patients."""
    m = min(classes)
    own = _shrunk(area, classes[0] if name == "auprc" else m)
    # Resamples of m patients vary by (m - 1) / m of what they should; m - 1 degrees of freedom.
    freedom_times_ratio = m * draws[np.isfinite(draws)].var() / _variance(name, own, classes)
    return (12 + freedom_times_ratio) / (12 + m - 1)


def _variance(name: str, area: float, classes: tuple[float, float]) -> float:
    p, n = classes
    if name == "auprc":
        left = min((1 - area) * (p + n) / n / 0.35, 1.0)
        return 0.9 * area * (1 - area) / p * left**0.3
    both = []
    for a in (area, 1 - area):  # Hanley and McNeil 1982
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
        terms = a * (1 - a) + (p - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)
        both.append(terms / (p * n))
    return sum(both) / 2


def paired(draws: Array, patients: float) -> tuple[float, float, float]:
    """Expanded percentiles of a difference, and its two-sided p-value; NaN below ten patients."""
    if patients < 10:
        return (np.nan,) * 3
    expansion = math.sqrt(patients / (patients - 1))
    reach = student_t(patients - 1).ppf(0.975) * expansion
    low, high = np.quantile(draws, norm.cdf([-reach, reach]))
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    z = norm.isf(min(1, 2 * (tail + 1) / (len(draws) + 1)) / 2)
    return float(low), float(high), float(2 * student_t(patients - 1).sf(z / expansion))


def _mean(by_seed: Sequence[Values]) -> dict[str, Array]:
    return {name: np.mean([values[name] for values in by_seed], axis=0) for name in by_seed[0]}


def delong(
    patients: NDArray[np.str_], y: NDArray[np.int64], a: Array, b: Array
) -> tuple[float, float]:
    """Difference in AUROC and its two-sided p-value, by patients (Obuchowski 1997, eq. 2 to 4).

    Student's distribution has Satterthwaite's degrees of freedom; those of a class are Bell and
    McCaffrey's. The p-value is NaN with fewer than five patients of a class.

    Args:
        patients: of each row.
        y: (n,) targets.
        a: (S, n) scores of one row of the board, averaged over seeds in the components.
        b: (S, n) scores of another.
    """
    first, second = (_components(y, scores) for scores in (a, b))
    positive, negative = (first[i] - second[i] for i in (0, 1))
    difference = positive.mean()
    keys = sorted(set(patients))
    of_positive = [patient for patient, label in zip(patients, y, strict=True) if label]
    of_negative = [patient for patient, label in zip(patients, y, strict=True) if not label]
    sums = np.zeros((2, len(keys)))
    for i, (values, owners) in enumerate(((positive, of_positive), (negative, of_negative))):
        for value, owner in zip(values, owners, strict=True):
            sums[i, keys.index(owner)] += value - difference
    m, n = len(positive), len(negative)
    i10, i01, both = len(set(of_positive)), len(set(of_negative)), len(keys)
    s10 = i10 / ((i10 - 1) * m) * (sums[0] ** 2).sum()
    s01 = i01 / ((i01 - 1) * n) * (sums[1] ** 2).sum()
    s11 = both / (both - 1) * (sums[0] * sums[1]).sum()
    parts = np.array([s10 / m, s01 / n])
    variance = parts.sum() + 2 * s11 / (m * n)
    if min(i10, i01) < 5 or variance <= 0:
        return float(difference), math.nan
    counts = [np.unique(owners, return_counts=True)[1] for owners in (of_positive, of_negative)]
    freedom = parts.sum() ** 2 / (parts**2 / [_freedom(count) for count in counts]).sum()
    return float(difference), float(
        2 * student_t.sf(abs(difference) / math.sqrt(variance), freedom)
    )


def _freedom(rows: NDArray[np.int64]) -> float:
    """Bell and McCaffrey's degrees of freedom of patients with so many rows each."""
    residual = np.eye(len(rows)) - np.outer(np.ones(len(rows)), rows / rows.sum())
    form = residual.T @ np.diag(rows.astype(float) ** 2) @ residual
    return float(np.trace(form) ** 2 / np.trace(form @ form))


def _components(y: NDArray[np.int64], scores: Array) -> tuple[Array, Array]:
    kernels = []
    for score in scores:
        above, below = score[y == 1][:, None], score[y == 0][None]
        kernels.append((above > below) + 0.5 * (above == below))
    kernel = np.mean(kernels, axis=0)
    return kernel.mean(axis=1), kernel.mean(axis=0)


def holm(p: Sequence[float]) -> list[float]:
    """Step by step: the smallest times m, the next times m - 1, never falling; NaN count not."""
    known = [i for i in range(len(p)) if not math.isnan(p[i])]
    adjusted, least = [math.nan] * len(p), 0.0
    for step, i in enumerate(sorted(known, key=lambda i: p[i])):
        least = max(least, min(1.0, p[i] * (len(known) - step)))
        adjusted[i] = least
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    values = np.array(p, dtype=float)
    known = np.isfinite(values)
    if known.any():
        values[known] = false_discovery_control(values[known], method="bh")
    return values.tolist()
