"""Answer `query.mask_sum`: as a mask helper, add up the masks of the vehicles in a secure sum.

The rules are in convoy_privacy.secure_sum.helper. What has been answered is a file in the helper's folder:

answered.sums   HelperMemory; written before the answer goes
answered.lock   held meanwhile, so that two requests at the same time do not get an answer each

Flower's state of the node will not do: it is another one in every Flower run, and gone with the process. A
server could ask a helper twice by starting a second run.
"""

# Shapes: P padded lanes.

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from flwr.app import RecordDict

from convoy_compression.update.rotation import layout_of
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.vehicle_party import helper_party_of, keep_revocations
from convoy_privacy.errors import FleetFolderError, RefusedTermsError
from convoy_privacy.key_files import read_file, write_file
from convoy_privacy.party import Party
from convoy_privacy.secure_sum.helper import MaskHelper
from convoy_privacy.secure_sum.terms import VehiclePolicy
from convoy_protos.envelope import SUM_COUNTERS
from convoy_protos.v1.secure_sum_pb2 import HelperRequest, SumTerms

logger = logging.getLogger(__name__)

ANSWERED: Final = "answered.sums"
_LOCK: Final = "answered.lock"
_MAX_PARAMETERS: Final = VehiclePolicy().max_parameter_count


def mask_sum(request: bytes, _state: RecordDict, vehicle: VehicleConfig) -> bytes:
    """The sum of the masks that the accepted vehicles sealed to us (HelperReply).

    Raises:
        VehicleConfigError: This node is no mask helper.
        FleetFolderError: What has been answered cannot be read or written; then nothing is answered.
        ProtocolError: The request could uncover a single vehicle, or somebody in it is not trusted.
    """
    party = helper_party_of(vehicle)
    folder = Path(vehicle.helper_identity)
    with _locked(folder):
        helper = _helper(party, folder, vehicle.minimum_cohort)
        before = helper.answered
        reply = helper.answer(request, party.trust, datetime.now(UTC))
        if helper.answered != before:
            write_file(folder / ANSWERED, helper.answered, private=True)
    asked = HelperRequest.FromString(request)
    keep_revocations(folder, asked.revocations)
    logger.info("helper %s adds up %d masks", party.identity.name, len(asked.accepted))
    return reply


def _helper(party: Party, folder: Path, minimum_cohort: int) -> MaskHelper:
    """As it was when it last answered."""
    assert party.sealing_key is not None  # noqa: S101 - helper_party_of sees to it
    file = folder / ANSWERED
    try:
        return MaskHelper(
            party.identity,
            party.sealing_key,
            _lane_count,
            len(SUM_COUNTERS),
            minimum_cohort=minimum_cohort,
            answered=read_file(file, private=True) if file.exists() else b"",
        )
    except ValueError as error:
        raise FleetFolderError(file, f"{error}; put back the file of a backup") from error


def _lane_count(terms: SumTerms) -> int:
    """P of these terms."""
    if terms.parameter_count > _MAX_PARAMETERS:
        raise RefusedTermsError(
            f"{terms.parameter_count} parameters, at most {_MAX_PARAMETERS} are allowed"
        )
    return layout_of(terms.parameter_count).padded_count


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One answer at a time, whatever processes and threads there are."""
    try:
        handle = (folder / _LOCK).open("w")
    except OSError as error:
        raise FleetFolderError(folder / _LOCK, f"{error.strerror}") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
