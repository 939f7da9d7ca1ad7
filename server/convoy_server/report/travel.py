"""What updates took on their way and who could read them, from the rounds and the settings of a run."""

from collections.abc import Sequence

from convoy_protos.protection import Protection, protection_of
from convoy_server.report.contract import Privacy, Update
from convoy_server.round_log import RoundRecord
from convoy_server.run_config import RunConfig


def update_of(run: RunConfig, records: Sequence[RoundRecord]) -> Update | None:
    """What updates took on the wire, everything included: the mean over all that arrived.

    None where none did.
    """
    arrived = [record for record in records if record.completed and record.update_parameters]
    if not arrived:
        return None
    codec = run.update.wire_name
    updates = sum(record.completed for record in arrived)
    uplink_bytes = sum(record.update_uplink_bytes for record in arrived)
    parameters = arrived[-1].update_parameters
    return Update(
        codec=codec,
        encrypted=protection_of(codec) is not Protection.NONE,
        bits_per_parameter=8 * uplink_bytes / (updates * parameters),
        bytes=round(uplink_bytes / updates),
        float32_bytes=4 * parameters,
        mask_source=run.update.mask_source,
    )


def privacy_of(run: RunConfig, records: Sequence[RoundRecord]) -> Privacy:
    """What protected a single vehicle."""
    last = records[-1] if records else None
    return Privacy(
        secure_aggregation=protection_of(run.update.wire_name) is Protection.MASKED,
        mask_helpers=run.update.helpers,
        clip_norm=last.clip_norm if last else run.privacy.clip_norm,
        noise_multiplier=run.privacy.noise_multiplier,
        epsilon=last.epsilon if last else None,
        delta=run.privacy.delta if run.privacy.noise_multiplier is not None else None,
    )
