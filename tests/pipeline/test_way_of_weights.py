"""A version of weights on its way from the trainer to a generator."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest

from perception.build import make_method
from perception.state_file import state_to_bytes
from pipeline.loop.local_runner import take_newest
from pipeline.on_ray import registry as registry_module
from storage.files.stores import open_store
from storage.records.weights import WeightsWatch
from tests.kit.small_run import make_config, make_generator, tiny_backbone
from trainers.publish import WeightsPublisher


def from_storage(generator, config):
    take_newest(generator, WeightsWatch(open_store(config.run.url)))


def from_registry(generator, config):
    manifest, (data,) = registry_module.WeightRegistry(config.run.url).latest()
    generator.take_weights(manifest, data)


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("fetch", [from_storage, from_registry])
def test_the_digest_is_computed_when_published_and_when_read_from_storage(
    tmp_path, monkeypatch, fetch, is_last
):
    config = make_config(tmp_path)
    generator = make_generator(config)
    backbone = tiny_backbone()
    learner = SimpleNamespace(creation=make_method(config, backbone), step=1, seen_images=4)
    publisher = WeightsPublisher(
        open_store(config.run.url), base_model_hash=backbone.model_id, ema_decay=0.9, stage="s"
    )
    weights, sizes = state_to_bytes(learner.creation), []
    sha256 = hashlib.sha256

    def counting(data=b"", **options):
        sizes.append(len(data))
        return sha256(data, **options)

    monkeypatch.setattr(hashlib, "sha256", counting)
    monkeypatch.setattr(registry_module.ray, "put", lambda data: data)
    publisher.start(learner, is_last=is_last)
    assert publisher.finish().version == 0
    assert sizes.count(len(weights)) == 1
    fetch(generator, config)
    assert generator.version == 0
    assert sizes.count(len(weights)) == 2
