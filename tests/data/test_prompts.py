"""Files of prompt embeddings: what is read, and what is refused in one line."""

import numpy as np
import pytest

from headsweep.data.prompts import read_prompts
from headsweep.errors import FeatureError

LABELS, WIDTH = ("Emphysema", "Lung nodule"), 4
GOOD = {
    "positive:Emphysema": np.array([3.0, 0, 0, 0]),
    "negative:Emphysema": np.array([[0, 2.0, 0, 0]]),
    "Lung nodule": np.array([[1.0, 0, 0, 0], [0, 5.0, 0, 0]]),
}


def written(tmp_path, **changes):
    path = tmp_path / "prompts.npz"
    arrays = {k: v for k, v in (GOOD | changes).items() if v is not None}
    np.savez(path, **arrays)
    return path


def test_read_prompts_returns_unit_vectors_and_averages_several_prompts(tmp_path):
    found = read_prompts(written(tmp_path, logit_scale=np.float32(2)), LABELS, WIDTH)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found.positive, [[1, 0, 0, 0], [half, half, 0, 0]])
    np.testing.assert_allclose(found.negative, [[0, 1, 0, 0], [0, 0, 0, 0]])
    assert found.scale == 2
    assert read_prompts(written(tmp_path), LABELS[::-1], WIDTH).scale == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Lung nodule": None}, "label 'Lung nodule' has no prompt: expected an array"),
        ({"Lung nodule": None, "Lung nodules": np.ones(4)}, "Did you mean 'Lung nodules'?"),
        ({"negative:Emphysema": None}, "label 'Emphysema' has no prompt 'negative:Emphysema'"),
        ({"Lung nodule": np.ones(5)}, r"'Lung nodule' must be 4 wide, .* found shape (5,)"),
        ({"Lung nodule": np.array([1, np.nan, 0, 0])}, "'Lung nodule' must be finite"),
        ({"positive:Emphysema": np.zeros(4)}, "'positive:Emphysema' must have a direction"),
        ({"Lung nodule": np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])}, "cancel each other"),
        ({"logit_scale": np.array([1.0, 2.0])}, "logit_scale must be one number, found shape (2,)"),
        ({"logit_scale": np.array(-1.0)}, "logit_scale must be greater than 0, found -1"),
        ({"Lung nodule": np.array(["a"])}, "must be floats or integers"),
    ],
)
def test_read_prompts_of_unusable_file_raises_one_line(tmp_path, changes, message):
    with pytest.raises(FeatureError) as caught:
        read_prompts(written(tmp_path, **changes), LABELS, WIDTH)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "prompts.npz"))
    assert all(part in text for part in message.split(" .* "))
    assert "\n" not in text


def test_read_prompts_of_missing_or_damaged_file_raises(tmp_path):
    with pytest.raises(FeatureError, match=r"file of prompts not found: .*none\.npz"):
        read_prompts(tmp_path / "none.npz", LABELS, WIDTH)
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4 and then nothing")
    with pytest.raises(FeatureError, match=r"bad\.npz: the npz file is damaged"):
        read_prompts(tmp_path / "bad.npz", LABELS, WIDTH)
    (tmp_path / "prompts.csv").write_text("")
    with pytest.raises(FeatureError, match=r"must end in \.npz"):
        read_prompts(tmp_path / "prompts.csv", LABELS, WIDTH)
