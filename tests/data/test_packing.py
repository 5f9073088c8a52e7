import json
import multiprocessing
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headsweep.config.data_sections import ColumnsConfig
from headsweep.config.values import with_values
from headsweep.data import packing
from headsweep.data.manifest import read_manifest
from headsweep.data.packing import pack, pack_for
from headsweep.data.splits import content_fingerprint
from headsweep.data.validation import check
from headsweep.errors import FeatureError, ManifestError, OutputError
from tests.helpers.data_sets import config_of, write_feature, write_split, write_table
from tests.helpers.disks import read_only

PATHS = {"data_root": "features", "manifest_dir": "manifests"}

TARGETS = {"train_1_a_1": (1, 0), "train_1_a_2": (1, 0), "train_2_a_1": (0, 1)}


def pack_train(root, modality="visual"):
    manifest = read_manifest(root / "manifests" / "train.csv", ColumnsConfig(), None)
    return pack(manifest, modality, root / "features", root / "cache", progress=False)


def inode(root):
    """Return the inode of the matrix, which changes exactly when the matrix is written again."""
    return next((root / "cache").glob("*/matrix.npy")).stat().st_ino


@pytest.fixture
def root(tmp_path):
    write_split(tmp_path, "train", TARGETS)
    return tmp_path


def test_pack_returns_rows_in_manifest_order(root):
    packed = pack_train(root)
    expected = [np.load(root / f"features/image/{v}.npz")["arr"][0] for v in TARGETS]
    np.testing.assert_array_equal(packed.matrix, expected)
    assert packed.matrix.dtype == np.float32
    assert isinstance(packed.matrix, np.memmap)
    assert not packed.matrix.flags.writeable


def test_pack_of_unchanged_input_reuses_pack(root):
    first, before = pack_train(root), inode(root)
    assert pack_train(root).fingerprint == first.fingerprint
    assert inode(root) == before


def test_pack_in_read_only_folder_reads_what_is_current_and_refuses_the_rest(root):
    first, before = pack_train(root), inode(root)
    (folder,) = (root / "cache").iterdir()
    with read_only(folder) as succeeded:
        if not succeeded:
            pytest.skip("root may not mount here")
        again = pack_train(root)
        assert (again.fingerprint, inode(root)) == (first.fingerprint, before)
        np.testing.assert_array_equal(again.matrix, first.matrix)
        write_feature(root, "image/train_1_a_1.npz", np.ones((1, 4), np.float32))
        with pytest.raises(OutputError, match=r"not up to date.*set HEADSWEEP_CACHE"):
            pack_train(root)


@pytest.mark.parametrize("command", [("data", "pack"), ("data", "synth")], ids=" ".join)
def test_output_below_a_file_ends_with_a_line_that_names_it_once(
    root, monkeypatch, headsweep, command
):
    """Before the fix: `[Errno 20] Not a directory: 'FILE'` behind the same path."""
    file = root / "file"
    file.touch()
    monkeypatch.setenv("HEADSWEEP_CACHE", str(file / "cache"))
    paths = [f"paths.{name}={root}/{folder}" for name, folder in PATHS.items()]
    given = [file / "x"] if "synth" in command else [*paths, "data.test_manifests=[]"]
    write_split(root, "valid", {"valid_1_a_1": (1, 0)})
    ended = headsweep(*command, *given)
    assert ended.code == 2, ended.err
    assert "Not a directory" in ended.err
    assert "[Errno" not in ended.err
    assert ended.err.count(str(file)) == 1


def test_pack_when_only_labels_change_reuses_pack(root):
    pack_train(root)
    before = inode(root)
    write_split(root, "train", dict.fromkeys(TARGETS, (0, 0)))
    for path in (root / "features").rglob("*.npz"):  # write_split wrote the same bytes again
        os.utime(path, ns=(0, 0))
    pack_train(root)
    after = inode(root)
    assert after != before
    write_table(
        root / "manifests" / "train.csv",
        ["volumename", "visual_feature_path", "Emphysema"],
        [[volume, f"image/{volume}.npz", 1] for volume in TARGETS],
    )
    pack_train(root)
    assert inode(root) == after


def test_pack_when_file_is_touched_packs_again_to_same_fingerprint(root):
    first, before = pack_train(root), inode(root)
    os.utime(root / "features/image/train_1_a_1.npz", ns=(1, 1))
    assert pack_train(root).fingerprint == first.fingerprint
    assert inode(root) != before


