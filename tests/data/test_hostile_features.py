"""Malicious feature files: the error names the file, memory stays small, no partial pack remains.

`tests/data/test_features.py` tests single files; here a malicious file is packed with valid ones.
"""

import json
import os
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from headsweep.config.data_sections import ColumnsConfig
from headsweep.data import packing
from headsweep.data.manifest import read_manifest
from headsweep.data.packing import PackedFeatures, pack
from headsweep.errors import FeatureError
from tests.helpers.data_sets import write_table

pytestmark = pytest.mark.hardening

WIDTH = 8
SOUND = np.linspace(-1, 1, WIDTH, dtype=np.float32)
BYTES_OF_7_TIB = 7 * 2**40
MOST_MEMORY = 20 * 2**20
VOLUMES = ("train_1_a_1", "train_2_a_1", "train_3_a_1")
HOSTILE = VOLUMES[1]

Write = Callable[[Path], object]


def npy(array: np.ndarray, shape: object = None) -> bytes:
    """Return an npy stream; `shape` is written to the header in place of the real one."""
    written = array.shape if shape is None else shape
    header = repr({"descr": array.dtype.str, "fortran_order": False, "shape": written}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + array.tobytes()


def npz(stream: bytes, compression: int = zipfile.ZIP_DEFLATED, key: str = "arr") -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(f"{key}.npy", stream)

    return write


def truncated(write: Write, kept: float) -> Write:
    def write_part(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])

    return write_part


def pt(value: object) -> Write:
    return lambda path: torch.save(value, path)


