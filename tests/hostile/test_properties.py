"""Properties that hold for whatever the generators of hypothesis think of."""

from __future__ import annotations

import io
import tarfile
import unicodedata
from contextlib import suppress

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.config_file import dump_config, parse_config, parse_tree
from schemas.errors import DamagedShardError, SampleError, UserError
from schemas.manifest import ManifestRow
from schemas.text import sample_key
from schemas.yaml_text import parse_yaml
from storage.files.stores import open_store
from storage.manifests.table import commit_unit, read_unit
from storage.manifests.unit_outcome import UnitCommit
from storage.samples.codecs import decode_class_ids, decode_depth, decode_image, decode_normals
from storage.samples.members import decode_json, decode_npy
from storage.samples.shards import pack_tar, read_tar
from tests.kit.hostile import pictures
from tests.kit.hostile.corpus_images import map_of, npy
from tests.kit.hostile.corpus_runs import UNIT, unit_row
from tests.kit.hostile.folders import member, tar
from tests.kit.hostile.mutations import mutated

few = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="./\\\0"), min_size=1)


@pytest.mark.slow
@settings(few, max_examples=12)
@given(
    seed=st.integers(0, 2**63 - 1),
    t_start=st.integers(50, 1000),
    guidance=st.floats(1, 50),
    url=TEXT,
    error_deg=st.floats(0.001, 180),
)
def test_a_configuration_reads_back_as_it_was_written(seed, t_start, guidance, url, error_deg):
    stage = {"steps": 1}
    tree = {
        "run": {"url": url, "seed": seed},
        "creator": {"t_start": t_start, "guidance_scale": guidance},
        "screening": {"max_expected_error_deg": error_deg},
        "training": {"warm_up": stage, "self_improve": stage},
    }
    config = parse_config(tree, origin="test")
    written = dump_config(config).encode()
    assert parse_config(parse_tree(written, origin="test"), origin="test") == config


@pytest.mark.slow
@few
@given(PLAIN)
def test_plain_values_survive_yaml(value):
    assert parse_yaml(yaml.safe_dump(value)) == value


@few
@given(st.dictionaries(st.sampled_from(["run", "training", "source", "method"]) | TEXT, PLAIN))
def test_any_sections_are_a_configuration_or_a_config_error(tree):
    with suppress(UserError):
        parse_config(tree, origin="test")


@few
@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_are_yaml_or_a_value_error(data):
    with suppress(ValueError):
        parse_yaml(data)


@settings(few, max_examples=12)
@given(st.dictionaries(KEYS, st.tuples(TEXT, INT64, NUMBER), min_size=1, max_size=4))
def test_a_unit_manifest_reads_back_as_it_was_committed(tmp_path_factory, values):
    rows = [
        ManifestRow(**unit_row(key, caption=text, seed=number, guidance=real))
        for key, (text, number, real) in values.items()
    ]
    store = open_store(str(tmp_path_factory.mktemp("run")))
    commit_unit(store, UnitCommit(unit=UNIT, rows=rows, summary={"attempt": "a1"}))
    assert read_unit(store, 0, UNIT.unit_id).rows == rows


@few
@given(
    st.dictionaries(
        KEYS,
        st.dictionaries(st.sampled_from(["a.png", "json", "x"]), st.binary(), min_size=1),
        max_size=4,
    )
)
def test_what_is_packed_is_what_is_read(samples):
    assert dict(read_tar(pack_tar(samples.items()).data)) == samples


@few
@given(st.binary(max_size=2048))
def test_any_bytes_are_a_tar_or_a_damaged_shard(data):
    for content in (data, data + bytes(1024)):
        with suppress(DamagedShardError):
            list(read_tar(content))


SMALL = tar(member("a.image.png", b"0" * 600), member("é" * 60 + ".json", b"{}"))


@settings(few, max_examples=150)
@given(mutated(SMALL))
def test_a_changed_tar_is_damaged_or_holds_no_more_than_it_weighs(data):
    with suppress(DamagedShardError):
        found = dict(read_tar(data + bytes(1024)))
        assert sum(len(each) for one in found.values() for each in one.values()) <= len(data)


@few
@given(
    st.dictionaries(
        KEYS.filter(lambda key: len(key.encode()) < 80),
        st.binary(max_size=600),
        min_size=1,
        max_size=4,
    )
)
def test_our_reader_and_tarfile_see_the_same(files):
    data = tar(*(member(f"{key}.x", content) for key, content in files.items()))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        wanted = {info.name: archive.extractfile(info).read() for info in archive}
    assert {
        f"{key}.{name}": each for key, one in read_tar(data) for name, each in one.items()
    } == wanted


@few
@given(st.lists(st.text(max_size=20), min_size=1, max_size=6, unique=True))
def test_a_key_holds_no_sign_that_tars_and_paths_read_as_their_own(names):
    keys = [sample_key(name) for name in names]
    assert not any(sign in key for key in keys for sign in './\\\0\n:*?"<>| ')
    assert [sample_key(key) for key in keys] == keys
    composed = [unicodedata.normalize("NFC", name) for name in names]
    assert [len(key) for key in keys] == [len(name) for name in composed]


@few
@given(st.lists(st.text(st.sampled_from("ab01_-éß部"), min_size=1), unique=True))
def test_names_of_letters_keep_different_keys(names):
    assert [sample_key(name) for name in names] == names


KINDS = {
    form: pictures.save(pictures.two_halves(), form)
    for form in ("WEBP", "TIFF", "BMP", "GIF", "AVIF")
}
GREY, COLOUR = pictures.grey(), pictures.save(pictures.two_halves())
DEPTH, PHOTO = pictures.grey16(map_of(7)), pictures.save(pictures.two_halves(), "JPEG")


@settings(few, max_examples=100)
@given(mutated(COLOUR) | mutated(PHOTO) | mutated(pictures.turned(6)) | mutated(GREY))
def test_a_changed_picture_is_read_or_a_sample_error(data):
    for decode in (decode_image, decode_normals, decode_class_ids):
        with suppress(SampleError):
            assert decode(data).ndim in (2, 3)


@settings(few, max_examples=100)
@given(st.sampled_from(["WEBP", "TIFF", "BMP", "GIF", "AVIF"]).flatmap(lambda f: mutated(KINDS[f])))
def test_a_changed_picture_of_another_format_is_read_or_a_sample_error(data):
    with suppress(SampleError):
        assert decode_image(data).ndim == 3


@few
@given(mutated(DEPTH))
def test_a_changed_depth_map_is_finite_or_a_sample_error(data):
    with suppress(SampleError):
        assert 0 <= decode_depth(data).max() <= 65.535


@settings(few, max_examples=100)
@given(mutated(npy(map_of(1))) | st.binary(max_size=200))
def test_a_changed_numpy_file_is_read_or_a_sample_error(data):
    with suppress(SampleError):
        assert decode_npy(data, what="test").nbytes <= len(data)


@few
@given(st.binary(max_size=100) | PLAIN.map(lambda value: repr(value).encode("utf-8", "replace")))
def test_any_bytes_are_a_json_member_or_a_sample_error(data):
    with suppress(SampleError):
        assert isinstance(decode_json("a", data), dict)
