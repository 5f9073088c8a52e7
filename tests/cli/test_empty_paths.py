"""An empty file or folder name is refused, since it would mean the current folder."""

import click
import pytest

from headsweep.cli.paths import GivenPath
from headsweep.cli.root import root


def parameters(command, words=()):
    """Yield every path parameter of every command, with the words of the command."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from parameters(child, (*words, name))
    else:
        for parameter in command.params:
            if isinstance(parameter.type, click.Path):
                yield words, parameter


PATHS = [
    pytest.param(words, parameter, id=f"{' '.join(words)} {parameter.name}")
    for words, parameter in parameters(root)
]


@pytest.mark.parametrize(("words", "parameter"), PATHS)
def test_command_with_empty_path_is_refused(words, parameter, headsweep):
    option = [max(parameter.opts, key=len)] if isinstance(parameter, click.Option) else []
    ended = headsweep(*words, *option, "")
    assert (ended.code, ended.out) == (2, "")
    assert "must not be empty" in ended.err


def test_path_parameters_are_all_of_type_given_path():
    assert PATHS
    assert all(isinstance(param.values[1].type, GivenPath) for param in PATHS)


@pytest.mark.parametrize("name", ["checkpoint_dir", "output_dir", "data_root", "manifest_dir"])
def test_train_with_empty_folder_is_refused(headsweep, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    ended = headsweep("train", f"paths.{name}=")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"paths.{name}: a folder's name must not be empty" in ended.err
    assert list(tmp_path.iterdir()) == []
