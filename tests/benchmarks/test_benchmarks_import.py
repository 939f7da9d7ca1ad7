"""Every benchmark imports: none uses a name that the code it measures no longer has."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(
    one for kind in ("bench", "compare", "sweep") for one in BENCHMARKS.glob(f"{kind}_*.py")
)


def test_there_are_benchmarks():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_imports_without_measuring(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)  # as for a script
    spec = importlib.util.spec_from_file_location(f"benchmark_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up

    spec.loader.exec_module(module)

    assert callable(module.main)
    assert capsys.readouterr().out == ""
