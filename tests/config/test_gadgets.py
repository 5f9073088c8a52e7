"""Study and config files are plain data: no name in them is looked up, imported, or called.

A gadget is a value that runs code when something instantiates it. Each gadget below would create a
file, the canary; the tests put gadgets into every input and check that no canary appears. It was
checked by hand that they fail when the YAML loader is `yaml.UnsafeLoader` without the check of
tags, when values of an override or a config file are passed to `hydra.utils.instantiate`, and when
`compose` lets Hydra search for any group choice.
"""

from __future__ import annotations

import itertools
import json
import os
import pkgutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from headsweep.config.yaml_files import read_document
from headsweep.errors import ConfigError, StudyError
from headsweep.search.spec import spec_from_json

pytestmark = pytest.mark.hardening

TOUCH = "touch {canary}"
OPEN = "open({canary!r}, 'w').close()"
LIVE: dict[str, tuple[Any, ...]] = {
    "os.system": (TOUCH,),
    "os.popen": (TOUCH,),
    "os.mkdir": ("{canary}",),
    "os.mkfifo": ("{canary}",),
    "os.spawnlp": (os.P_WAIT, "touch", "touch", "{canary}"),
    "posix.system": (TOUCH,),
    "logging.os.system": (TOUCH,),
    "pathlib.os.system": (TOUCH,),
    "shutil.os.system": (TOUCH,),
    "subprocess.run": (["touch", "{canary}"],),
    "subprocess.call": (["touch", "{canary}"],),
    "subprocess.check_call": (["touch", "{canary}"],),
    "subprocess.check_output": (["touch", "{canary}"],),
    "subprocess.getoutput": (TOUCH,),
    "subprocess.getstatusoutput": (TOUCH,),
    "webbrowser.subprocess.getoutput": (TOUCH,),
    "uuid.os.system": (TOUCH,),
    "builtins.open": ("{canary}", "w"),
    "builtins.exec": (OPEN,),
    "builtins.eval": (OPEN,),
    "io.open": ("{canary}", "w"),
    "codecs.open": ("{canary}", "w"),
    "shutil.copyfile": ("/etc/hostname", "{canary}"),
    "os.symlink": ("/", "{canary}"),
    "cProfile.run": (OPEN,),
    "runpy.run_path": ("{script}",),
    "runpy.run_module": ("canary_module",),
    "importlib.import_module": ("canary_module",),
    "importlib.__import__": ("canary_module",),
    "canary_module.run": (),
    "sqlite3.connect": ("{canary}",),
    "numpy.save": ("{canary}", [1]),
    "numpy.savetxt": ("{canary}", [1]),
    "torch.save": ([1], "{canary}"),
    "yaml.unsafe_load": ("!!python/object/apply:os.system ['touch {canary}']",),
    "logging.FileHandler": ("{canary}",),
    "zipfile.ZipFile": ("{canary}", "w"),
}
"""Import path of each gadget, with arguments that create the canary when it is called."""

KNOWN = (
    "timeit.timeit",
    "distutils.spawn.spawn", "pathlib.Path.write_text", "pandas.eval", "torch.load", "pickle.load",
    "torch.utils.cpp_extension.load_inline", "torch.utils.cpp_extension.load", "torch.hub.load",
    "numpy.f2py.compile", "marshal.loads", "shelve.open", "dill.loads", "joblib.load",
    "ctypes.CDLL",
    "asyncio.create_subprocess_shell", "webbrowser.open", "code.interact", "os.execvp", "pty.spawn",
    "multiprocessing.Process", "hydra.utils.instantiate", "hydra._internal.utils._locate",
    "omegaconf.OmegaConf.register_new_resolver", "optuna.load_study", "builtins.getattr",
)  # fmt: skip
"""Further gadgets, which cannot be called in this process or on every machine."""


