"""Lines of rounds.jsonl."""

from convoy_server.round_log import RoundRecord, to_line
from convoy_server.rounds import Rejection


def line(number: int, outcome: str = "done") -> str:
    """One round of four vehicles, one refused and one lost."""
    return to_line(
        RoundRecord(
            round=number,
            outcome=outcome,
            invited=4,
            completed=3,
            lost=1,
            surplus=0,
            rejected={"not_finite": 1},
            uplink_bytes=100,
            downlink_bytes=10,
            wall_s=2.0,
            evaluation_rejections=(Rejection("car1", "malformed", "empty"),),
        )
    )
