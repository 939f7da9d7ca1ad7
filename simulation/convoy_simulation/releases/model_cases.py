"""Model files that are not what they seem, each played against the vehicle's preflight.

Every bad model stands beside a sound one in a release whose manifest, hashes and golden vectors fit: only the
preflight is between it and the road. Source: the list of bad inputs measured on onnxruntime 1.31.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from convoy_driving.golden import Answers, GoldenVectors
from convoy_edge_client.preflight.preflight import PreflightReport, examine_release
from convoy_edge_client.preflight.preflight_config import PreflightConfig
from convoy_protos.findings import problems
from convoy_protos.release_manifest import Variant
from convoy_simulation.releases import small_release
from convoy_simulation.releases.bad_models import (
    BAD_MODELS,
    SOUND,
    flipped_bit,
    memory_bomb_of_allowed_operators,
)

LEFT_OUT: Final = "left out, the sound one drives"

# Nothing here depends on how fast this machine is.
PATIENT: Final = PreflightConfig(
    providers=("cpu",), frame_period_ms=1e6, repetitions=3, trial_s=60.0, memory_mb=600
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCase:
    """One case.

    Attributes:
        name: What is wrong with the int8 file.
        content: The file.
        expected: The check that refuses the release, or LEFT_OUT where only the file's trial fails.
        listed: What the manifest believes the file to be; None: the file itself.
        golden: What the release believes its variants to answer.
    """

    name: str
    content: bytes
    expected: str
    listed: bytes | None = None
    golden: GoldenVectors | None = None

    def play(self, folder: Path) -> str:
        """What becomes of it: the checks that refuse, LEFT_OUT, or "drives".

        Args:
            folder: New or empty.
        """
        models: Mapping[Variant, bytes] = {
            Variant.FP32: SOUND,
            Variant.INT8_CPU: self.content if self.listed is None else self.listed,
        }
        small_release.write_release(folder, models, self.golden or _GOLDEN)
        (folder / Variant.INT8_CPU.file_name).write_bytes(self.content)
        return _verdict(examine_release(folder, PATIENT))


def _verdict(report: PreflightReport) -> str:
    found = problems(report.findings)
    if found:
        return "; ".join(finding.subject.removeprefix("int8-cpu ") for finding in found)
    # The only process that may answer with the bad file is its own trial.
    tried = [finding for finding in report.findings if finding.subject == "int8-cpu on cpu"]
    passed = report.choice is not None and not any("not used" in one.message for one in tried)
    return "drives" if passed else LEFT_OUT if report.choice is not None else "nothing drives"


_GOLDEN: Final = small_release.golden(small_release.model())
_INT8: Final = _GOLDEN.answers[Variant.INT8_CPU]
_OFF: Final = replace(
    _GOLDEN,
    answers=dict(_GOLDEN.answers)
    | {Variant.INT8_CPU: Answers(_INT8.steering_N3, _INT8.throttle_N + 0.2)},
)

MODEL_CASES: Final = (
    *(
        # What is empty is refused by its size already.
        ModelCase(
            name=name.replace("_", " "), content=content, expected=check if content else "files"
        )
        for name, (content, check) in BAD_MODELS.items()
    ),
    ModelCase(name="flipped bit", content=flipped_bit(), listed=SOUND, expected="format"),
    ModelCase(name="a byte too few", content=SOUND[:-1], listed=SOUND, expected="format"),
    ModelCase(name="a byte too many", content=SOUND + b"\0", listed=SOUND, expected="format"),
    ModelCase(
        name="memory bomb of allowed operators",
        content=memory_bomb_of_allowed_operators(),
        expected=LEFT_OUT,
    ),
    ModelCase(
        name="finite and wrong",
        content=small_release.model(seed=5).SerializeToString(),
        expected=LEFT_OUT,
    ),
    ModelCase(name="golden mismatch of one variant", content=SOUND, golden=_OFF, expected=LEFT_OUT),
)
