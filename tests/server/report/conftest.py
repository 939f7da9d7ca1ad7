"""A small report in which everything is switched on, with hostile names in it."""

import pytest

from convoy_server.report.contract import (
    Baseline,
    Baselines,
    CurvePoint,
    DriveScore,
    Environment,
    Final,
    Fleet,
    Gate,
    LatencyMs,
    Picture,
    Privacy,
    Release,
    Report,
    Update,
    VehicleResult,
    WorstVehicle,
)
from convoy_server.round_log import RoundRecord
from convoy_server.rounds import Rejection

HOSTILE = "<script>alert('car')</script>&\"$x^2$"

# The smallest PNG there is: one transparent pixel.
PIXEL_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def round_record(number: int, **changes: object) -> RoundRecord:
    values = {
        "round": number,
        "outcome": "done",
        "invited": 3,
        "completed": 3,
        "lost": 0,
        "surplus": 0,
        "rejected": {},
        "uplink_bytes": 3000,
        "downlink_bytes": 2000,
        "wall_s": 1.5,
        "train_loss": 1.0 / number,
        "balanced_accuracy": 0.4 + 0.1 * number,
        "accuracy": 0.5 + 0.1 * number,
        "throttle_mae": 0.1,
    }
    return RoundRecord(**(values | changes))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    (directory / "pictures").mkdir()
    for name in ("day.png", "line.png"):
        (directory / "pictures" / name).write_bytes(PIXEL_PNG)
    return directory


@pytest.fixture(scope="session")
def rounds() -> tuple[RoundRecord, ...]:
    refused = Rejection(vehicle=HOSTILE, reason="not_finite", detail="norm <b>nan</b>")
    return (
        round_record(1),
        round_record(2, completed=2, rejected={"not_finite": 1}, rejections=(refused,)),
        round_record(
            3,
            outcome="abandoned",
            completed=1,
            lost=1,
            rejected={"not_finite": 1},
            rejections=(refused,),
            lost_vehicles=("car1",),
            train_loss=None,
            balanced_accuracy=None,
        ),
        round_record(4),
    )


@pytest.fixture(scope="session")
def full_report(rounds) -> Report:
    drive = DriveScore(track_covered=0.9, off_road_share=0.05, return_=700.0)
    return Report(
        scenario="demo",
        seed=7,
        wall_s=221.4,
        cpu_s=398.2,
        peak_rss_bytes=1_820_000_000,
        fleet=Fleet(vehicles=3, examples=4000, parameters=184_182),
        rounds=rounds,
        final=Final(
            balanced_accuracy=0.8,
            accuracy=0.85,
            throttle_mae=0.04,
            worst_vehicle=WorstVehicle(id=HOSTILE, balanced_accuracy=0.7),
            per_vehicle={
                "car0": VehicleResult(examples=1500, balanced_accuracy=0.9, single_vehicle=0.6),
                "car1": VehicleResult(examples=1500, balanced_accuracy=0.8),
                HOSTILE: VehicleResult(examples=1000, balanced_accuracy=0.7),
            },
        ),
        baselines=Baselines(
            single_vehicle=Baseline(balanced_accuracy=0.6), central=Baseline(balanced_accuracy=0.82)
        ),
        update=Update(
            codec="float32/1",
            encrypted=False,
            bits_per_parameter=32.0,
            bytes=736_900,
            float32_bytes=736_728,
        ),
        privacy=Privacy(secure_aggregation=False, clip_norm=10.0),
        release=Release(
            accepted=True,
            gates=(
                Gate(name="int8_size_ratio", value=0.27, limit=0.3, passed=True),
                Gate(name="closed_loop_score", value=None, limit=0.2, passed=True),
            ),
            teacher_parameters=184_182,
            student_parameters=60_000,
            fp32_bytes=250_000,
            int8_bytes=69_000,
            fp32_balanced_accuracy=0.79,
            int8_balanced_accuracy=0.785,
            latency_ms=LatencyMs(torch_p50=1.2, fp32_p50=0.3, int8_p50=0.15),
            sha256="9f2b" * 16,
        ),
        closed_loop={
            "day": {
                "federated_int8": drive,
                "single_vehicle": drive,
                "central": drive,
                "expert": drive,
            },
            "dark": {
                "federated_int8": DriveScore(track_covered=0.7, off_road_share=0.1, return_=500.0),
                "single_vehicle": drive,
                "central": drive,
                "expert": drive,
            },
        },
        curves={
            "federated": (
                CurvePoint(epochs=2, balanced_accuracy=0.5),
                CurvePoint(epochs=4, balanced_accuracy=0.8),
            ),
            "single_vehicle": (
                CurvePoint(epochs=2, balanced_accuracy=0.4, lowest=0.3, highest=0.5),
                CurvePoint(epochs=4, balanced_accuracy=0.6, lowest=0.5, highest=0.7),
            ),
        },
        pictures=(
            Picture(file="pictures/day.png", kind="appearance", title="day"),
            Picture(file="pictures/line.png", kind="driven_line", title="day, track 4"),
        ),
        environment=Environment(
            command="convoy simulate demo.toml --out runs/demo --seed 7",
            started="2026-11-22T06:40:00Z",
            machine="2 cores",
            versions={"torch": "2.13.0"},
        ),
        rounds_planned=4,
    )
