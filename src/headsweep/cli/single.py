"""Commands for single runs: train, evaluate, align."""

from __future__ import annotations

from pathlib import Path

import click

from headsweep.cli import options
from headsweep.cli.command import Command
from headsweep.cli.paths import GivenPath

MANIFEST = "manifest="

config_file = click.option(
    "--config",
    "config_file",
    type=GivenPath(path_type=Path, dir_okay=False),
    metavar="FILE.yaml",
    help="A whole config, as `headsweep export` writes it; overrides apply on top.",
)
checkpoint = click.option(
    "--checkpoint",
    type=GivenPath(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of a trained head.  [default: paths.checkpoint_dir]",
)


out = click.option(
    "--out",
    type=GivenPath(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the results.  [default: evaluation or alignment in paths.checkpoint_dir]",
)


multirun = click.option(
    "-m",
    "--multirun",
    is_flag=True,
    help="Train every combination of sweeps such as training.seed=0,1,2, each in a folder of "
    "its own below paths.checkpoint_dir.",
)


@click.command(cls=Command)
@options.overrides
@config_file
@options.device
@multirun
def train(
    overrides: tuple[str, ...], config_file: Path | None, device: str, multirun: bool
) -> None:
    """Train one head, or with -m several; files go to paths.checkpoint_dir.

    After an interruption, training.resume.enabled=true continues where training stopped.
    """
    from headsweep.cli.progress import epochs_shown
    from headsweep.config.overrides import config_of
    from headsweep.config.sweeps import multirun_configs
    from headsweep.progress import is_interactive
    from headsweep.settings import EngineSettings
    from headsweep.single_run import train as train_one

    if multirun:
        configs = multirun_configs(config_file, overrides)
    else:
        configs = [config_of(config_file, overrides)]
    for config in configs:
        with epochs_shown(config.training.max_epochs) as on_epoch:
            trained = train_one(
                config,
                EngineSettings(device=device, slots=1),
                progress=is_interactive(),
                on_epoch=on_epoch,
                notice=lambda line: click.echo(f"Notice: {line}", err=True),
            )
        click.echo(
            f"val/{config.training.metric} {trained.best_value!r} in epoch {trained.best_epoch}"
        )
        click.echo(f"files: {config.paths.checkpoint_dir}")


@click.command(cls=Command)
@click.argument("words", nargs=-1, metavar="[DIR] [manifest=FILE.csv] [KEY=VALUE]...")
@checkpoint
@out
@click.option(
    "--thresholds",
    type=click.Choice(["valid", "none"]),
    default="valid",
    show_default=True,
    help="Where the thresholds of F1, sensitivity and specificity are chosen. With none, only "
    "the test manifests are read; they may be any manifests, even train or valid.",
)
@click.option(
    "--ctclip",
    type=GivenPath(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Measure the predicted_weights.npz, labels_weights.npz and accessions.txt in DIR, "
    "which CT-CLIP's inference wrote, instead of a trained head.",
)
def evaluate(
    words: tuple[str, ...],
    checkpoint: Path | None,
    out: Path | None,
    thresholds: str,
    ctclip: Path | None,
) -> None:
    """Measure the trained head of DIR on data.test_manifests.

    With manifest=FILE.csv, score the rows of that file instead; it needs no labels.

    Raises:
        click.UsageError: the options exclude each other.
    """
    from headsweep.cli.tables import print_evaluation
    from headsweep.evaluation.evaluate import MODEL, checkpoint_of, evaluate_ctclip
    from headsweep.evaluation.evaluate import evaluate as evaluate_one
    from headsweep.evaluation.scoring import score
    from headsweep.progress import is_interactive

    if ctclip is not None:
        if words or checkpoint:
            raise click.UsageError("--ctclip takes neither a trained head nor overrides")
        out = out or ctclip / "evaluation"
        print_evaluation(evaluate_ctclip(ctclip, out))
        click.echo(f"files: {out}")
        return
    if words and ("=" not in words[0] or Path(words[0]).is_dir()):
        checkpoint, words = Path(words[0]), words[1:]
    overrides = [word for word in words if not word.startswith(MANIFEST)]
    manifests = [Path(word.removeprefix(MANIFEST)) for word in words if word.startswith(MANIFEST)]
    _refuse_equal_stems(manifests)
    folder, config = checkpoint_of(checkpoint, overrides)
    out = out or folder / "evaluation"
    for manifest in manifests:
        scores = score(folder / MODEL, manifest, config, out, progress=is_interactive())
        click.echo(f"scores: {scores}")
    if not manifests:
        tune = thresholds == "valid"
        metrics = evaluate_one(folder, config, out, tune=tune, progress=is_interactive())
        print_evaluation(metrics)
        click.echo(f"files: {out}")


def _refuse_equal_stems(manifests: list[Path]) -> None:
    by_stem: dict[str, Path] = {}
    for manifest in manifests:
        other = by_stem.setdefault(manifest.stem, manifest)
        if other is not manifest:
            raise click.UsageError(
                f"{other} and {manifest} have the same stem, which would name the files of their "
                "scores; rename one"
            )


ALIGNMENT_PROTOCOLS = (
    "same_scan",
    "same_labels",
    "shared_label",
    "ctclip_report_to_volume",
    "ctclip_volume_to_volume",
)


@click.command(cls=Command)
@options.overrides
@checkpoint
@out
@click.option(
    "--protocol",
    "protocols",
    type=click.Choice(ALIGNMENT_PROTOCOLS),
    multiple=True,
    default=ALIGNMENT_PROTOCOLS,
    metavar="NAME",
    help=f"Which rows are relevant; may be given several times.  [default: all of "
    f"{', '.join(ALIGNMENT_PROTOCOLS)}]",
)
@click.option(
    "--ctclip",
    type=GivenPath(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Search the image_latents.npz, text_latents.npz, labels_weights.npz and accessions.txt "
    "in DIR, which CT-CLIP's scripts wrote, instead of manifests.",
)
def align(
    overrides: tuple[str, ...],
    checkpoint: Path | None,
    out: Path | None,
    protocols: tuple[str, ...],
    ctclip: Path | None,
) -> None:
    """Retrieve scans across and within modalities, raw or through a head.

    Raises:
        click.UsageError: the options exclude each other.
    """
    from headsweep.cli.tables import print_alignment
    from headsweep.config.overrides import config_of
    from headsweep.evaluation.align import align as align_views
    from headsweep.evaluation.align import align_ctclip
    from headsweep.evaluation.evaluate import MODEL, checkpoint_of
    from headsweep.progress import is_interactive

    if ctclip is not None:
        if overrides or checkpoint:
            raise click.UsageError("--ctclip takes neither a trained head nor overrides")
        out = out or ctclip / "alignment"
        print_alignment(align_ctclip(ctclip, out, protocols=protocols))
        click.echo(f"files: {out}")
        return
    if checkpoint is None:
        config, model = config_of(None, overrides), None
    else:
        folder, config = checkpoint_of(checkpoint, overrides)
        model = folder / MODEL
    out = out or (checkpoint or Path(config.paths.checkpoint_dir)) / "alignment"
    results = align_views(config, model, out, protocols=protocols, progress=is_interactive())
    print_alignment(results)
    click.echo(f"files: {out}")
