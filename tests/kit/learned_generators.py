"""Generator actors whose creator has weights of its own."""

from __future__ import annotations

from typing import Any

from perception.build import make_method, open_backbone
from pipeline.make.generator import Generator
from pipeline.on_ray.generator import ActorStarter, GeneratorActor, start_generator
from sources.open import open_run_source
from tests.kit.learned_creator import TintCreator


class LearnedGeneratorActor(GeneratorActor):
    """A generator actor with a :class:`TintCreator`."""

    def _loaded(self) -> Generator:
        if self._generator is None:
            backbone = open_backbone(self._config)
            self._generator = Generator(
                self._config,
                store=self._store,
                source=open_run_source(self._config),
                backbone=backbone,
                method=make_method(self._config, backbone),
                creator=TintCreator(),
            )
        return self._generator


class LearnedStarter(ActorStarter):
    """Starts such generators."""

    def start(self) -> Any:
        """Start an actor."""
        return start_generator(
            self._config, self._config.run.url, actor_class=LearnedGeneratorActor
        )
