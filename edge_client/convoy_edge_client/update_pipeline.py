"""What happens to an update that travels by itself: clip, encode, seal to the aggregator, sign.

The order is the protocol: clipping bounds what one vehicle can do to the model and must see the
true numbers; sealing comes last. Updates that travel in a masked sum take another way
(secure_sum_handlers).
"""

# Shapes: N parameters that are sent.

from datetime import UTC, datetime
from pathlib import Path

from convoy_compression.update.codec import codec_on_wire
from convoy_edge_client.errors import RefusedInstructionsError
from convoy_edge_client.instructions import RoundSettings
from convoy_edge_client.local_update import LocalUpdate
from convoy_edge_client.vehicle_config import VehicleConfig
from convoy_edge_client.vehicle_party import keep_revocations, party_of
from convoy_privacy.certificates import Role
from convoy_privacy.clipping import clip
from convoy_privacy.sealed_update import seal_update
from convoy_privacy.sealing import verify_sealing_key
from convoy_protos import envelope
from convoy_protos.protection import Protection, protection_of
from convoy_protos.v1.federation_pb2 import RoundInstructions, UpdateHeader


def check_protection(vehicle: VehicleConfig, codec: str) -> None:
    """Refuse a codec that protects less than this vehicle's own configuration asks for.

    Raises:
        RefusedInstructionsError: Names what is asked for and what is allowed.
    """
    if protection_of(codec) < vehicle.protection:
        raise RefusedInstructionsError(
            f"the server asks for {codec} updates, but this vehicle sends them "
            f"{vehicle.least_protection} or not at all (least_protection in its configuration)"
        )


def single_update(
    update: LocalUpdate,
    instructions: RoundInstructions,
    instructions_digest: bytes,
    settings: RoundSettings,
    vehicle: VehicleConfig,
) -> bytes:
    """The envelope with one update.

    Args:
        update: What was learned.
        instructions: Of the round; names codec and aggregator.
        instructions_digest: Of the instructions as they travelled.
        settings: Of the round: whether and how far to clip, how finely to round.
        vehicle: Who sends it.

    Raises:
        ProtocolError: The aggregator's key is not vouched for by our fleet's CA, or the list of
            revocations that comes with it cannot be gone by.
    """
    update_N = update.update_N
    if settings.privacy.clip_norm is not None:
        update_N = clip(update_N, settings.privacy.clip_norm)
    clear = vehicle.metrics == "clear"
    header = UpdateHeader(
        run_id=update.run_id,
        round=update.round_number,
        vehicle_id=vehicle.vehicle_id,
        schema_digest=update.schema_digest,
        codec=instructions.codec,
        parameter_count=update_N.size,
        example_count=update.example_count,
        metrics={"train_loss": update.train_loss} if clear else {},
    )
    payload = codec_on_wire(instructions.codec, settings.update).encode(update_N)
    if protection_of(instructions.codec) is Protection.SEALED:
        party = party_of(vehicle)
        now = datetime.now(UTC)
        trust = party.trust.with_revocations(instructions.revocations, now)
        verify_sealing_key(instructions.aggregator, trust, Role.AGGREGATOR, now)
        keep_revocations(Path(vehicle.identity), instructions.revocations)
        header.context_digest = instructions_digest
        header.certificate = party.identity.certificate
        payload, header.signature = seal_update(
            payload, header, instructions.aggregator, party.identity
        )
    return envelope.pack(header, payload)
