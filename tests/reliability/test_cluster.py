"""The campaign of dying nodes and killed processes, in its short form."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from campaigns import log_of


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: pip install localvit[ray]")
def test_a_study_whose_node_dies_and_a_training_whose_process_is_killed(tmp_path: Path) -> None:
    found, _ = log_of("cluster", 2, tmp_path, "--seconds", "10", "--kills", "1")
    assert found["kinds"]["a study on Ray"] == found["kinds"]["training under torchrun"] == 1
    assert found["kinds"]["nodes that died"] >= 1
    assert found["kinds"]["processes that were killed"] == 1
