"""Mutation testing: change the source at one position at a time and count the unnoticed changes.

    nice -n 19 python scripts/mutation.py FOLDER [--sample 220] [--seed 0] [--of claims trial_cache]

A copy of the checkout is made in FOLDER, and the mutants are written there. `mutants.jsonl` is the
record; a stopped run continues from it. A mutant is killed when a test of its module fails or
exceeds its time limit. The fastest tests run first, on SQLite before PostgreSQL; only mutants that
survive them are tried with the others.
The operators are those of Offutt et al. 1996 (ACM TOSEM 5(2)): relations, arithmetic, logical
connectors, constants, and deleted statements. Takes hours.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT, PACKAGE = Path(__file__).parents[1], Path("src", "headsweep")
STATE_MACHINE, CLAIMS = "storage/test_store_machine.py", "storage/test_claims.py"
STORE = (STATE_MACHINE, "workers/test_worker.py", "storage/test_storage_contract.py")
PRUNING, STUDY_FILE = "studies/test_pruning.py", "search/test_study_file.py"
TESTS: dict[str, tuple[str, ...]] = {
    **{
        f"metrics/{name}.py": (f"metrics/test_{name}.py",)
        for name in ("alignment", "calibration", "delong", "multiplicity", "ranking")
    },
    **{f"metrics/{name}.py": (f"metrics/test_{name}.py",) for name in ("resampled_t", "retrieval")},
    "metrics/thresholds.py": ("metrics/test_thresholds.py",),
    "metrics/bootstrap.py": ("metrics/test_bootstrap.py", "metrics/test_coverage.py"),
    "storage/claims.py": (CLAIMS, *STORE, "studies/test_study.py"),
    "storage/bulk_writes.py": (CLAIMS, *STORE, "studies/test_study.py"),
    "storage/trial_cache.py": ("storage/test_trial_cache.py", PRUNING, *STORE),
    "studies/pruning.py": (PRUNING, *STORE[:2], "search/test_samplers_and_pruners.py"),
    "workers/lease.py": ("workers/test_lease.py", STORE[1]),
    "search/spec.py": (STUDY_FILE, "search/test_samplers_and_pruners.py"),
    "config/schema.py": ("config/test_schema.py", STUDY_FILE),
}
"""The modules to break, below `src/headsweep`; the tests of each, below `tests`, quickest first."""
SHARED = (
    *("torch", "optuna", "sqlalchemy.orm", "psycopg", "scipy.stats", "sklearn.metrics"),
    *("omegaconf", "pydantic"),
)
"""Imported once, by the parent of all runs; nothing here imports headsweep."""
LIMIT_S, TEST_LIMIT_S = 400, 100
MEMORY = 24 * 2**30

RELATIONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass(frozen=True)
class Mutant:
    """One change; `node` is the position of the changed node in the walk of its module."""

    module: str
    node: int
    kind: str
    line: int
    before: str
    after: str


def variants(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the mutants of one node: the name of the operator and the replacement."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in RELATIONS:
            yield "relation", _with(node, ops=[RELATIONS[type(op)]()])
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield "arithmetic", _with(node, op=ARITHMETIC[type(op)]())
        case ast.BoolOp(op=op):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "connector", _with(node, op=other)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield "sign", operand
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "constant", ast.Constant(value + 1)
        case ast.If() | ast.IfExp() | ast.While():
            yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.For():
            yield "loop", _with(node, iter=ast.List([], ast.Load()))
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield "result", ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Yield()) | ast.AugAssign() | ast.Raise():
            yield "statement", ast.Pass()
        case ast.Break():
            yield "statement", ast.Continue()
        case ast.Continue():
            yield "statement", ast.Break()


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Return all mutants of a module, except in type annotations and decorators."""
    tree = ast.parse(source)
    skipped = {id(n) for place in ast.walk(tree) for n in _annotations(place)}
    return [
        Mutant(module, i, kind, node.lineno, _shown(node), _shown(instead))
        for i, node in enumerate(ast.walk(tree))
        if id(node) not in skipped
        for kind, instead in variants(node)
    ]


def broken(source: str, mutant: Mutant) -> str:
    """Return the source of the module with the mutant applied."""
    tree = ast.parse(source)
    target = list(ast.walk(tree))[mutant.node]
    new = next(node for kind, node in variants(target) if kind == mutant.kind)

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is target else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Replace().visit(tree)))


def fate(copy: Path, module: str, sound: str, mutant: Mutant | None) -> str:
    """Return the verdict of a module's tests: `killed`, `late` or `survived`."""
    path = copy / PACKAGE / module
    path.write_text(sound if mutant is None else broken(sound, mutant))
    quickest, *others = (f"tests/{name}" for name in TESTS[module])
    try:
        for tests in ([quickest], others):
            for choice in ("not postgres and not coverage", "postgres or coverage"):
                code = _run(copy, tests, choice) if tests else 0
                if code is None:
                    return "late"
                if code not in (0, 5):  # 5: no test was chosen
                    return "killed"
        return "survived"
    finally:
        path.write_text(sound)


