"""What happens to an update on its way out of the vehicle: check, clip, encode, seal.

The order is the protocol: clipping bounds what one vehicle can do to the model and must see the
true numbers; the codec comes last because nothing may change them afterwards.
"""

# Shapes: N parameters.

import numpy as np
from numpy.typing import NDArray

from convoy_compression.update.codec import UpdateCodec
from convoy_edge_client.errors import DivergedTrainingError
from convoy_privacy.clipping import PrivacyConfig, clip
from convoy_protos import envelope
from convoy_protos.v1.federation_pb2 import UpdateHeader


def seal_update(
    update_N: NDArray[np.float32],
    header: UpdateHeader,
    codec: UpdateCodec,
    privacy: PrivacyConfig,
) -> bytes:
    """The envelope to send.

    Args:
        update_N: float32, shape (N,), local minus global parameters.
        header: Who, which round, how many examples; codec, sizes and digest are filled in here.
        codec: The one that the round instructions name.
        privacy: Whether and how far to clip.

    Raises:
        DivergedTrainingError: The update is not finite; sending it would only have it refused.
    """
    if not np.isfinite(update_N).all():
        raise DivergedTrainingError(
            f"vehicle {header.vehicle_id}: training diverged in round {header.round}: the update "
            "is not finite; lower learning_rate"
        )
    if privacy.clip_norm is not None:
        update_N = clip(update_N, privacy.clip_norm)
    header.codec = codec.name
    header.parameter_count = update_N.size
    return envelope.pack(header, codec.encode(update_N))
