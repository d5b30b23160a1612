"""The command that trains one stage."""

import pytest

from jobs.train import main
from schemas.config_file import dump_config
from schemas.errors import ConfigError
from storage.files.stores import open_store
from storage.records.weights import list_versions
from tests.kit.small_stage import make_config
from trainers.final import has_final


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(make_config(tmp_path)))
    return path


def test_a_dry_run_tells_steps_updates_and_versions_and_writes_nothing(
    tmp_path, config_file, capsys
):
    main(["--config", str(config_file), "--stage", "self_improve", "--dry-run"])
    told = capsys.readouterr().out.replace("\n", " ")
    assert "6 steps of 4 images = 24 images" in told
    assert "3 updates at decay 0.9" in told
    assert "about 3 in all" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_stage_is_trained_in_this_process(tmp_path, config_file, capsys):
    main(["--config", str(config_file), "--stage", "warm_up", "--local"])
    store = open_store(str(tmp_path / "run"))
    assert has_final(store, "warm_up")
    assert list_versions(store) == [0]
    assert "step: 4" in capsys.readouterr().out


@pytest.mark.slow
def test_another_configuration_is_refused_in_the_same_run_directory(tmp_path, config_file):
    main(["--config", str(config_file), "--stage", "warm_up", "--local"])
    with pytest.raises(ConfigError, match="another configuration"):
        main(["--config", str(config_file), "--stage", "warm_up", "--local", "--set", "run.seed=1"])


def test_an_unknown_stage_is_refused(config_file):
    with pytest.raises(SystemExit):
        main(["--config", str(config_file), "--stage", "fine_tune"])
