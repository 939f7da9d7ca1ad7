"""A vehicle's folder with a factory model and releases of tiny models that behave as told."""

import numpy as np
from onnx import helper

from convoy_edge_client.drive.drive_config import DriveConfig
from convoy_edge_client.updates import states
from convoy_edge_client.updates.states import Record, Slot, State
from convoy_edge_client.updates.update_file import UpdateFile
from convoy_protos.release_manifest import Variant, read_manifest
from convoy_simulation.releases import small_release

CONFIG = DriveConfig(
    swap_window="any",
    rate_hz=1,
    shadow_every=1,
    shadow_frames=5,
    largest_disagreement=2.0,
    trial_frames=20,
    watchdog_s=20.0,
    settled_frames=5,
)
PICTURE = small_release.frames(1)[0]
DARK = np.zeros_like(PICTURE)


def nan_when_bright():
    """The driver, but NaN for a white picture: what no golden vector has found."""
    nodes = [
        helper.make_node("ReduceMin", ["frames_f"], ["darkest"], keepdims=0),
        helper.make_node("Sub", ["darkest", "white"], ["distance"]),
        helper.make_node("Div", ["distance", "distance"], ["one_or_nan"]),
        helper.make_node("Cast", ["frames"], ["frames_f"], to=1),
    ]
    nodes = [nodes[3], *nodes[:3]]
    made = small_release.model(extra_nodes=nodes, extra_constants={"white": np.float32(255.0)})
    scale = next(node for node in made.graph.node if node.output[0] == "scaled")
    scale.output[0] = "plain"
    made.graph.node.insert(
        list(made.graph.node).index(scale) + 1,
        helper.make_node("Mul", ["plain", "one_or_nan"], ["scaled"]),
    )
    return made


class SmallVehicle:
    """Factory model, releases, states."""

    def __init__(self, folder):
        self.folder = folder / "car"
        self.factory = folder / "factory"
        self.file = UpdateFile(self.folder)
        self.write(self.factory, small_release.model(seed=9))

    def write(self, folder, made):
        small_release.write_release(
            folder, {Variant.FP32: made.SerializeToString()}, small_release.golden(made)
        )
        return folder

    def release(self, name, made=None, counter=1):
        """Lay a release out as the updater does."""
        folder = self.folder / "releases" / name
        self.write(folder, made or small_release.model(seed=counter))
        manifest = read_manifest((folder / "manifest.json").read_bytes())
        return Slot(
            release=name,
            counter=counter,
            models=(manifest.files["model.fp32.onnx"].sha256,),
            variant="fp32",
            provider="cpu",
        )

    def at(self, state, candidate=None, committed=None, previous=None):
        """Write a record."""
        self.file.step(
            lambda _: Record(
                state=state, candidate=candidate, committed=committed, previous=previous
            )
        )

    def read(self):
        return self.file.read()

    def spool(self):
        return self.folder / "telemetry.sqlite"


__all__ = ["CONFIG", "DARK", "PICTURE", "SmallVehicle", "State", "nan_when_bright", "states"]
