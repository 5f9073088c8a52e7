import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from headsweep.data.features import MAX_BYTES, read_feature
from headsweep.errors import FeatureError

VECTOR = np.array([0.5, -1.25, 3.0], np.float32)


def save(path, array, key="arr"):
    match path.suffix:
        case ".npz":
            np.savez(path, **{key: array})
        case ".npy":
            np.save(path, array)
        case ".pt":
            torch.save(torch.from_numpy(np.array(array)), path)
        case ".safetensors":
            save_file({key: array}, path)
    return path


def npy_header(shape, descr="<f4"):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


SUFFIXES = (".npz", ".npy", ".pt", ".safetensors")
DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int32, np.int64])


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_read_feature_of_every_format_returns_float32_vector(tmp_path_factory, suffix, data):
    shape = data.draw(st.integers(1, 40).flatmap(lambda d: st.sampled_from([(d,), (1, d)])))
    dtype = data.draw(DTYPES)
    bounds = {"min_value": -100, "max_value": 100}
    elements = arrays.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False, **bounds)
    array = data.draw(arrays.arrays(dtype, shape, elements=elements))
    read = read_feature(save(tmp_path_factory.mktemp("f") / f"x{suffix}", array))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array.reshape(-1).astype(np.float32))


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_read_feature_of_big_endian_values_converts_them(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", VECTOR.astype(">f8"))
    np.testing.assert_array_equal(read_feature(path), VECTOR)


def test_read_feature_of_bfloat16_in_torch_formats_returns_vector(tmp_path):
    tensor = torch.tensor(VECTOR).bfloat16()
    torch.save(tensor, tmp_path / "x.pt")
    save_torch_file({"arr": tensor}, tmp_path / "x.safetensors")
    for name in ("x.pt", "x.safetensors"):
        np.testing.assert_array_equal(read_feature(tmp_path / name), VECTOR)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("key", ["arr", "embeddings", "anything"])
def test_read_feature_of_one_array_accepts_any_key(tmp_path, suffix, key):
    np.testing.assert_array_equal(read_feature(save(tmp_path / f"x{suffix}", VECTOR, key)), VECTOR)


def test_read_feature_with_arr_ignores_other_keys(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, other=np.array([object()]), arr=VECTOR)
    np.testing.assert_array_equal(read_feature(path), VECTOR)


def test_read_feature_of_compressed_npz_returns_vector(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", arr=VECTOR)
    np.testing.assert_array_equal(read_feature(tmp_path / "x.npz"), VECTOR)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1, np.nan], np.float32), "finite, found nan at index 1"),
        (np.array([np.inf, 1], np.float16), "finite, found inf at index 0"),
        (np.array([1e300, 1]), "finite, found inf at index 0"),
        (np.zeros((2, 3), np.float32), r"shape \(d,\) or \(1, d\), found .2, 3"),
        (np.zeros((1, 2, 3), np.float32), r"shape \(d,\) or \(1, d\)"),
        (np.array(1.0, np.float32), r"shape \(d,\) or \(1, d\)"),
        (np.zeros((1, 0), np.float32), r"shape \(d,\) or \(1, d\)"),
        (np.array([True, False]), "floats or integers"),
    ],
)
def test_read_feature_without_finite_vector_raises(tmp_path, suffix, array, message):
    with pytest.raises(FeatureError, match=rf"x{suffix}: .*{message}"):
        read_feature(save(tmp_path / f"x{suffix}", array))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_read_feature_of_truncated_file_raises_with_its_name(tmp_path, suffix, kept):
    path = save(tmp_path / f"x{suffix}", VECTOR)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(FeatureError, match=f"x{suffix}: (the feature file is|the array must)"):
        read_feature(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_read_feature_of_damaged_file_raises_or_returns_finite_vector(
    tmp_path_factory, suffix, data
):
    path = save(tmp_path_factory.mktemp("f") / f"x{suffix}", VECTOR)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        vector = read_feature(path)
    except FeatureError:
        return
    assert vector.ndim == 1
    assert np.isfinite(vector).all()


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt"])
def test_read_feature_of_pickled_objects_raises_without_unpickling(tmp_path, suffix):
    path, mark = tmp_path / f"x{suffix}", tmp_path / "mark"
    trapped = np.array([Trap(mark)], dtype=object)
    match suffix:
        case ".npz":
            np.savez(path, arr=trapped)
        case ".npy":
            np.save(path, trapped)
        case ".pt":
            torch.save(Trap(mark), path)
    with pytest.raises(FeatureError, match=r"must be floats or integers|only pickle can load"):
        read_feature(path)
    assert not mark.exists()


def test_read_feature_with_declared_size_over_limit_raises_before_data(tmp_path):
    header = npy_header((1, 2**40))
    (tmp_path / "x.npy").write_bytes(header + b"\0" * 16)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr.npy", header + b"\0" * 16)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(FeatureError, match=f"at most {MAX_BYTES} bytes, found {2**42}"):
            read_feature(tmp_path / name)


def test_read_feature_of_file_over_limit_raises(tmp_path):
    for suffix in SUFFIXES:
        path = tmp_path / f"x{suffix}"
        with path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)  # sparse
        with pytest.raises(FeatureError, match=f"at most {MAX_BYTES} bytes, found {MAX_BYTES + 1}"):
            read_feature(path)