def test_pack_when_value_changes_updates_matrix_and_fingerprint(root):
    first = pack_train(root)
    old = np.array(first.matrix)
    write_feature(root, "image/train_2_a_1.npz", np.full((1, 4), 7, np.float32))
    second = pack_train(root)
    np.testing.assert_array_equal(second.matrix[2], [7, 7, 7, 7])
    assert second.fingerprint != first.fingerprint
    np.testing.assert_array_equal(first.matrix, old)  # a reader of the old pack still sees it


def test_pack_when_volumes_change_packs_again(root):
    pack_train(root)
    write_split(root, "train", {**TARGETS, "train_3_a_1": (0, 0)})
    assert pack_train(root).matrix.shape == (4, 4)


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(
        st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=1, max_size=5
    )
)
def test_fingerprint_of_equal_content_in_other_folder_is_equal(tmp_path_factory, values):
    """Equal volumes and values give equal fingerprints in any folder and at any time."""
    fingerprints = set()
    for _ in range(2):
        root = tmp_path_factory.mktemp("f")
        write_split(root, "train", {f"train_{i}_a_1": (0, 1) for i in range(len(values))})
        for i, row in enumerate(values):
            write_feature(root, f"image/train_{i}_a_1.npz", np.array([row], np.float32))
        packed = pack_train(root)
        volumes = [f"train_{i}_a_1" for i in range(len(values))]
        fingerprints |= {packed.fingerprint, content_fingerprint(volumes, packed.matrix)}
    assert len(fingerprints) == 1


def test_fingerprint_when_volumes_width_or_values_change_differs():
    matrix = np.arange(6, dtype=np.float32)
    prints = {
        content_fingerprint(["a", "b"], matrix.reshape(2, 3)),
        content_fingerprint(["b", "a"], matrix.reshape(2, 3)),
        content_fingerprint(["a", "b"], matrix[::-1].reshape(2, 3)),
        content_fingerprint(["a", "b", "c"], matrix.reshape(3, 2)),
    }
    assert len(prints) == 4


def test_pack_in_several_blocks_equals_pack_in_one(root, monkeypatch):
    whole = pack_train(root)
    monkeypatch.setattr(packing, "BLOCK_ROWS", 2)
    os.utime(root / "features/image/train_1_a_1.npz", ns=(1, 1))
    parts = pack_train(root)
    assert parts.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(parts.matrix, whole.matrix)


@pytest.mark.parametrize("damage", ["truncate matrix", "remove matrix", "damage index"])
def test_pack_when_cache_is_damaged_packs_again(root, damage):
    fingerprint = pack_train(root).fingerprint
    matrix = next((root / "cache").glob("*/matrix.npy"))
    match damage:
        case "truncate matrix":
            os.truncate(matrix, matrix.stat().st_size - 1)
        case "remove matrix":
            matrix.unlink()
        case "damage index":
            (matrix.parent / "index.json").write_text("{")
    packed = pack_train(root)
    assert packed.fingerprint == fingerprint
    assert packed.matrix.shape == (3, 4)


def test_pack_after_killed_run_removes_its_partial_files(root):
    pack_train(root)
    folder = next((root / "cache").iterdir())
    (folder / "index.json").unlink()
    (folder / "matrix.npy.partial").write_bytes(b"half")
    assert pack_train(root).matrix.shape == (3, 4)
    assert {path.name for path in folder.iterdir()} == {"matrix.npy", "index.json", "lock"}


def test_pack_when_feature_file_is_damaged_leaves_no_index(root):
    (root / "features/image/train_2_a_1.npz").write_bytes(b"")
    with pytest.raises(FeatureError):
        pack_train(root)
    assert not list((root / "cache").glob("*/index.json"))


def _pack_when(root, start, results):
    while time.time() < start:
        pass
    results.put((pack_train(root).fingerprint, pack_train(root).matrix.sum()))


