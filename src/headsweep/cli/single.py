"""Commands for single runs: train, evaluate, align."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli import options
from headsweep.cli.command import Command

config_file = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.yaml",
    help="A whole config, as `headsweep export` writes it; overrides apply on top.",
)
checkpoint = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of a trained head.  [default: paths.checkpoint_dir]",
)


@click.command(cls=Command)
@options.overrides
@config_file
@options.device
def train(overrides: tuple[str, ...], config_file: Path | None, device: str) -> None:
    """Train one head; its files go to paths.checkpoint_dir."""
    from headsweep.cli.report import print_training
    from headsweep.settings import EngineSettings
    from headsweep.train import config_of

    print_training(config_of(config_file, overrides), EngineSettings(device=device, slots=1))


@click.command(cls=Command)
@options.overrides
@checkpoint
@options.device
def evaluate(overrides: tuple[str, ...], checkpoint: Path | None, device: str) -> None:
    """Measure a trained head on data.test_manifests."""
    from headsweep.cli.report import print_evaluation

    print_evaluation(overrides, checkpoint, device)


@click.command(cls=Command)
@options.overrides
@checkpoint
@options.device
def align(overrides: tuple[str, ...], checkpoint: Path | None, device: str) -> None:
    """Retrieve scans across modalities, raw or through a head."""
    from headsweep.cli.report import print_alignment

    print_alignment(overrides, checkpoint, device)
