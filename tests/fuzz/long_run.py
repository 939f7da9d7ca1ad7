"""Fuzz decoders for as long as one likes, with coverage as the guide (atheris, libFuzzer).

    make fuzz                               every decoder, FUZZ_SECONDS each (10 by default)
    make fuzz FUZZ_SECONDS=600 FUZZ=roster  one of them

`python long_run.py SECONDS NAME...` runs each name in a process of its own, because libFuzzer ends the
process that it ran in. Bytes that break a decoder are left in the working directory as NAME-crash-SHA1.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

LARGEST_INPUT = 8192


def fuzz(name: str, seconds: int) -> None:
    """One decoder, in this process; does not return."""
    import atheris  # noqa: PLC0415 - in the environment of the long runs only

    with atheris.instrument_imports(include=["convoy_"], exclude=["convoy_simulation"]):
        from every_decoder import every_decoder  # noqa: PLC0415 - instrumented while imported

    decoder = every_decoder()[name]

    def one_input(data: bytes) -> None:
        try:
            decoder.decode(data)
        except decoder.raises:
            return

    with tempfile.TemporaryDirectory() as corpus:
        (Path(corpus) / "example").write_bytes(decoder.example())
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={LARGEST_INPUT}",
            f"-artifact_prefix={name}-",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, corpus], one_input)
        atheris.Fuzz()


def main(seconds: int, names: list[str]) -> int:
    """All of them, one after the other; 1 where one was broken."""
    from every_decoder import every_decoder  # noqa: PLC0415 - not before atheris, in the child

    broken = []
    for name in names or every_decoder():
        command = [sys.executable, __file__, "--one", str(seconds), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
        print(f"{name:20} {runs[1] if runs else '?':>9} inputs", flush=True)  # noqa: T201
        if done.returncode:
            broken.append(name)
            print(done.stderr[-4000:], flush=True)  # noqa: T201
    print(f"broken: {', '.join(broken) or 'none'}")  # noqa: T201
    return 1 if broken else 0


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        fuzz(sys.argv[3], int(sys.argv[2]))
    else:
        sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
