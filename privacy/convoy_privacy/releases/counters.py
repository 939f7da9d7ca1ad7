"""Which release counters a vehicle accepts: what TUF alone does not ask.

TUF keeps metadata from going back, but a stolen online key may point at any release that was ever signed.
Every release therefore has a counter, signed offline, that only grows. A vehicle's floor is the counter of
the newest release that it committed to; the policy's minimum is signed offline. Source: the rollback index
of Android Verified Boot 2.
"""

from typing import Final

from convoy_privacy.errors import ReleaseCounterError

MAX_COUNTER_STEP: Final = 10_000
"""By which one release may raise the floor: stolen keys cannot use all numbers up."""


def check_counter(counter: int, *, minimum: int, floor: int) -> None:
    """Refuse a release that is older than what must be, or absurdly new.

    Args:
        counter: Of the release.
        minimum: Of the policy.
        floor: Of the vehicle; 0: it has committed to none.

    Raises:
        ReleaseCounterError: The release must not be installed.
    """
    if counter < minimum:
        raise ReleaseCounterError(f"counter {counter} is below {minimum}, the policy's minimum")
    if counter < floor:
        raise ReleaseCounterError(f"counter {counter} is below {floor}, which was driven already")
    if counter > max(floor, minimum) + MAX_COUNTER_STEP:
        raise ReleaseCounterError(
            f"counter {counter} is more than {MAX_COUNTER_STEP} above {max(floor, minimum)}"
        )
