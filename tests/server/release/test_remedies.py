"""What is tried before a gate refuses."""

import pytest

from convoy_server.release.config import ReleaseConfig
from convoy_server.release.remedies import Remedy, next_remedy
from convoy_server.report.contract import Gate

BOTH = ReleaseConfig(prune_ratio=0.3, max_int8_bytes=1000, qat_epochs=2)


def failed(*names, value=1.0):
    return [Gate(name=name, value=value, limit=0.5, passed=False) for name in names]


@pytest.mark.parametrize(
    ("gates", "config", "tried", "remedy"),
    [
        ([], BOTH, (), None),
        (failed("int8_bytes"), BOTH, (), Remedy.PRUNE),
        (failed("int8_ms"), BOTH, (), Remedy.PRUNE),
        (failed("int8_bytes"), BOTH, (Remedy.PRUNE,), None),  # each helps once
        (failed("int8_agreement"), BOTH, (), Remedy.TRAIN_FOR_INT8),
        (failed("trt_steering_change", "int8_bytes"), BOTH, (), Remedy.PRUNE),
        (failed("trt_agreement", "int8_bytes"), BOTH, (Remedy.PRUNE,), Remedy.TRAIN_FOR_INT8),
        (failed("student_accuracy_drop"), BOTH, (), None),  # neither makes it wiser
        (failed("int8_agreement", value=None), BOTH, (), None),  # it did not come to that
        (failed("int8_bytes", "int8_agreement"), ReleaseConfig(), (), None),  # off by default
    ],
)
def test_a_failed_gate_asks_for_what_may_mend_it(gates, config, tried, remedy):
    assert next_remedy(gates, config, tried) is remedy
