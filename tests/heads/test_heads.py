"""Normalization, nearest neighbours and predictor files, against independent computations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from headsweep.config.data_sections import Normalization
from headsweep.config.head_section import HeadConfig, LinearConfig, MLPConfig, RetrievalConfig
from headsweep.errors import FeatureError
from headsweep.heads.base import HeadShape
from headsweep.heads.neighbours import largest, neighbour_probabilities
from headsweep.heads.normalization import fit_normalizer
from headsweep.heads.predictor import (
    Predictor,
    PredictorSpec,
    load_predictor,
    save_predictor,
)
from headsweep.heads.registry import build_head
from headsweep.heads.retrieval import RetrievalHead

SHAPE = HeadShape({"visual": 6, "text": 4}, "both", 3)
VIEWS: Mapping[str, Tensor] = {"visual": torch.randn(20, 6), "text": torch.randn(20, 4)}


class TestNormalization:
    def raw(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        mixing = torch.randn(8, 8, generator=generator)
        return torch.randn(4000, 8, generator=generator) @ mixing + 5

    def test_zscore_equals_sklearn(self) -> None:
        raw = self.raw()
        expected = StandardScaler().fit_transform(raw.double().numpy())
        ours = fit_normalizer("zscore", raw)(raw).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-4)

    def test_whiten_gives_almost_the_identity_as_covariance(self) -> None:
        raw = self.raw()
        white = fit_normalizer("whiten", raw)(raw)
        covariance = np.cov(white.T.numpy())
        assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.02
        # Shrinkage keeps the smallest component a little under one.
        assert np.linalg.eigvalsh(covariance).max() == pytest.approx(1, abs=0.01)

    def test_l2_gives_unit_length(self) -> None:
        raw = self.raw()
        torch.testing.assert_close(fit_normalizer("l2", raw)(raw).norm(dim=1), torch.ones(4000))

    def test_none_gives_the_raw_features(self) -> None:
        raw = self.raw()
        assert fit_normalizer("none", raw)(raw).equal(raw)

    def test_std_equals_sklearn_without_centring(self) -> None:
        raw = self.raw()
        expected = StandardScaler(with_mean=False).fit_transform(raw.double().numpy())
        ours = fit_normalizer("std", raw)(raw).numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-5)

    def test_layer_equals_layer_norm_without_affine(self) -> None:
        raw = self.raw()
        ours = fit_normalizer("layer", raw)(raw)
        assert ours.equal(nn.LayerNorm(8, elementwise_affine=False)(raw))
        wide = torch.randn(50, 512) * 3 + 7
        normalized = fit_normalizer("layer", wide)(wide)
        exact = StandardScaler().fit_transform(wide.double().numpy().T).T
        np.testing.assert_allclose(normalized.numpy(), exact, atol=1e-4)

    @pytest.mark.parametrize("kind", ["none", "l2", "layer", "std", "zscore", "whiten"])
    def test_normalizer_of_constant_columns_stays_finite(self, kind: Normalization) -> None:
        raw = self.raw()
        raw[:, 2], raw[:, 5] = 0.0, 0.1
        normalised = fit_normalizer(kind, raw)(raw)
        assert normalised.isfinite().all()
        if kind in ("std", "zscore", "whiten"):
            assert normalised[:, [2, 5]].abs().max() < 1e-3

    def test_normalizer_of_new_rows_is_independent_of_their_neighbours(self) -> None:
        normalizer = fit_normalizer("whiten", self.raw())
        rows = torch.randn(5, 8)
        assert normalizer(rows)[:2].allclose(normalizer(rows[:2]))


class TestNeighbours:
    def test_neighbour_probabilities_equal_sklearn(self) -> None:
        rng = np.random.default_rng(0)
        gallery, queries = (torch.tensor(rng.normal(size=(n, 5))).float() for n in (80, 30))
        gallery, queries = (x / x.norm(dim=1, keepdim=True) for x in (gallery, queries))
        targets = torch.tensor(rng.random((80, 4)) < 0.4).float()
        ours = neighbour_probabilities(queries, gallery, targets, neighbours=7, temperature=0.1)
        # For unit vectors cosine = 1 - distance² / 2.
        oracle = KNeighborsClassifier(7, weights=lambda d: np.exp((1 - d**2 / 2) / 0.1))
        for j in range(4):
            oracle.fit(gallery.numpy(), targets[:, j].numpy())
            expected = oracle.predict_proba(queries.numpy())[:, 1]
            np.testing.assert_allclose(ours[:, j], expected, atol=1e-5)

    def test_neighbour_probabilities_of_agreeing_neighbours_are_one(self) -> None:
        gallery = torch.nn.functional.normalize(torch.randn(200, 16), dim=1)
        ours = neighbour_probabilities(
            gallery, gallery, torch.ones(200, 2), neighbours=30, temperature=0.07
        )
        assert (ours == 1).all()

    def test_neighbour_probabilities_of_a_small_gallery_use_all_rows(self) -> None:
        gallery = torch.eye(3)
        ours = neighbour_probabilities(
            torch.tensor([[1.0, 0, 0]]), gallery, torch.eye(3), neighbours=30, temperature=1e9
        )
        torch.testing.assert_close(ours, torch.full((1, 3), 1 / 3))


@st.composite
def rows_to_search(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Similarities with many ties and some non-finite values, and how many to select."""
    n, m = draw(st.integers(1, 6)), draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 5, 10_000]))
    values = rng.integers(-levels, levels, (n, m)).astype(np.float32) / levels
    values[rng.random((n, m)) < draw(st.sampled_from([0.0, 0.01]))] = draw(
        st.sampled_from([np.nan, np.inf, -np.inf])
    )
    return torch.from_numpy(values), draw(st.integers(1, m))


