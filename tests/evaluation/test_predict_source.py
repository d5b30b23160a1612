"""Scoring several sets of weights on one pass over a source."""

from __future__ import annotations

import pytest
import torch

from evaluation.predict_source import Scoring, _constant, count_states, score_constant
from perception.methods.bae import make
from perception.methods.protocol import DensePredictor
from perception.methods.spec import method_spec
from perception.state_file import state_to_bytes
from schemas.config_method import MethodSection
from schemas.errors import SourceError, WeightsMismatchError
from tests.kit.memory_source import MemorySource
from tests.kit.tiny_models import IMAGE_SIZE_PX, tiny_backbone

TASKS = ("normals", "depth")


def make_method(tasks=TASKS):
    backbone = tiny_backbone()
    return make(method_spec(MethodSection(tasks=tasks), backbone))


def random_state(seed: int) -> bytes:
    torch.manual_seed(seed)
    return state_to_bytes(make_method())


def scores_of(states, *, batch_size=4, seed=0, num_keys=5):
    boards = count_states(
        tiny_backbone(),
        make_method,
        states,
        MemorySource(num_keys, side_px=IMAGE_SIZE_PX),
        "train",
        Scoring(tasks=TASKS, batch_size=batch_size, seed=seed),
    )
    return {name: board.compute() for name, board in boards.items()}


@pytest.mark.slow
def test_equal_weights_get_equal_scores_and_others_differ():
    first, second = random_state(0), random_state(1)
    scores = scores_of({"a": first, "b": second, "c": first})
    assert scores["a"] == scores["c"] != scores["b"]
    assert set(scores["a"]) == set(TASKS)
    assert 0 < scores["a"]["normals"]["mean_deg"] < 180


def test_features_are_taken_once_for_all_weights(monkeypatch):
    seen = []

    def counting(method, backbone, images, **options):
        seen.append(len(images))
        return observe(method, backbone, images, **options)

    observe = DensePredictor.observe
    monkeypatch.setattr(DensePredictor, "observe", counting)
    scores_of({"a": random_state(0), "b": random_state(1)})
    assert seen == [4, 1]


def test_a_score_does_not_depend_on_the_batch_size():
    state = {"a": random_state(0)}
    whole, single = scores_of(state, batch_size=5), scores_of(state, batch_size=1)
    for task in TASKS:
        assert whole["a"][task] == pytest.approx(single["a"][task], rel=1e-3, nan_ok=True)


def test_the_seed_changes_the_noise_and_so_the_score():
    state = {"a": random_state(0)}
    assert scores_of(state, seed=0) != scores_of(state, seed=1)


def test_weights_of_another_method_are_refused():
    with pytest.raises(WeightsMismatchError):
        scores_of({"a": state_to_bytes(make_method(("depth",)))})


def test_an_empty_split_is_an_error():
    with pytest.raises(SourceError, match="split test"):
        count_states(
            tiny_backbone(), make_method, {}, MemorySource(3), "test", Scoring(tasks=TASKS)
        )


def test_unreadable_images_are_left_out():
    source = MemorySource(3, unreadable=["k1"], side_px=IMAGE_SIZE_PX)
    scores = score_constant(source, "train", Scoring(tasks=("depth",)))
    assert scores["depth"]["rmse_m"] == pytest.approx(2**0.5)


def test_the_constant_answer_is_right_where_labels_are_constant():
    scores = score_constant(MemorySource(4), "train", Scoring(tasks=TASKS))
    assert scores["normals"]["mean_deg"] == pytest.approx(0, abs=1e-3)
    assert scores["depth"]["rmse_m"] == pytest.approx(((1 + 0 + 1 + 4) / 4) ** 0.5)


def test_the_constant_answer_for_classes_is_the_most_frequent_of_those_that_count():
    ids = torch.tensor([[[255, 255, 255], [2, 2, 1]]])
    assert _constant("human_parts", [ids, ids]).item() == 2


def test_the_constant_answer_for_probabilities_is_their_mean_where_they_count():
    mask = torch.tensor([[[[1.0, 0.0, -1.0], [0.0, 0.0, -1.0]]]])
    assert _constant("saliency", [mask]).item() == 0.25


def test_a_task_without_a_label_that_counts_has_no_constant_answer():
    with pytest.raises(SourceError, match="human_parts: wanted a label that counts"):
        _constant("human_parts", [torch.full((1, 2, 2), 255)])
