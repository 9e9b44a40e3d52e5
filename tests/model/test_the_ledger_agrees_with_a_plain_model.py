"""The ledger and a naive model of it, driven side by side through whatever may happen, never disagree.

``VOICE_MODEL_EXAMPLES`` and ``VOICE_MODEL_STEPS`` make a run longer than it usually is; with ``VOICE_MODEL_RAW``
a failure is not made shorter.
"""

import os
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine

EXAMPLES = int(os.environ.get("VOICE_MODEL_EXAMPLES", "20"))
STEPS = int(os.environ.get("VOICE_MODEL_STEPS", "25"))


def test_the_ledger_agrees_with_a_plain_model_whatever_happens(committed_db: None, settings: Any) -> None:
    settings.VOICE_REFUSALS_RECORDED_PER_S = 10**9  # every refusal has its record here
    run_state_machine_as_test(
        Machine,
        settings=hypothesis.settings(
            max_examples=EXAMPLES,
            # The same examples in each short run; long ones go looking for new ones.
            derandomize="VOICE_MODEL_EXAMPLES" not in os.environ,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=list(Phase) if "VOICE_MODEL_RAW" not in os.environ else [Phase.generate],
            print_blob=True,
        ),
    )