@given(rows_to_search())
@example((torch.tensor([[0.0] * 56 + [torch.nan]]), 1))  # the NaN is after the last full block
def test_largest_of_random_rows_equals_a_sort(case: tuple[Tensor, int]) -> None:
    values, k = case
    found, columns = largest(values, k)
    expected = values.topk(k, dim=1).values.numpy()
    np.testing.assert_array_equal(np.sort(found.numpy(), axis=1), np.sort(expected, axis=1))
    torch.testing.assert_close(values.gather(1, columns), found, rtol=0, atol=0, equal_nan=True)
    assert all(len(set(row)) == k for row in columns.tolist())


HEADS: list[HeadConfig] = [
    LinearConfig(),
    MLPConfig(width=8, norm="layer", dropout=0.2),
    MLPConfig(hidden_dims=(5,), norm="batch", activation="gelu"),
    RetrievalConfig(dim=8, neighbours=4),
]


def predictor_of(head_config: HeadConfig) -> Predictor:
    head = build_head(head_config, SHAPE, seed=1)
    if isinstance(head, RetrievalHead):
        head.set_gallery(VIEWS, (torch.rand(20, 3) < 0.5).float())
    spec = PredictorSpec(head_config, SHAPE, "whiten", ("a", "b", "c"))
    return Predictor(spec, {m: fit_normalizer("whiten", x) for m, x in VIEWS.items()}, head)


X = VIEWS["visual"]
TEXT = VIEWS["text"].numpy()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (X.numpy(), "features must be a dict such as {'visual': array}, found ndarray"),
        ({"visual": X[0].numpy()}, "features['visual'] must have shape (rows, width), found ("),
        ({"visual": X.numpy() + 1j}, "features['visual'] must be real numbers, found complex64"),
        ({"visual": [["a"] * X.shape[1]]}, "features['visual'] must be numbers, found <U1"),
        ({"visual": X.numpy() * np.nan}, "row:0: features must be finite, found nan in features['"),
        ({"visual": X.double().numpy() * 1e300}, "row:0: features must be finite, found "),
    ],
    ids=["array", "vector", "complex", "text", "nan", "overflow"],
)
def test_predict_proba_of_other_types_raises_one_line(features: Any, message: str) -> None:
    given = {"text": TEXT} | features if isinstance(features, dict) else features
    predictor = predictor_of(LinearConfig())
    with pytest.raises(FeatureError) as raised:
        predictor.predict_proba(given)
    assert message in str(raised.value)


@pytest.mark.parametrize("visual", [X.clone().requires_grad_(), X.tolist()], ids=["grad", "list"])
def test_predict_proba_takes_tensors_and_lists(visual: Any) -> None:
    predictor = predictor_of(LinearConfig())
    expected = predictor.predict_proba({"visual": X.numpy(), "text": TEXT})
    found = predictor.predict_proba({"visual": visual, "text": TEXT})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("head_config", HEADS, ids=lambda c: c.kind)
class TestPredictor:
    def test_predictor_called_gives_probabilities(self, head_config: HeadConfig) -> None:
        scores = predictor_of(head_config)(VIEWS)
        assert scores.shape == (20, 3)
        assert ((scores >= 0) & (scores <= 1)).all()

    def test_predict_proba_gives_numpy_and_the_sigmoid_of_logits_in_float64(
        self, head_config: HeadConfig
    ) -> None:
        predictor = predictor_of(head_config)
        if head_config.kind != "retrieval":
            predictor.head.get_parameter("output.weight").data.mul_(1000)
        features = {m: x.double().numpy() for m, x in VIEWS.items()}
        found = predictor.predict_proba(features)
        assert found.dtype == np.float64
        assert found.shape == (20, len(predictor.labels))
        logits = predictor.decision_function(features)
        if head_config.kind == "retrieval":
            assert logits is None
            tensors = {m: torch.tensor(x, dtype=torch.float32) for m, x in features.items()}
            np.testing.assert_array_equal(found, predictor(tensors).double().numpy())
        else:
            assert logits is not None
            assert np.abs(logits).max() > 17  # where float32 probabilities round to 1
            expected = torch.from_numpy(logits).double().sigmoid().numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-12)

    def test_load_predictor_of_a_saved_file_gives_the_same_predictor(
        self, head_config: HeadConfig, tmp_path: Path
    ) -> None:
        predictor = predictor_of(head_config)
        save_predictor(predictor, tmp_path / "model.safetensors")
        loaded = load_predictor(tmp_path / "model.safetensors")
        assert loaded.spec == predictor.spec
        assert loaded(VIEWS).equal(predictor(VIEWS))

    def test_predictor_of_another_width_refuses_the_features(self, head_config: HeadConfig) -> None:
        with pytest.raises(FeatureError, match=r"text features must be 4 wide.*found 5"):
            predictor_of(head_config)({**VIEWS, "text": torch.randn(20, 5)})

    def test_predictor_without_a_modality_refuses_the_features(
        self, head_config: HeadConfig
    ) -> None:
        with pytest.raises(FeatureError, match="reads text features, found none"):
            predictor_of(head_config)({"visual": VIEWS["visual"]})

    def test_build_head_with_a_seed_repeats_its_weights(self, head_config: HeadConfig) -> None:
        torch.manual_seed(7)
        before = torch.random.get_rng_state()
        one, same, other = (build_head(head_config, SHAPE, seed=s) for s in (1, 1, 2))
        assert torch.random.get_rng_state().equal(before)
        assert all(a.equal(b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
        assert any(
            not a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
        )


@pytest.mark.parametrize("content", [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"x" * 99])
def test_load_predictor_of_another_file_is_refused_in_one_line(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(FeatureError, match="must be a safetensors file written by headsweep") as e:
        load_predictor(path)
    assert "\n" not in str(e.value)
