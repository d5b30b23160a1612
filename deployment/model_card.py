"""The README.md of an exported folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from schemas.run_layout import weights_dir
from schemas.sample import RELIABILITY_MEASURES
from schemas.weights import WEIGHTS_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deployment.manifest import ExportManifest
    from schemas.config import RunConfig
    from schemas.sample import Task
    from schemas.weights import WeightsManifest

ENCODINGS: dict[Task, str] = {
    "normals": "float32 [H, W, 3], unit vectors, camera frame: x right, y up, z toward the camera",
    "depth": "float32 [H, W], metres",
    "semseg": "uint8 [H, W], class ids",
    "human_parts": "uint8 [H, W], ids of body parts, 0 = background",
    "saliency": "float32 [H, W], probability",
    "boundaries": "float32 [H, W], probability",
}

_ROWS = {
    "warm_up": "after warm-up on the real pairs",
    "real_only_control": "real-only control",
    "self_improved": "self-improved",
}


def make_model_card(
    manifest: ExportManifest,
    config: RunConfig,
    results: Mapping[str, Any] | None,
    weights: WeightsManifest,
) -> str:
    """Write what the folder is, how good it is and how it is loaded, as Markdown.

    Args:
        results: Content of results.json, if the run has ended.
    """
    height, width = manifest.image_size
    parts = [
        f"# {config.run_id}: {', '.join(manifest.tasks)} from one image",
        "Creation weights of a self-improving run (Diff-2-in-1): a decoder "
        f"(`{config.method.name}`, {weights.size_bytes / 1e6:.1f} MB) on the features of a frozen "
        f"latent-diffusion backbone. Version {manifest.weights_version}, learnt at "
        f"{height} × {width} pixels (height × width) from {_source(config, weights)}.",
        _what_it_gives(manifest, config),
        _scores(manifest, results),
        _how_to_load(manifest),
        _what_lies_here(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _source(config: RunConfig, weights: WeightsManifest) -> str:
    source = config.source
    limit = getattr(source, "num_labelled", None)
    counted = f"{limit} labelled images" if limit else "all labelled images"
    more = "" if weights.stage == "warm_up" else " and synthetic ones made from them"
    regime = "full" if source.kind == "mix" else source.labels.regime
    fewer = "" if regime == "full" else f" with some of their labels (regime `{regime}`)"
    return f"{counted} of the source `{source.kind}`{fewer}{more}"


def _what_it_gives(manifest: ExportManifest, config: RunConfig) -> str:
    rows = ["| task | what `predict` returns |", "|---|---|"]
    for task, encoding in ENCODINGS.items():
        if task in manifest.tasks:
            more = f" 0 to {config.method.num_classes - 1}" if task == "semseg" else ""
            rows.append(f"| {task} | {encoding}{more} |")
    return "\n".join(rows)


def _scores(manifest: ExportManifest, results: Mapping[str, Any] | None) -> str:
    """Tables of every number of results.json, a table for each task."""
    found = {row: results[row] for row in _ROWS if results and results.get(row)}
    if not found:
        return "## Scores\n\nNot scored: `jobs/evaluate.py` scores the run it was exported from."
    tables = ["## Scores", "On the test split, at the end of each stage."]
    for task in manifest.tasks:
        scored = {row: scores[task] for row, scores in found.items() if task in scores}
        metrics = list(next(iter(scored.values()), {}))
        if metrics:
            lines = [f"| {task} | {' | '.join(metrics)} |", f"|---|{'---|' * len(metrics)}"]
            lines += [
                f"| {_ROWS[row]} | {' | '.join(_number(values.get(m)) for m in metrics)} |"
                for row, values in scored.items()
            ]
            tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _how_to_load(manifest: ExportManifest) -> str:
    if manifest.backbone_folder:
        backbone = "The backbone lies in `backbone/`; the folder stands alone."
    else:
        backbone = (
            f"The backbone is not in this folder. It is looked for at `{manifest.backbone}`; "
            '`load_run(…, diffusion="FOLDER")` names another place. Its digest has to be '
            f"`{manifest.backbone_digest}`."
        )
    task = manifest.tasks[0]
    code = (
        "from deployment import load_run\n\n"
        'run = load_run("THIS FOLDER")\n'
        'found = run.predict("photograph.jpg")      # task → array at the photograph\'s size\n'
        f'found["{task}"], found.{RELIABILITY_MEASURES[task]}["{task}"]'
    )
    return (
        f"## Use\n\n```python\n{code}\n```\n\n"
        "```\npython jobs/predict.py --run FOLDER photographs/ --out predictions\n"
        'python jobs/sample.py --run FOLDER --prompt "a bedroom" --count 8 --out pairs\n```\n\n'
        f"Needs the project `selfimproving-perception` ({manifest.code_version}). {backbone}"
    )


def _what_lies_here(manifest: ExportManifest) -> str:
    folder = weights_dir(manifest.weights_version)
    creator = ""
    if manifest.creator_version >= 0:
        path = f"{weights_dir(manifest.creator_version, 'creator')}/{WEIGHTS_FILE}"
        creator = f"* `{path}`: what made its images, sha256 `{manifest.creator_sha256}`\n"
    return (
        "## Files\n\n"
        f"* `{folder}/model.safetensors`: sha256 `{manifest.weights_sha256}`\n"
        f"* `{folder}/manifest.json`: where these weights stand in the run\n"
        f"{creator}"
        "* `config.resolved.yaml`: the run's configuration\n"
        "* `export.json`: this folder, for programs\n"
        f"\nExported from `{manifest.source_run}`."
    )