def test_read_feature_of_zip_member_longer_than_array_raises(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr.npy", npy_header((1, 3)) + b"\0" * (200 * 2**20))
    assert (tmp_path / "x.npz").stat().st_size < 2**20
    with pytest.raises(FeatureError, match="must have the declared 12 bytes, found more"):
        read_feature(tmp_path / "x.npz")


def test_read_feature_of_huge_tensor_over_small_storage_raises(tmp_path):
    torch.save(torch.zeros(1).expand(2**40), tmp_path / "x.pt")
    with pytest.raises(FeatureError, match="at most"):
        read_feature(tmp_path / "x.pt")


def test_read_feature_of_deflated_pt_over_limit_raises(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", b"\0" * (MAX_BYTES + 1))
    with pytest.raises(FeatureError, match="at most"):
        read_feature(tmp_path / "x.pt")


def test_read_feature_with_wrong_checksum_raises(tmp_path):
    path = save(tmp_path / "x.npz", VECTOR)
    path.write_bytes(path.read_bytes().replace(VECTOR.tobytes(), VECTOR[::-1].tobytes()))
    with pytest.raises(FeatureError, match="CRC"):
        read_feature(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda p: np.savez(p / "x.npz", a=VECTOR, b=VECTOR),
            "2 arrays: 'a', 'b'; data.feature_key",
        ),
        (lambda p: save_file({"a": VECTOR, "b": VECTOR}, p / "x.safetensors"), "2 arrays"),
        (lambda p: torch.save({"arr": "text"}, p / "x.pt"), "no vector of numbers among 'arr'"),
        (lambda p: (p / "x.csv").write_text("1,2"), r"must end in .*, found '\.csv'"),
        (lambda p: (p / "x.npy").mkdir(), "is damaged: .*directory"),
        (lambda p: None, "feature file not found"),
    ],
)
def test_read_feature_of_unusable_file_raises(tmp_path, write, message):
    write(tmp_path)
    path = next(iter(tmp_path.iterdir()), tmp_path / "absent.npz")
    with pytest.raises(FeatureError, match=message):
        read_feature(path)


def test_read_feature_of_npy_with_code_in_header_raises(tmp_path):
    stream = io.BytesIO(npy_header("__import__('os').abort()"))
    (tmp_path / "x.npy").write_bytes(stream.getvalue())
    with pytest.raises(FeatureError, match="is damaged: malformed"):
        read_feature(tmp_path / "x.npy")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".pth"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 1), (1, 3, 1, 1), (1, 1)])
def test_read_feature_with_singleton_axes_returns_vector(tmp_path, suffix, shape):
    array = VECTOR[: int(np.prod(shape))].reshape(shape)
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save(torch.from_numpy(array), path)
    else:
        save(path, array)
    np.testing.assert_array_equal(read_feature(path), array.reshape(-1))


