"""How often one address may call: a bucket that fills at a steady rate. Source: token bucket, RFC 2697."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

_MAX_ADDRESSES: Final = 4096


@dataclass(slots=True)
class _Bucket:
    calls: float
    filled_at_s: float


class RateLimit:
    """Buckets by address; memory does not grow with the number of callers."""

    def __init__(self, calls_per_minute: float) -> None:
        """Every bucket is full: a minute's calls may come at once.

        Args:
            calls_per_minute: By one address, in the long run; positive.
        """
        self._most = calls_per_minute
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def allows(self, address: str, now_s: float) -> bool:
        """Whether a call may be answered; it counts if so.

        Args:
            address: Of the caller.
            now_s: Of a clock that never goes back.
        """
        bucket = self._buckets.pop(address, None) or _Bucket(self._most, now_s)
        self._buckets[address] = bucket
        if len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        gained = (now_s - bucket.filled_at_s) * self._most / 60.0
        bucket.calls, bucket.filled_at_s = min(self._most, bucket.calls + gained), now_s
        if bucket.calls < 1.0:
            return False
        bucket.calls -= 1.0
        return True
