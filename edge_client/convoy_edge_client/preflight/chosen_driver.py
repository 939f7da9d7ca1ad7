"""Load what the preflight chose, as it was tried: the same bytes, provider and options."""

from pathlib import Path

from convoy_driving.onnx_driver import OnnxDriver
from convoy_edge_client.preflight.checked_file import checked_content
from convoy_edge_client.preflight.choice import Choice
from convoy_edge_client.preflight.preflight_config import Provider
from convoy_protos.release_manifest import ReleaseManifest


def chosen_driver(
    folder: Path, manifest: ReleaseManifest, choice: Choice, *, engine_cache: Path | None = None
) -> OnnxDriver:
    """Open the chosen variant of a release that passed.

    Args:
        folder: With the release's files.
        manifest: Of the report; the file is hashed again, for the disk may have changed it since.
        choice: Of the report.
        engine_cache: As in the preflight: what was built there is not built again.

    Raises:
        ReleaseFileError: The file is not the manifest's any more.
        ModelFileError: onnxruntime does not load it any more.
    """
    name = choice.variant.file_name
    content = checked_content(folder / name, manifest.files[name])
    cache = str(engine_cache.resolve()) if engine_cache is not None else ""
    providers = dict.fromkeys((choice.provider, Provider.CPU))  # what one lacks, the other computes
    return OnnxDriver(
        folder / name,
        content=content,
        providers=[(one.onnxruntime_name, one.options(cache)) for one in providers],
    )
