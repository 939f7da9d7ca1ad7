"""What drives is light: no torch, no flwr, no onnx, and little memory."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import small_release

import convoy_driving.golden
import convoy_driving.onnx_driver
import convoy_edge_client.errors
import convoy_edge_client.preflight
import convoy_protos.errors
import convoy_protos.findings
import convoy_protos.release_manifest
import convoy_protos.settings
from convoy_protos.release_manifest import Variant

DRIVE = """
import json, re, sys
from pathlib import Path
from convoy_edge_client.preflight.chosen_driver import chosen_driver
from convoy_edge_client.preflight.preflight import examine_release
from convoy_edge_client.preflight.preflight_config import PreflightConfig
import numpy as np

folder = Path(sys.argv[1])
config = PreflightConfig(frame_period_ms=1e6, repetitions=3)
report = examine_release(folder, config)
driver = chosen_driver(folder, report.manifest, report.choice)
for _ in range(100):
    driver.predict(np.zeros((1, driver.frame_height, driver.frame_width, 3), np.uint8))
# ru_maxrss would count what the parent of this process had before exec.
peak_kb = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({
    "rss_mb": int(peak_kb[1]) / 1024,
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_process_that_examines_and_drives_is_small_and_imports_nothing_heavy(tmp_path):
    made = small_release.model()
    folder = small_release.write_release(
        tmp_path,
        dict.fromkeys((Variant.FP32, Variant.INT8_CPU), made.SerializeToString()),
        small_release.golden(made),
    )

    process = subprocess.run(
        [sys.executable, "-c", DRIVE, folder], check=True, timeout=100, stdout=subprocess.PIPE
    )

    found = json.loads(process.stdout)
    assert not {"torch", "flwr", "onnx", "pandas", "matplotlib"} & set(found["modules"])
    assert found["rss_mb"] <= 110


SOURCES = [
    *Path(convoy_edge_client.preflight.__path__[0]).glob("*.py"),
    *(
        Path(module.__file__)
        for module in (
            convoy_driving.golden,
            convoy_driving.onnx_driver,
            convoy_edge_client.errors,
            convoy_protos.errors,
            convoy_protos.findings,
            convoy_protos.release_manifest,
            convoy_protos.settings,
        )
    ),
]
NEWER_THAN_3_10 = {"tomllib", "StrEnum", "Self", "UTC", "assert_never", "ExceptionGroup"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_is_written_for_python_3_10(source):
    """JetPack 6 has no newer one; what no test runs there, this keeps an eye on."""
    tree = ast.parse(source.read_text(), feature_version=(3, 10))

    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not NEWER_THAN_3_10 & (names | attributes | imported)
