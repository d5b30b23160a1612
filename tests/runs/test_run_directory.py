"""A run directory belongs to one configuration, whichever version of the project wrote it."""

from __future__ import annotations

import pytest

from runs.directory import claim_run_directory
from schemas.config_file import dump_config
from schemas.errors import ConfigError
from schemas.run_layout import CONFIG_FILE
from storage.files.stores import open_store
from tests.kit.small_run import make_config


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path)


def test_a_run_begun_by_an_older_version_goes_on_where_that_wrote_fewer_fields(config):
    store = open_store(config.run.url)
    lines = dump_config(config).splitlines(keepends=True)
    older = "".join(line for line in lines if "max_attempts" not in line)
    assert older != dump_config(config)
    store.write_bytes(CONFIG_FILE, older.encode())
    claim_run_directory(store, config)
    assert store.read_bytes(CONFIG_FILE) == older.encode()


@pytest.mark.parametrize("found", ["generation: {max_attempts: 7}\n", "nobody: knows\n", "["])
def test_another_configuration_is_refused(config, found):
    store = open_store(config.run.url)
    store.write_bytes(CONFIG_FILE, found.encode())
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        claim_run_directory(store, config)
