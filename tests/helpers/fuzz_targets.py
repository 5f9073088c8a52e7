"""What a fuzzer calls: a feature file or a YAML document is read, or refused by name; all else is
a crash. As a program it is atheris, which watches the branches that an input takes:

    python -m tests.helpers.fuzz_targets features \\
        tests/config/fuzz_corpus/features -max_total_time=60
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from headsweep.cli import exits

FOLDER = Path(tempfile.mkdtemp(prefix="headsweep-fuzz-"))
SUFFIXES = (".npz", ".npy", ".safetensors", ".pt")


def read_as_features(data: bytes) -> None:
    """The first byte chooses the kind of file."""
    from headsweep.data.features import read_feature
    from headsweep.errors import FeatureError

    path = FOLDER / f"x{SUFFIXES[data[0] % len(SUFFIXES)] if data else '.npz'}"
    path.write_bytes(data[1:])
    try:
        vector = read_feature(path)
    except FeatureError as error:
        refused(error, path)
    else:
        assert vector.ndim == 1
        assert vector.dtype == np.float32
        assert np.isfinite(np.square(vector).sum())


def read_as_document(data: bytes) -> None:
    """A study file, then its schema; config files are read the same way."""
    from headsweep.errors import InputError
    from headsweep.search.study_file import load_study_file

    path = FOLDER / "study.yaml"
    path.write_bytes(data)
    try:
        load_study_file(path, ())
    except InputError as error:
        refused(error, path)


def refused(error: Exception, path: Path) -> None:
    """Refused in the one line that a command ends with, which names the file."""
    told = exits.line(error)
    assert str(path) in told, told
    assert told.isprintable(), told


TARGETS: dict[str, Callable[[bytes], None]] = {
    "features": read_as_features,
    "documents": read_as_document,
}


def main() -> None:
    import atheris

    with atheris.instrument_imports(
        include=[
            "headsweep.data.features",
            "headsweep.search.study_file",
            "headsweep.config.yaml_files",
            "yaml",
        ]
    ):
        import headsweep.data.features  # noqa: F401
        import headsweep.search.study_file  # noqa: F401
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
