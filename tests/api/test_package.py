"""The package's public names: loaded when they are used, and not before."""

import subprocess
import sys

import pytest

import headsweep


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return ended.stdout


def test_import_loads_no_heavy_library() -> None:
    heavy = ("torch", "optuna", "sqlalchemy", "pandas", "numpy", "hydra", "matplotlib", "pydantic")
    program = f"import sys, headsweep; print([m for m in {heavy} if m in sys.modules])"
    assert run(program) == "[]\n"


def test_import_of_the_study_handle_loads_no_library_of_data_or_training() -> None:
    heavy = ("torch", "pandas", "pyarrow", "scipy.special", "sklearn", "matplotlib")
    program = f"import sys, headsweep.api; print([m for m in {heavy} if m in sys.modules])"
    assert run(program) == "[]\n"


def test_import_with_version_and_names_takes_less_than_a_tenth_of_a_second() -> None:
    program = (
        "import time; begun = time.process_time()\n"
        "import headsweep as hs; hs.__version__, hs.__all__\n"
        "print(time.process_time() - begun)"
    )
    assert min(float(run(program)) for _ in range(3)) < 0.1


@pytest.mark.parametrize("name", headsweep.__all__)
def test_every_public_name_can_be_loaded(name: str) -> None:
    assert getattr(headsweep, name) is not None
    assert name in dir(headsweep)


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'headsweep' has no attribute 'Studdy'"):
        _ = headsweep.Studdy
