"""The file that says what a folder of prepared shards holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import SourceError
from schemas.sample import Task

if TYPE_CHECKING:
    from storage.files.stores import RunStore

MANIFEST_FILE = "manifest.parquet"
PREPARED_FILE = "prepared.json"


class PreparedFacts(BaseModel):
    """Fields of ``prepared.json`` that a reader needs; it may hold others."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    layout: str
    tasks: tuple[Task, ...]
    num_classes: int = Field(ge=0, le=254)
    class_names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None


def read_facts(store: RunStore) -> PreparedFacts | None:
    """The facts of a folder; None if it has none, such as shards made elsewhere.

    Raises:
        SourceError: If the file is malformed.
    """
    if not store.exists(PREPARED_FILE):
        return None
    try:
        return PreparedFacts.model_validate_json(store.read_bytes(PREPARED_FILE))
    except ValidationError as error:
        raise SourceError(
            f"{store.uri(PREPARED_FILE)}: {error}; run jobs/prepare.py on the folder again"
        ) from error