def _run(copy: Path, tests: Sequence[str], choice: str) -> int | None:
    """Return the exit code of pytest in a process without headsweep; None on a timeout."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.path[:0] = [str(copy / "src"), str(copy)]
        os.environ |= {"PYTHONPATH": f"{copy / 'src'}:{copy}", "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        log = os.open(copy / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        import pytest

        import headsweep

        assert Path(headsweep.__file__).is_relative_to(copy)
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
        os._exit(pytest.main([*options, f"--timeout={TEST_LIMIT_S}", "-k", choice, *tests]))
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    """Draw the sample, try each mutant, and print the table and the survivors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, default=220)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--of", nargs="+", default=[""], help="parts of the modules' paths")
    parser.add_argument("--again", action="store_true", help="try survivors of the record again")
    options = parser.parse_args()
    copy = _copied(options.folder.resolve() / "checkout")
    for name in SHARED:
        importlib.import_module(name)
    chosen = [module for module in TESTS if any(part in module for part in options.of)]
    sources = {module: (copy / PACKAGE / module).read_text() for module in chosen}
    everything = [m for module, source in sources.items() for m in mutants_of(module, source)]
    sample = random.Random(options.seed).sample(everything, min(options.sample, len(everything)))
    print(f"{len(sample)} of {len(everything)} mutants", flush=True)
    record = options.folder / "mutants.jsonl"
    fates = _recorded(record, again=options.again)
    for module in sorted({mutant.module for mutant in sample}):
        mine = [mutant for mutant in sample if mutant.module == module and mutant not in fates]
        if mine and (sound := fate(copy, module, sources[module], None)) != "survived":
            sys.exit(f"{module}: its tests must pass on sound source, found it {sound}")
        for mutant in sorted(mine, key=lambda mutant: mutant.line):
            begun = time.monotonic()
            fates[mutant] = fate(copy, module, sources[module], mutant)
            with record.open("a") as file:
                file.write(json.dumps(asdict(mutant) | {"fate": fates[mutant]}) + "\n")
            took = time.monotonic() - begun
            print(f"{took:5.1f} s  {fates[mutant]:8}  {_line(mutant)}", flush=True)
    print(_table({mutant: fates[mutant] for mutant in sample if mutant in fates}))


def _table(fates: dict[Mutant, str]) -> str:
    lines = [
        "",
        "| module | mutants | killed | late | survived |",
        "| --- | --: | --: | --: | --: |",
    ]
    rows = {module: Counter[str]() for module in sorted({m.module for m in fates})}
    for mutant, end in fates.items():
        rows[mutant.module][end] += 1
    total = sum(rows.values(), Counter[str]())
    for name, row in [*((f"`{module}`", row) for module, row in rows.items()), ("all", total)]:
        cells = (str(row[end]) for end in ("killed", "late", "survived"))
        lines.append(f"| {name} | {row.total()} | {' | '.join(cells)} |")
    share = 1 - total["survived"] / max(1, total.total())
    survivors = [f"- {_line(m)}" for m, end in fates.items() if end == "survived"]
    return "\n".join([*lines, "", f"{share:.1%} killed. Survivors:", "", *sorted(survivors)])


def _recorded(record: Path, *, again: bool) -> dict[Mutant, str]:
    """Return the verdicts of a previous run for mutants that have not changed."""
    if not record.exists():
        return {}
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    fates = {Mutant(**{k: v for k, v in row.items() if k != "fate"}): row["fate"] for row in rows}
    return {m: end for m, end in fates.items() if not (again and end == "survived")}


def _copied(copy: Path) -> Path:
    """Return a fresh copy of what the tests need."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(copy)
    ignored = shutil.ignore_patterns(".*", "__pycache__", "outputs", "storage", "data")
    for name in ("src", "tests", "scripts", "search_spaces", "docs"):
        keep_all = name in ("src", "tests")
        pattern = shutil.ignore_patterns("__pycache__") if keep_all else ignored
        shutil.copytree(ROOT / name, copy / name, ignore=pattern)
    for name in ("pyproject.toml", "README.md", "ARCHITECTURE.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    data = copy.parent / "shared"  # real data are beside a checkout
    data.unlink(missing_ok=True)
    data.symlink_to(ROOT.parent / "shared")
    return copy


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """Return a copy of a node with some fields replaced."""
    copied = deepcopy(node)
    for name, value in fields.items():
        setattr(copied, name, value)
    return copied


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes below a node's type annotations and decorators."""
    for name in ("annotation", "returns"):
        annotation = getattr(node, name, None)
        if isinstance(annotation, ast.AST):
            yield from ast.walk(annotation)
    for decorator in getattr(node, "decorator_list", ()):
        yield from ast.walk(decorator)


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _shown(node: ast.AST) -> str:
    """Return the first line of a node's source, shortened if it is long."""
    text = ast.unparse(ast.fix_missing_locations(deepcopy(node))).splitlines()[0]
    return text if len(text) <= 72 else f"{text[:70]}…"


def _line(mutant: Mutant) -> str:
    return f"`{mutant.module}:{mutant.line}` {mutant.kind}: `{mutant.before}` → `{mutant.after}`"


if __name__ == "__main__":
    main()
