"""Files written by CT-CLIP's scripts are read, or refused with an error that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headsweep.data.ct_rate.ct_clip import read_ctclip_latents, read_ctclip_scores
from headsweep.data.ct_rate.names import LABELS
from headsweep.errors import FeatureError

RNG = np.random.default_rng(0)
IMAGES, REPORTS = RNG.standard_normal((2, 2, 1, 8)).astype(np.float32)
TARGETS = RNG.integers(0, 2, (2, len(LABELS)))
SCORES = RNG.random((2, len(LABELS)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two volumes with scores, labels and the latents of both modalities."""
    (tmp_path / "accessions.txt").write_text("valid_1_a_1.nii.gz\n\nvalid_2_a_1\n")
    np.savez(tmp_path / "image_latents.npz", data=IMAGES)
    np.savez(tmp_path / "text_latents.npz", data=REPORTS)
    np.savez(tmp_path / "labels_weights.npz", data=TARGETS)
    np.savez(tmp_path / "predicted_weights.npz", data=SCORES)
    return tmp_path


def test_read_ctclip_latents_returns_rows_in_volume_order(folder: Path) -> None:
    found = read_ctclip_latents(folder)
    assert found.volumes == ("valid_1_a_1", "valid_2_a_1")
    np.testing.assert_array_equal(found.latents["visual"], IMAGES[:, 0])
    np.testing.assert_array_equal(found.latents["text"], REPORTS[:, 0])
    np.testing.assert_array_equal(found.targets, TARGETS)


def test_read_ctclip_latents_without_reports_and_labels_returns_images(folder: Path) -> None:
    for name in ("text_latents.npz", "labels_weights.npz"):
        (folder / name).unlink()
    found = read_ctclip_latents(folder)
    assert list(found.latents) == ["visual"]
    assert found.targets is None


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("image_latents.npz", IMAGES[:1], "must hold 2 rows (as accessions.txt has), found shape"),
        ("image_latents.npz", IMAGES[:, :, :0], "must hold 2 rows"),
        ("text_latents.npz", np.full((2, 8), np.inf), "latents must be finite, found others"),
        ("text_latents.npz", REPORTS[:, :, :7], "equally wide, found {'visual': 8, 'text': 7}"),
        ("labels_weights.npz", TARGETS + 1, "labels must be 0 or 1, found others"),
        ("labels_weights.npz", TARGETS[:, :3], "must hold 2 rows (as accessions.txt has) of 18"),
    ],
)
def test_read_ctclip_latents_with_invalid_arrays_raises(
    folder: Path, name: str, data: np.ndarray, message: str
) -> None:
    np.savez(folder / name, data=data)
    refused(lambda: read_ctclip_latents(folder), folder, message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SCORES + 1, "scores must be probabilities, found others"),
        (SCORES.T, "must hold 2 rows (as accessions.txt has) of 18 labels, found shape (18, 2)"),
    ],
)
def test_read_ctclip_scores_with_invalid_arrays_raises(
    folder: Path, data: np.ndarray, message: str
) -> None:
    np.testing.assert_allclose(read_ctclip_scores(folder).scores, SCORES, rtol=1e-6)
    np.savez(folder / "predicted_weights.npz", data=data)
    refused(lambda: read_ctclip_scores(folder), folder, message)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_read_ctclip_latents_without_readable_volume_list_raises(
    folder: Path, content: bytes | None
) -> None:
    (folder / "accessions.txt").unlink()
    if content is not None:
        (folder / "accessions.txt").write_bytes(content)
    refused(lambda: read_ctclip_latents(folder), folder, "accessions.txt: cannot read the text")


def refused(read: Callable[[], object], folder: Path, message: str) -> None:
    with pytest.raises(FeatureError) as error:
        read()
    assert str(error.value).startswith(str(folder))
    assert message in str(error.value)