def lying_pt(path: Path) -> None:
    """Write a tensor of two million values over a storage of eight, next to one of full size."""
    torch.save(torch.from_numpy(SOUND), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    folder = next(iter(members)).partition("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            declared = content.replace(b"K\x08", b"J" + struct.pack("<i", 2_000_000))
            archive.writestr(name, declared if name.endswith("data.pkl") else content)
        archive.writestr(f"{folder}/data/1", b"\0" * 8_000_000)


def two_faced_pt(path: Path) -> None:
    """Write a file that torch reads as a legacy pickle and that ends like a zip archive."""
    torch.save(torch.from_numpy(SOUND), path, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", b"\0" * 64)


def safetensors(header: dict[str, object], data: bytes, length: int | None = None) -> Write:
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + data
    return lambda path: path.write_bytes(content)


def declared(shape: list[int], end: int, dtype: str = "F32") -> dict[str, object]:
    return {"arr": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


def swapped() -> np.ndarray:
    """Return valid features in the wrong byte order."""
    return SOUND.byteswap()


OVERFLOWN = np.array([*SOUND[1:], 70000.0]).astype(np.float32)
with np.errstate(over="ignore"):
    OVERFLOWN = OVERFLOWN.astype(np.float16)
NAN, INF = (np.array([*SOUND[1:], bad], np.float32) for bad in (np.nan, np.inf))
ZEROS = npy(np.zeros(WIDTH, np.float32)) + b"\0" * (30 * 2**20)

CASES: dict[str, tuple[str, Write]] = {
    "an object array": (".npz", lambda p: np.savez(p, arr=np.array([{}], dtype=object))),
    "a header of 7 TiB": (".npz", npz(npy(SOUND, (1, BYTES_OF_7_TIB // 4)))),
    "a header of 7 TiB in npy": (".npy", lambda p: p.write_bytes(npy(SOUND, (1, 7 * 2**38)))),
    "inflates a thousandfold": (".npz", npz(ZEROS)),
    "inflates a millionfold": (".npz", npz(ZEROS, zipfile.ZIP_BZIP2)),
    "packed by lzma": (".npz", npz(npy(SOUND), zipfile.ZIP_LZMA)),
    "a header that nests": (".npy", lambda p: p.write_bytes(npy(SOUND, [[[[()]]]]))),
    "a negative shape": (".npy", lambda p: p.write_bytes(npy(SOUND, (-8,)))),
    "no bytes": (".npz", lambda p: p.touch()),
    "half an npz": (".npz", truncated(npz(npy(SOUND)), 0.5)),
    "half an npy": (".npy", truncated(lambda p: np.save(p, SOUND), 0.9)),
    "half a pt": (".pt", truncated(pt(torch.from_numpy(SOUND)), 0.5)),
    "half a safetensors": (".safetensors", truncated(lambda p: save_file({"a": SOUND}, p), 0.9)),
    "NaN": (".npz", lambda p: np.savez(p, arr=NAN)),
    "NaN in pt": (".pt", pt(torch.from_numpy(NAN))),
    "inf": (".npy", lambda p: np.save(p, INF)),
    "inf in safetensors": (".safetensors", lambda p: save_file({"a": INF}, p)),
    "overflown float16": (".npz", lambda p: np.savez(p, arr=OVERFLOWN)),
    "overflown float16 in pt": (".pt", pt(torch.from_numpy(OVERFLOWN))),
    "overflown float16 in safetensors": (
        ".safetensors",
        lambda p: save_file({"a": OVERFLOWN}, p),
    ),
    "the wrong byte order": (".npz", lambda p: np.savez(p, arr=swapped())),
    "the wrong byte order in pt": (".pt", pt(torch.from_numpy(swapped()))),
    "the wrong byte order in safetensors": (
        ".safetensors",
        lambda p: save_file({"a": swapped()}, p),
    ),
    "objects in pt": (".pt", pt({"arr": object})),
    "a storage that is not in the pt": (".pt", lying_pt),
    "a pt that is two things": (".pt", two_faced_pt),
    "a safetensors header of 1 TiB": (".safetensors", safetensors({}, b"", 2**40)),
    "a safetensors shape of 7 TiB": (
        ".safetensors",
        safetensors(declared([BYTES_OF_7_TIB // 4], BYTES_OF_7_TIB), b"\0" * 32),
    ),
    "a safetensors array of text": (
        ".safetensors",
        safetensors(declared([8], 8, "BOOL"), b"\1" * 8),
    ),
    "another width": (".npz", lambda p: np.savez(p, arr=SOUND[:5])),
    "a folder": (".npz", lambda p: p.mkdir()),
    "a link to itself": (".npz", lambda p: p.symlink_to(p.name)),
}


def pack_in(root: Path, suffix: str) -> PackedFeatures:
    rows = [(volume, f"image/{volume}{suffix}", 1) for volume in VOLUMES]
    header = ["volumename", "visual_feature_path", "Emphysema"]
    table = write_table(root / "manifests/train.csv", header, rows)
    manifest = read_manifest(table, ColumnsConfig(), None)
    return pack(manifest, "visual", root / "features", root / "cache", progress=False)


def write_sound(path: Path) -> None:
    match path.suffix:
        case ".npz":
            np.savez(path, arr=SOUND)
        case ".npy":
            np.save(path, SOUND)
        case ".pt":
            torch.save(torch.from_numpy(SOUND), path)
        case ".safetensors":
            save_file({"arr": SOUND}, path)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("cache/*/*")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "features/image").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("before", ["nothing", "a pack"])
def test_pack_with_malicious_file_raises_and_leaves_no_trace(tmp_path: Path, before: str) -> None:
    """Before the fix, bzip2 took 30 MB here and 8 GB for a larger file; features in the wrong byte
    order were accepted as 1e38; a failed pack left a partial file and had removed the old pack.
    """
    for name, (suffix, write) in CASES.items():
        root = tmp_path / name
        (root / "features/image").mkdir(parents=True)
        for volume in VOLUMES:
            write_sound(root / f"features/image/{volume}{suffix}")
        if before == "a pack":
            pack_in(root, suffix)
        old = contents(root) or {"lock": b""}
        hostile = root / f"features/image/{HOSTILE}{suffix}"
        hostile.unlink()
        write(hostile)
        tracemalloc.start()
        with pytest.raises(FeatureError) as refused:
            pack_in(root, suffix)
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        message = str(refused.value)
        assert "\n" not in message, name
        assert f"{hostile}: " in message, name
        assert "train.csv:3" in message, name
        assert memory < MOST_MEMORY, (name, memory)
        assert contents(root) == old, name


def test_read_feature_of_big_endian_pt_converts_it(root: Path) -> None:
    path = root / "x.pt"
    torch.save(torch.from_numpy(SOUND), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if name.endswith("/byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = SOUND.astype(">f4").tobytes()
            archive.writestr(name, content)
    np.testing.assert_array_equal(packing.read_feature(path), SOUND)


def test_pack_parses_npy_headers_one_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock, CPython 3.11 rejected valid files when two threads used `ast` at once."""
    for volume in VOLUMES:
        write_sound(root / f"features/image/{volume}.npy")
    parsed, at_once = np.lib.format.read_array_header_1_0, []

    def parse(file: object) -> object:
        at_once.append(file)
        time.sleep(0.05)  # without a lock, another thread of the pool enters here
        assert len(at_once) == 1
        at_once.pop()
        return parsed(file)

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", parse)
    assert pack_in(root, ".npy").matrix.shape == (3, WIDTH)


@pytest.mark.parametrize("what", ["written anew", "written in half", "removed"])
def test_pack_when_file_changes_meanwhile_raises_with_its_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Before the fix, the pack was stored with a row that no file had any more."""
    for volume in VOLUMES:
        write_sound(root / f"features/image/{volume}.npy")
    changing = root / f"features/image/{VOLUMES[0]}.npy"
    read = packing.read_feature

    def read_while_others_write(path: Path, key: str | None) -> np.ndarray:
        vector = read(path, key)
        if path.stem == VOLUMES[2]:  # the first row has been read
            if what == "written anew":
                np.save(changing, 2 * SOUND)
                os.utime(changing, ns=(5, 5))  # as if written by a machine whose clock is slow
            elif what == "written in half":
                os.truncate(changing, 40)
            else:
                changing.unlink()
        return vector

    monkeypatch.setattr(packing, "read_feature", read_while_others_write)
    with pytest.raises(FeatureError, match=rf"{VOLUMES[0]}\.npy:? .*\(.*train\.csv:2\)"):
        pack_in(root, ".npy")
    assert contents(root) == {"lock": b""}

    monkeypatch.undo()
    np.save(changing, 3 * SOUND)
    np.testing.assert_array_equal(pack_in(root, ".npy").matrix[0], 3 * SOUND)


CT_CLIP_CASES: dict[str, Write] = {
    "an object array": lambda p: np.savez(p, data=np.array([{}], dtype=object)),
    "a header of 7 TiB": npz(npy(SOUND, (BYTES_OF_7_TIB // 4, 1)), key="data"),
    "more than it declares": npz(ZEROS, key="data"),
    "bzip2": npz(ZEROS, zipfile.ZIP_BZIP2, "data"),
    "no bytes": lambda p: p.touch(),
    "half": truncated(npz(npy(SOUND), key="data"), 0.5),
    "text": lambda p: p.write_text("scores"),
    "NaN": lambda p: np.savez(p, data=np.full((1, 18), np.nan)),
}


def test_evaluate_with_malicious_ct_clip_scores_fails_in_one_line(root: Path, headsweep) -> None:
    """Before the fix, 7 TiB raised `MemoryError`, and bzip2 was unpacked completely."""
    (root / "accessions.txt").write_text("train_1_a_1\n")
    np.savez(root / "labels_weights.npz", data=np.zeros((1, 18)))
    file = root / "predicted_weights.npz"
    for name, write in CT_CLIP_CASES.items():
        file.unlink(missing_ok=True)
        write(file)
        tracemalloc.start()
        ended = headsweep("evaluate", "--ctclip", root)
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (ended.code, ended.err.count("\n")) == (2, 1), (name, ended.err)
        assert str(file) in ended.err, (name, ended.err)
        assert memory < MOST_MEMORY, (name, memory)
        assert not (root / "evaluation").exists(), name