def test_pack_in_concurrent_processes_gives_all_the_complete_pack(tmp_path):
    targets = {f"train_{i}_a_1": (i % 2, 1) for i in range(300)}
    write_split(tmp_path, "train", targets)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    start = time.time() + 3
    arguments = (tmp_path, start, results)
    workers = [context.Process(target=_pack_when, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    packed = pack_train(tmp_path)
    assert found == {(packed.fingerprint, packed.matrix.sum())}
    assert packed.matrix.shape == (300, 4)


def test_pack_with_bad_feature_file_raises_with_file_and_row(root):
    write_feature(root, "image/train_1_a_2.npz", np.zeros((1, 5), np.float32))
    with pytest.raises(
        FeatureError, match=r"image/train_1_a_2\.npz: .*4 wide.*5 \(.*train\.csv:3\)"
    ):
        pack_train(root)
    write_feature(root, "image/train_1_a_2.npz", np.full((1, 4), np.nan, np.float32))
    with pytest.raises(FeatureError, match=r"train_1_a_2\.npz: .*finite.* \(.*train\.csv:3\)"):
        pack_train(root)
    (root / "features/image/train_1_a_2.npz").unlink()
    with pytest.raises(FeatureError, match=r"not found: .*train_1_a_2\.npz \(.*train\.csv:3\)"):
        pack_train(root)


def test_pack_of_modality_without_column_or_path_raises(root):
    with pytest.raises(ManifestError, match=r"train\.csv: no column of text feature paths"):
        pack_train(root, "text")
    write_table(
        root / "manifests" / "train.csv",
        ["volumename", "visual_feature_path", "text_feature_path", "Emphysema"],
        [["train_1_a_1", "image/train_1_a_1.npz", "", 1]],
    )
    with pytest.raises(ManifestError, match=r"csv:2: the path of the text features is empty"):
        pack_train(root, "text")


def test_pack_when_cache_is_not_writable_raises_output_error(root):
    (root / "cache").write_text("a file, not a folder")
    with pytest.raises(OutputError, match="cache"):
        pack_train(root)


def test_pack_writes_index_of_packed_files(root):
    packed = pack_train(root)
    index = json.loads(next((root / "cache").glob("*/index.json")).read_text())
    assert index["volumes"] == list(TARGETS)
    assert index["fingerprint"] == packed.fingerprint
    assert (index["rows"], index["width"]) == (3, 4)
    assert [name for name, _, _ in index["files"]] == [f"image/{v}.npz" for v in TARGETS]


def linked(root):
    """Write features as links to files outside the data root, as in a Hugging Face snapshot."""
    write_split(root, "train", {"train_1_a_1": (1, 0), "train_2_a_1": (0, 1)})
    blobs = root / "blobs"
    blobs.mkdir()
    for i, path in enumerate(sorted((root / "features/image").iterdir())):
        path.rename(blobs / f"{i}")
        path.symlink_to(blobs / f"{i}")
    return config_of(root)


def test_pack_for_with_links_out_of_data_root_raises_with_config_key(tmp_path):
    config = linked(tmp_path)
    manifest = read_manifest(tmp_path / "manifests/train.csv", config.data.columns, None)
    with pytest.raises(FeatureError, match=r"leads out of paths\.data_root; data\.follow_links"):
        pack_for(config, manifest, "visual", tmp_path / "cache", progress=False)
    followed = with_values(config, {"data.follow_links": True}, where="test")
    packed = pack_for(followed, manifest, "visual", tmp_path / "cache", progress=False)
    assert packed.matrix.shape == (2, 4)
    assert check(with_values(followed, {"data.val_manifest": None, "data.test_manifests": []},
                             where="test")) == []  # fmt: skip


def test_pack_for_with_feature_key_packs_each_array_separately(tmp_path):
    write_split(tmp_path, "train", {"train_1_a_1": (1, 0), "train_2_a_1": (0, 1)})
    for i, path in enumerate(sorted((tmp_path / "features/image").iterdir())):
        np.savez(path, first=np.full(3, i), second=np.full(5, i))
    config = config_of(tmp_path)
    manifest = read_manifest(tmp_path / "manifests/train.csv", config.data.columns, None)
    with pytest.raises(FeatureError, match=r"2 arrays: 'first', 'second'; data\.feature_key"):
        pack_for(config, manifest, "visual", tmp_path / "cache", progress=False)
    for key, width in (("first", 3), ("second", 5)):
        chosen = with_values(config, {"data.feature_key": key}, where="test")
        packed = pack_for(chosen, manifest, "visual", tmp_path / "cache", progress=False)
        np.testing.assert_array_equal(packed.matrix, [[0] * width, [1] * width])