def arguments(path: str, folder: Path) -> list[Any]:
    """Return plain arguments of a gadget, for a canary in `folder`."""
    places = {"canary": str(folder / "canary"), "script": str(folder / "canary_module.py")}

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return value.format(**places) if isinstance(value, str) else value

    return [filled(value) for value in LIVE.get(path, (TOUCH,))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with an importable module that creates the canary when it is imported."""
    script = f"open({str(tmp_path / 'canary')!r}, 'w').close()\ndef run(): pass\n"
    (tmp_path / "canary_module.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("canary_module", None)


def test_gadgets_when_called_create_canary(folder: Path) -> None:
    for path in LIVE:
        sys.modules.pop("canary_module", None)
        made = pkgutil.resolve_name(path)(*arguments(path, folder))
        for ending in ("wait", "close"):
            getattr(made, ending, lambda: None)()
        canary = folder / "canary"
        found = [file for file in folder.iterdir() if file.name.startswith("canary") and
                 file.name != "canary_module.py"]  # fmt: skip
        assert found, path
        for file in found:
            file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        assert not os.path.lexists(canary)


STUDY: dict[str, Any] = {
    "study": {"name": "probe", "n_trials": 2},
    "base": ["head=linear"],
    "space": {"training.learning_rate": {"type": "float", "low": 0.01, "high": 0.1}},
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
}


def mappings(path: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a gadget in the forms that Hydra and similar libraries instantiate."""
    given = arguments(path, folder)
    yield {"_target_": path, "_args_": given}
    yield {"_target_": "functools.partial", "_args_": [{"_target_": path, "_args_": given}]}
    yield {"_partial_": False, "_target_": path, "_convert_": "all", "_args_": given}


def tagged(path: str, folder: Path) -> Iterator[str]:
    """Yield a gadget as the tags that PyYAML's unsafe loaders execute."""
    given = json.dumps(arguments(path, folder))
    yield f"!!python/object/apply:{path} {given}"
    yield f"!!python/object/new:{path} {given}"
    yield f"!!python/name:{path} ''"
    yield f"!!python/module:{path.rpartition('.')[0]} ''"


def study_files(path: str, folder: Path) -> Iterator[str]:
    """Yield study files with a gadget in place of every value and name."""
    for mapping, section in itertools.product(mappings(path, folder), STUDY):
        yield yaml.safe_dump({**STUDY, section: mapping})
    mapping = next(mappings(path, folder))
    yield yaml.safe_dump({**STUDY, "space": {"training.learning_rate": mapping}})
    yield yaml.safe_dump({**STUDY, "sampler": {"name": "tpe", "gamma": mapping}})
    yield yaml.safe_dump({**STUDY, "hydra": {"callbacks": {"x": mapping}}})
    yield yaml.safe_dump({**STUDY, "defaults": [{"override hydra/launcher": path}]})
    yield yaml.safe_dump({**STUDY, "study": {**STUDY["study"], "name": f"${{oc.env:{path}}}"}})
    for text in overrides(path, folder):
        yield yaml.safe_dump({**STUDY, "base": [text]})
    for section in ("sampler", "pruner"):
        yield yaml.safe_dump({**STUDY, section: {"name": path}})
    for tag in tagged(path, folder):
        yield yaml.safe_dump(STUDY) + f"finalists: {tag}\n"
        yield tag


def overrides(path: str, folder: Path) -> Iterator[str]:
    """Yield overrides in Hydra's grammar that contain a gadget or make Hydra search for one."""
    command = str(arguments(path, folder)[0] if arguments(path, folder) else "x")
    quoted = command.replace("\\", "\\\\").replace("'", "\\'")
    mapping = f"{{_target_: {path}, _args_: ['{quoted}']}}"
    for key in ("head", "training.loss", "+x", "++head", "hydra.callbacks.x", "paths.output_dir"):
        yield f"{key}={mapping}"
    for key in (
        "head.kind",
        "head",
        "hydra/launcher",
        "hydra.sweeper._target_",
        "logging.logger_name",
    ):
        yield f"{key}={path}"
    yield f"hydra.searchpath=[pkg://{path.partition('.')[0]}]"
    yield f"training.loss=${{oc.env:{path}}}"
    yield f"training.loss=$\\{{oc.create:{path}\\}}"


def configs(path: str, folder: Path) -> Iterator[str]:
    """Yield exported configs that contain a gadget."""
    for mapping in mappings(path, folder):
        yield yaml.safe_dump({"head": mapping})
        yield yaml.safe_dump({"training": {"loss": mapping}})
        yield yaml.safe_dump({"hydra": {"callbacks": {"x": mapping}}})
        yield yaml.safe_dump(mapping)
    yield yaml.safe_dump({"head": {"kind": path}})
    yield yaml.safe_dump({"training": {"loss": f"${{oc.env:{path}}}"}})
    yield yaml.safe_dump({"defaults": [{"/head": f"../../{path}"}]})
    for tag in tagged(path, folder):
        yield f"head: {tag}\n"


def definitions(path: str, folder: Path, stored: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield stored definitions of a study, as another user of the database could write them."""
    mapping = next(mappings(path, folder))
    for section in ("config", "space", "sampler", "pruner", "finalists"):
        yield {**stored, section: mapping}
    yield {**stored, "config": {**stored["config"], "head": mapping}}
    yield {**stored, "config": {**stored["config"], "head": {"kind": path}}}
    yield {**stored, "space": {"training.learning_rate": {"type": path}}}
    yield {**stored, "name": f"../{path}"}


ROWS = "study_user_attributes WHERE key = 'headsweep:definition'"
UPDATE = f"UPDATE {ROWS.replace(' WHERE', ' SET value_json = ? WHERE')}"


def refused(ended: Any, folder: Path, what: object) -> None:
    assert ended.code == 2, (what, ended)
    assert ended.err.count("\n") == 1, (what, ended.err)
    assert not os.path.lexists(folder / "canary"), what
    assert "canary_module" not in sys.modules, what


def some(cases: Iterator[Any], turn: int) -> Iterator[Any]:
    """Return every eighth case, so that each gadget and each form is tried, but not all pairs."""
    return itertools.islice(cases, turn % 8, None, 8)


def test_create_with_gadget_in_study_file_does_not_run_it(folder: Path, headsweep) -> None:
    file = folder / "study.yaml"
    for turn, path in enumerate((*LIVE, *KNOWN)):
        for text in some(study_files(path, folder), turn):
            file.write_text(text)
            refused(headsweep("create", file, "--storage", "sqlite:///new.db"), folder, text)
    assert not (folder / "new.db").exists()


def test_commands_with_gadget_in_override_do_not_run_it(folder: Path, headsweep) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    study = ("create", "study.yaml", "--storage", "sqlite:///new.db")
    commands = itertools.cycle([("train",), study, ("align",), ("train", "-m"), ("data", "check")])
    for turn, path in enumerate((*LIVE, *KNOWN)):
        for text in some(overrides(path, folder), turn):
            refused(headsweep(*next(commands), "head.dim=1", text), folder, text)


def test_train_with_gadget_in_exported_config_does_not_run_it(folder: Path, headsweep) -> None:
    file = folder / "config.yaml"
    for turn, path in enumerate((*LIVE, *KNOWN)):
        for text in some(configs(path, folder), turn):
            file.write_text(text)
            refused(headsweep("train", "--config", file), folder, text)


def test_commands_with_gadget_in_stored_study_do_not_run_it(folder: Path, headsweep) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    url = "sqlite:///study.db"
    assert headsweep("create", "study.yaml", "--storage", url).code == 0
    with closing(sqlite3.connect("study.db")) as database:
        (row,) = database.execute(f"SELECT value_json FROM {ROWS}").fetchone()
    stored = json.loads(json.loads(row))
    assert spec_from_json(json.dumps(stored)).name == "probe"
    for turn, path in enumerate((*LIVE, *KNOWN)):
        for plain in some(definitions(path, folder, stored), turn):
            with pytest.raises(StudyError, match="the stored study definition cannot be read"):
                spec_from_json(json.dumps(plain))
    commands = [("status",), ("export", "-o", "x.yaml"), ("worker",), ("finalize",)]
    plains = list(definitions("canary_module.run", folder, stored))
    for command, plain in zip(itertools.cycle(commands), plains, strict=False):
        with closing(sqlite3.connect("study.db")) as database:
            database.execute(UPDATE, (json.dumps(json.dumps(plain)),))
            database.commit()
        refused(headsweep(*command, "probe", "--storage", url), folder, plain)
    assert not (folder / "x.yaml").exists()


def test_train_with_path_as_group_choice_is_refused(folder: Path, headsweep) -> None:
    """Before the fix, `head=../../..` made Hydra read and compose any YAML file of the machine."""
    (folder / "mlp.yaml").write_text("kind: mlp\nwidth: 7\n")
    shipped = Path(__file__).parents[2] / "src" / "headsweep" / "config" / "groups" / "head"
    for choice in (
        os.path.relpath(folder / "mlp", shipped),
        folder / "mlp",
        "../head/mlp",
        "./mlp",
    ):
        ended = headsweep("train", f"head={choice}", "paths.manifest_dir=absent")
        refused(ended, folder, choice)
        assert "head must be one of linear, mlp, retrieval" in ended.err


def test_reading_gadget_does_not_import_its_module(folder: Path) -> None:
    """Runs in a new process, since these modules are already imported in this one."""
    file = folder / "study.yaml"
    file.write_text("a: !!python/name:canary_module.run ''")
    with pytest.raises(ConfigError, match="found the tag"):
        read_document(file)
    names = ["antigravity", "pty", "webbrowser", "canary_module", "distutils", "torch"]
    code = (
        "import sys\nfrom headsweep.config.overrides import compose_config\n"
        "from headsweep.errors import ConfigError\n"
        f"for name in {names}:\n"
        "    for text in (f'head.kind={name}.run', 'head={_target_: ' + name + '}'):\n"
        "        try:\n            compose_config([text], where='x')\n"
        "        except ConfigError:\n            continue\n"
        "        raise SystemExit(text)\n"
        f"print(*sorted({{*{names}}} & {{*sys.modules}}))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "\n"
    assert not (folder / "canary").exists()
