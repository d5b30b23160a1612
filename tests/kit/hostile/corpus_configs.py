"""Hostile configurations and options of jobs: all of them the user's to change, exit code 2."""

from __future__ import annotations

from dataclasses import dataclass

from tests.kit.hostile.corpus_folders import LAUGHS


@dataclass(frozen=True)
class ConfigItem:
    """A configuration file, or a change of the shipped one, and what the job says to it."""

    name: str
    message: str
    content: bytes | None = None
    change: str = ""


def file(name: str, content: bytes, message: str) -> ConfigItem:
    return ConfigItem(name, message, content=content)


def change(text: str, message: str, name: str = "") -> ConfigItem:
    return ConfigItem(name or text, message, change=text)


NOT_YAML = "not YAML"
TOO_LARGE = "multiply|too large|nested"

CONFIGS = [
    file("empty", b"", "wanted sections"),
    file("a list", b"- run\n", "wanted sections"),
    file("a text", b"run", "wanted sections"),
    file("not UTF-8", b"run: {url: caf\xe9}\n", "UTF-8"),
    file("UTF-16 without a mark", "run: {url: ä}".encode("utf-16-le"), "training: missing"),
    file("zero bytes", bytes(4096), NOT_YAML),
    file("two documents", b"run: {url: a}\n---\nrun: {url: b}\n", NOT_YAML),
    file("tabs", b"run:\n\turl: a\n", NOT_YAML),
    file("a Python object", b"run: !!python/object/apply:os.system ['true']\n", NOT_YAML),
    file("a Python name", b"run: !!python/name:os.system\n", NOT_YAML),
    file("an unknown tag", b"run: !shell true\n", NOT_YAML),
    file("a list as key", b"? [a]\n: b\n", NOT_YAML),
    file("a date that is none", b"run: {url: 2001-99-99}\n", "training: missing"),
    file("a number of 10 000 digits", b"run: {seed: " + b"9" * 10_000 + b"}\n", NOT_YAML),
    file("aliases that multiply", LAUGHS.encode(), TOO_LARGE),
    file(
        "aliases that multiply in a section",
        b"run: &a [x]\nmodel: {diffusion: [" + b", ".join([b"*a"] * 9) + b"]}\n" + LAUGHS.encode(),
        TOO_LARGE,
    ),
    file(
        "merge keys that multiply",
        b"a0: &a0 {x: 1}\n"
        + b"".join(
            b"a%d: &a%d {%s}\n" % (n, n, b", ".join(b"k%d: *a%d" % (k, n - 1) for k in range(9)))
            for n in range(1, 20)
        ),
        TOO_LARGE,
    ),
    file("itself within itself", b"run: &run\n  url: *run\n", TOO_LARGE),
    file("2 000 brackets", b"run: " + b"[" * 2_000 + b"]" * 2_000, TOO_LARGE),
    file("5 000 levels", b"".join(b" " * n + b"a:\n" for n in range(1_500)), TOO_LARGE),
    file("4 MB", b"# " + b"x" * (4 << 20) + b"\n", "too large"),
    file("a pickle", b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00trueq\x85R.", "UTF-8|not YAML"),
    change("run=5", "run = 5"),
    change("run.seed=-1", "run.seed = -1"),
    change("run.seed=1e99", "run.seed"),
    change(f"run.seed={2**70}", "run.seed"),
    change("run.seed=" + "9" * 10_000, NOT_YAML, "a seed of 10 000 digits"),
    change("run.seed=[", NOT_YAML),
    change("run.seed={a: &b [*b]}", TOO_LARGE),
    change("run.url=", "run.url"),
    change("run.url=nowhere://x", "nowhere://"),
    change("run.url=s3://", "s3://"),
    change("run.url=simplecache::/tmp/x", "chained"),
    change("run.__class__=x", "unknown key"),
    change("model.dtype=float8", "model.dtype"),
    change("model.device=[cuda]", "model.device"),
    change("method.name=../../evil", "method.name"),
    change("method.name=os", "method.name"),
    change("method.tasks=[]", "method.tasks"),
    change("method.tasks=[sky]", "method.tasks"),
    change("method.width_ratio=.inf", "method.width_ratio"),
    change("method.width_ratio=.nan", "method.width_ratio"),
    change("screening.min_pixel_std=.inf", "screening.min_pixel_std"),
    change("training.real_fraction=.nan", "training.real_fraction"),
    change("training.warm_up.learning_rate=1e999", "learning_rate"),
    change("plan.unit_size=0", "plan.unit_size"),
    change(f"plan.variants={10**30}", "plan.variants"),
    change("source.kind=ftp", "source"),
    change("source={}", "source"),
    change("source.train_captions=(", "not a regular expression"),
    change("source.num_labelled=null", "source.num_labelled"),
    change("=1", "wanted section.field=value"),
    change("run.url.x.y=1", "is a value, not a section"),
    change("a" * 1000 + "=1", "unknown key"),
]
