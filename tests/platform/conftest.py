"""Fixtures of the tests that start processes."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.platform.instance import Instance
from voiceplatform.embedded import Postgres, Valkey


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A PostgreSQL that does not run yet."""
    store = Postgres(tmp_path, durable=False)
    yield store
    store.destroy()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey that does not run yet."""
    store = Valkey(tmp_path)
    yield store
    store.stop()


@pytest.fixture
def new_instance(tmp_path: Path) -> Iterator[Callable[..., Instance]]:
    """Make instances of the platform in a data folder of this test."""
    made: list[Instance] = []

    def make(*options: str, folder: Path = tmp_path / "data", **environment: str) -> Instance:
        made.append(Instance(folder, *options, **environment))
        return made[-1]

    yield make
    for instance in made:
        instance.end()
        print(instance.output)  # shown where the test has failed
    for instance in made:
        place = instance.folder / "postgres-place"
        if place.is_symlink():
            shutil.rmtree(place.readlink(), ignore_errors=True)
