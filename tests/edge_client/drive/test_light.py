"""What drives is light: it imports nothing of training, of the network, of Python newer than 3.10."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_drive import SmallVehicle

import convoy_driving.onnx_driver
import convoy_driving.pictures
import convoy_driving.recordings
import convoy_edge_client.drive
import convoy_edge_client.toml_file
import convoy_edge_client.updates

DRIVE = """
import json, re, sys
from pathlib import Path
import numpy as np
from convoy_edge_client.drive.drive_toml import load_drive_toml
from convoy_edge_client.drive.vehicle import Vehicle
from convoy_edge_client.drive.driving import drive
path = Path(sys.argv[1])
vehicle = Vehicle(load_drive_toml(path), path)
vehicle.start()
for _ in range(100):
    vehicle.wheel.answer(np.zeros((120, 160, 3), np.uint8))
vehicle.close()
peak_kb = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({
    "rss_mb": int(peak_kb[1]) / 1024,
    "modules": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""
HEAVY = {"torch", "flwr", "onnx", "pandas", "matplotlib", "gymnasium", "psutil", "rosbags", "cv2"}
NETWORK = {"grpc", "tuf", "securesystemslib", "urllib3"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_process_that_drives_is_small_and_imports_neither_training_nor_network(tmp_path):
    SmallVehicle(tmp_path)
    (tmp_path / "drive.toml").write_text('vehicle = "a"\n[releases]\nfolder = "car"\n')
    process = subprocess.run(
        [sys.executable, "-c", DRIVE, tmp_path / "drive.toml"],
        check=True,
        timeout=100,
        stdout=subprocess.PIPE,
    )
    found = json.loads(process.stdout)
    assert not (HEAVY | NETWORK) & set(found["modules"])
    assert found["rss_mb"] <= 110


@pytest.mark.slow
def test_the_process_beside_it_that_fetches_imports_no_training():
    code = (
        "import sys, convoy_edge_client.updates.process\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=100, stdout=subprocess.PIPE, text=True
    )
    assert not HEAVY & set(process.stdout.split())


SOURCES = [
    *Path(convoy_edge_client.drive.__path__[0]).glob("*.py"),
    *Path(convoy_edge_client.updates.__path__[0]).glob("*.py"),
    Path(convoy_edge_client.toml_file.__file__),
    Path(convoy_driving.onnx_driver.__file__),
    Path(convoy_driving.pictures.__file__),
    *Path(convoy_driving.recordings.__path__[0]).glob("*.py"),
]
NEWER_THAN_3_10 = {"StrEnum", "Self", "UTC", "assert_never", "ExceptionGroup", "file_digest"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_is_written_for_python_3_10(source):
    tree = ast.parse(source.read_text(), feature_version=(3, 10))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not (NEWER_THAN_3_10 | {"tomllib"}) & (names | attributes | imported)