TENSOR = torch.from_numpy(VECTOR)
OTHER = torch.arange(7.0)
HOLDERS = {
    "alone": TENSOR,
    "a list of one": [TENSOR],
    "a tuple of one": (TENSOR[None],),
    "a list of a dict": [{"arr": TENSOR}],
    "a dict with one": {"features": TENSOR},
    "a dict with one that is usable": {
        "features": TENSOR,
        "name": "train_1",
        "mask": torch.ones(3, dtype=torch.bool),
        "tokens": torch.zeros(2, 3),
        "n": 3,
    },
    "a preferred key": {"embeddings": TENSOR, "other": OTHER},
    "a view of a larger tensor": torch.cat([TENSOR, OTHER])[:3],
    "one tensor under two names": {"arr": TENSOR, "again": TENSOR},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("held", HOLDERS.values(), ids=HOLDERS)
def test_read_feature_of_torch_file_returns_its_only_vector(tmp_path, held, legacy):
    path = tmp_path / "x.pt"
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    np.testing.assert_array_equal(read_feature(path), VECTOR)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([TENSOR, OTHER], "holds a list of 2; it must hold one tensor"),
        ([], "holds a list of 0"),
        ({}, "no vector of numbers among no entries"),
        ({"a": TENSOR, "b": OTHER}, "2 arrays: 'a', 'b'; data.feature_key names the one to read"),
        ({"a": torch.zeros(2, 2)}, "no vector of numbers among 'a'"),
        ("text", "must hold one dense tensor, found str"),
    ],
)
def test_read_feature_of_torch_file_without_unique_vector_raises(tmp_path, held, message, legacy):
    path = tmp_path / "x.pt"
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FeatureError, match=message):
        read_feature(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_read_feature_with_key_returns_that_array(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    arrays_held = {"a": VECTOR, "arr": VECTOR + 1}
    match suffix:
        case ".npz":
            np.savez(path, **arrays_held)
        case ".safetensors":
            save_file(arrays_held, path)
        case ".pt":
            torch.save({k: torch.from_numpy(v) for k, v in arrays_held.items()}, path)
    np.testing.assert_array_equal(read_feature(path, "a"), VECTOR)
    np.testing.assert_array_equal(read_feature(path), VECTOR + 1)
    with pytest.raises(FeatureError, match=r"no array 'b' \(data\.feature_key\) among 'a', 'arr'"):
        read_feature(path, "b")


def legacy_with(path, before, after):
    """Write a legacy torch file in which bytes of the tensor's description are replaced."""
    torch.save(TENSOR, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(before) >= 1
    path.write_bytes(content.replace(before, after))


@pytest.mark.parametrize("declared", [b"J\x00\x00\x00\x7f", b"\x8a\x06" + b"\x7f" * 6])
def test_read_feature_of_legacy_file_with_huge_storage_raises_before_allocating(tmp_path, declared):
    path = tmp_path / "x.pt"
    legacy_with(path, b"K\x03", declared)
    tracemalloc.start()
    with pytest.raises(FeatureError, match="declare other sizes than the file stores"):
        read_feature(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_read_feature_of_legacy_file_with_trailing_bytes_raises(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(TENSOR, path, _use_new_zipfile_serialization=False)
    with path.open("ab") as file:
        file.write(b"PK\5\6" + b"\0" * 18)
    with pytest.raises(FeatureError, match="is damaged: bytes follow the tensors"):
        read_feature(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_read_feature_of_damaged_legacy_file_raises_or_returns_finite_vector(
    tmp_path_factory, data
):
    path = tmp_path_factory.mktemp("f") / "x.pt"
    torch.save({"arr": TENSOR}, path, _use_new_zipfile_serialization=False)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        vector = read_feature(path)
    except FeatureError:
        return
    assert vector.ndim == 1
    assert np.isfinite(vector).all()


def test_read_feature_of_pickled_legacy_file_raises_without_unpickling(tmp_path):
    path, mark = tmp_path / "x.pt", tmp_path / "mark"
    torch.save(Trap(mark), path, _use_new_zipfile_serialization=False)
    with pytest.raises(FeatureError, match="only pickle can load"):
        read_feature(path)
    assert not mark.exists()
