"""Answer `query.mask_sum`: as a mask helper, add up the masks of the vehicles in a secure sum.

The rules are in convoy_privacy.secure_sum.helper. What has been answered is in Flower's state of the
node, which outlives rounds: a helper that lost it would answer twice.
"""

# Shapes: P padded lanes.

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from flwr.app import ConfigRecord, RecordDict

from convoy_compression.update.rotation import layout_of
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.vehicle_party import helper_party_of, keep_revocations
from convoy_privacy.errors import RefusedTermsError
from convoy_privacy.secure_sum.helper import MaskHelper
from convoy_privacy.secure_sum.terms import VehiclePolicy
from convoy_protos.envelope import SUM_COUNTERS
from convoy_protos.v1.secure_sum_pb2 import HelperRequest, SumTerms

logger = logging.getLogger(__name__)

_ANSWERED: Final = "convoy.answered"
_MAX_PARAMETERS: Final = VehiclePolicy().max_parameter_count


def mask_sum(request: bytes, state: RecordDict, vehicle: VehicleConfig) -> bytes:
    """The sum of the masks that the accepted vehicles sealed to us (HelperReply).

    Raises:
        VehicleConfigError: This node is no mask helper.
        ProtocolError: The request could uncover a single vehicle, or somebody in it is not trusted.
    """
    party = helper_party_of(vehicle)
    assert party.sealing_key is not None  # noqa: S101 - helper_party_of sees to it
    helper = MaskHelper(
        party.identity,
        party.sealing_key,
        _lane_count,
        len(SUM_COUNTERS),
        minimum_cohort=vehicle.minimum_cohort,
        answered=_answered(state),
    )
    reply = helper.answer(request, party.trust, datetime.now(UTC))
    asked = HelperRequest.FromString(request)
    keep_revocations(Path(vehicle.helper_identity), asked.revocations)
    state[_ANSWERED] = ConfigRecord({"answered": helper.answered})
    logger.info("helper %s adds up %d masks", party.identity.name, len(asked.accepted))
    return reply


def _lane_count(terms: SumTerms) -> int:
    """P of these terms."""
    if terms.parameter_count > _MAX_PARAMETERS:
        raise RefusedTermsError(
            f"{terms.parameter_count} parameters, at most {_MAX_PARAMETERS} are allowed"
        )
    return layout_of(terms.parameter_count).padded_count


def _answered(state: RecordDict) -> bytes:
    record = state.get(_ANSWERED)
    answered = record.get("answered") if isinstance(record, ConfigRecord) else b""
    return answered if isinstance(answered, bytes) else b""
