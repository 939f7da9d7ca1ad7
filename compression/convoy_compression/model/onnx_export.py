"""Write a driving network as one ONNX file that takes the camera's bytes.

Contract of the file:

    input   frames    uint8    (batch, H, W, 3)  RGB; scaling happens inside
    output  steering  float32  (batch, 3)        probabilities of left, straight, right
    output  throttle  float32  (batch,)

Opset 18 and IR 8: what onnxruntime 1.16, the oldest on vehicles, still loads. The same network
gives the same bytes, and nothing in them tells where or from which source lines it was exported.
"""

# Shapes: B batch, H height, W width, 3 colour channels.

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Final

import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from convoy_compression.model.errors import ExportError

OPSET: Final = 18
IR_VERSION: Final = 8
INPUT: Final = "frames"
OUTPUTS: Final = ("steering", "throttle")
BATCH: Final = "batch"

_TRACED_BATCH = 2
"""A batch of one would be taken for a constant."""

_CHATTY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def export_onnx(
    driver: nn.Module, frame_height: int, frame_width: int, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Export a network that takes uint8 frames_BHWC and returns steering_B3, throttle_B.

    Args:
        driver: On the CPU; put into evaluation mode.
        frame_height: Pixels.
        frame_width: Pixels.
        metadata: What the file says about itself; see `set_metadata`.

    Raises:
        ExportError: torch cannot trace the network, or the result is not the contract above.
    """
    driver.eval()
    frames_BHWC = torch.zeros(_TRACED_BATCH, frame_height, frame_width, 3, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                driver,
                (frames_BHWC,),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its passes raise
        raise ExportError(f"torch cannot export the network: {_first_line(error)}") from error
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    ClearMetadataAndDocStringPass()(program.model)
    model = program.model_proto
    model.ir_version = IR_VERSION
    set_metadata(model, metadata)
    _check_contract(model)
    return model


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Replace the file's metadata_props, sorted by key; any onnxruntime can read them."""
    del model.metadata_props[:]
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)


def _check_contract(model: onnx.ModelProto) -> None:
    """The exporter silently raises the opset for some networks, and fixes some batch sizes."""
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if opsets != {"": OPSET}:
        raise ExportError(f"expected opset {OPSET} alone, the exporter gave {opsets}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"not valid ONNX: {_first_line(error)}") from error
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param != BATCH:
            raise ExportError(f"{value.name}: the exporter fixed the batch size")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its own developers off the user's screen.

    Python's warning filter belongs to the whole process, so other threads' warnings are lost
    meanwhile.
    """
    loggers = [logging.getLogger(name) for name in _CHATTY_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
