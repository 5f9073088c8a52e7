"""Commands on data: synth, prepare, pack, check."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli import exits, options
from headsweep.cli.command import Group
from headsweep.cli.paths import GivenPath
from headsweep.cli.prepare import prepare
from headsweep.cli.subsets import folds, subsets

patients = click.IntRange(min=1, max=1_000_000)


@click.group(cls=Group)
def data() -> None:
    """Make, build, pack and inspect data."""


@data.command()
@click.argument("folder", metavar="DIR", type=GivenPath(path_type=Path, file_okay=False))
@click.option("--patients-train", type=patients, default=2000, metavar="N", show_default=True)
@click.option("--patients-valid", type=patients, default=500, metavar="N", show_default=True)
@click.option("--patients-test", type=patients, default=500, metavar="N", show_default=True)
@click.option(
    "--width",
    type=click.IntRange(min=1, max=100_000),
    default=512,
    metavar="D",
    show_default=True,
    help="Width of the features.",
)
@click.option("--seed", type=options.seed, default=42, metavar="N", show_default=True)
def synth(
    folder: Path,
    patients_train: int,
    patients_valid: int,
    patients_test: int,
    width: int,
    seed: int,
) -> None:
    """Write a synthetic data set with CT-RATE's names and labels.

    A patient has about 2.3 rows. DIR gets manifests/ and features/.
    """
    from headsweep.data.synthetic.generate import synthesize
    from headsweep.progress import is_interactive

    rows = synthesize(
        folder,
        patients_train=patients_train,
        patients_valid=patients_valid,
        patients_test=patients_test,
        width=width,
        seed=seed,
        progress=is_interactive(),
    )
    for name, count in rows.items():
        click.echo(f"{folder / 'manifests' / name}.csv: {count} rows")


for command in (prepare, subsets, folds):
    data.add_command(command)


@data.command()
@options.overrides
def pack(overrides: tuple[str, ...]) -> None:
    """Pack the features of all manifests, so that later commands start faster."""
    from headsweep.config.overrides import compose_config
    from headsweep.data.manifest import read_manifest
    from headsweep.data.packing import pack_for
    from headsweep.preflight import check_manifests
    from headsweep.progress import is_interactive
    from headsweep.settings import cache_dir

    config = compose_config(overrides, where="command line")
    check_manifests(config)
    named = (config.data.train_manifest, config.data.val_manifest, *config.data.test_manifests)
    for name in filter(None, named):
        path = Path(config.paths.manifest_dir) / name
        labels = config.training.target_labels
        if name in (config.data.label_maps or {}):
            labels = ()  # features are packed alike, whatever the labels are
        columns, blank_labels = config.data.manifest_columns, config.data.blank_labels
        manifest = read_manifest(path, columns, labels, blank_labels)
        for one in manifest.feature_paths:
            packed = pack_for(config, manifest, one, cache_dir(), progress=is_interactive())
            rows, width = packed.matrix.shape
            click.echo(f"{path}: {one}, {rows} rows of {width} ({packed.fingerprint[:12]})")


@data.command()
@options.overrides
def check(overrides: tuple[str, ...]) -> None:
    """Report every fault of manifests and features by file and row.

    Raises:
        click.exceptions.Exit: there are errors.
    """
    from headsweep.config.overrides import compose_config
    from headsweep.data.validation import check as faults_of
    from headsweep.progress import is_interactive

    config = compose_config(overrides, where="command line")
    faults = faults_of(config, progress=is_interactive())
    for fault in faults:
        click.echo(f"{fault.severity}: {fault}")
    errors = sum(fault.severity == "error" for fault in faults)
    click.echo(f"{errors} errors, {len(faults) - errors} warnings")
    if errors:
        raise click.exceptions.Exit(exits.BAD_INPUT)
