"""The command `scaling`: train all heads of a scaling study, draw curves, test differences."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli import options
from headsweep.cli.command import Command
from headsweep.cli.paths import GivenPath


@click.command(cls=Command)
@options.study_file
@options.overrides
@options.device
@click.option(
    "--out",
    type=GivenPath(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the results.  [default: outputs/<name>]",
)
def scaling(study_file: Path, overrides: tuple[str, ...], device: str, out: Path | None) -> None:
    """Train over label sources, budgets, folds and seeds; draw curves, test differences."""
    from headsweep.cli.tables import print_table
    from headsweep.label_efficiency import read_scaling_study, run_scaling
    from headsweep.progress import is_interactive
    from headsweep.settings import EngineSettings

    study, config = read_scaling_study(study_file, overrides)
    out = out or Path(config.paths.output_dir) / study.name
    summary = run_scaling(
        study,
        config,
        out,
        EngineSettings(device=device, slots=1),
        progress=is_interactive(),
        on_cell=lambda cell: click.echo(
            f"{cell.source}, budget {cell.budget} ({cell.rows} rows), fold {cell.fold}, "
            f"seed {cell.seed}: AUPRC {cell.auprc_macro:.4f}",
            err=True,
        ),
    )
    rows = [
        [source, str(point["budget"]), *(_shown(point[k]) for k in ("mean", "ci_low", "ci_high"))]
        for source, points in summary["curves"]["auprc_macro"].items()
        for point in points
    ]
    print_table(["source", "budget", "AUPRC", "95% from", "to"], rows)
    click.echo(f"files: {out}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
