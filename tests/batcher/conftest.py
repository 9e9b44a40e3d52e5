from collections.abc import Iterator

import pytest

from sessions_app.runtime.batcher import Batcher


@pytest.fixture
def batcher(committed_db: None) -> Iterator[Batcher]:
    started = Batcher()
    started.start()
    yield started
    started.stop()
