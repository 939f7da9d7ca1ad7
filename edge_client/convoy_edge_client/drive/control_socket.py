"""A UNIX socket over gRPC for the vehicle's own controller: it listens to the steering and says how it stands.

Whoever may open the socket's file may listen: it is made for the owner's user alone. A controller that is too
slow gets the newest command, never a queue of old ones.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from numpy.typing import NDArray

from convoy_edge_client.drive.loaded_model import Answer
from convoy_edge_client.drive.trial_rules import VehicleMoment
from convoy_edge_client.errors import FrameSourceError
from convoy_protos.v1.control_pb2 import Command, CommandsRequest, StandReply, StandRequest
from convoy_protos.v1.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server

MAX_CONTROLLERS: Final = 4
_LONGEST_PATH: Final = 100
"""What every kernel takes for the name of a socket."""


class ControlSocket(ControlServicer):
    """The sink behind the socket."""

    def __init__(self, path: Path) -> None:
        """Listen.

        Args:
            path: Of the socket; what a crash has left there is replaced.

        Raises:
            FrameSourceError: It cannot be made there.
        """
        if len(str(path.absolute())) > _LONGEST_PATH:
            raise FrameSourceError(
                f"{path}: the name of a socket has at most {_LONGEST_PATH} bytes"
            )
        self._news = threading.Condition()
        self._newest: Command | None = None
        self._closed = False
        self._moment: VehicleMoment | None = None
        self._path = path
        self._server = grpc.server(
            ThreadPoolExecutor(2 * MAX_CONTROLLERS, thread_name_prefix="convoy-control"),
            maximum_concurrent_rpcs=2 * MAX_CONTROLLERS,
        )
        add_ControlServicer_to_server(self, self._server)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            self._server.add_insecure_port(f"unix:{path.absolute()}")
        except RuntimeError as error:
            raise FrameSourceError(f"{path}: no socket can be made there") from error
        self._server.start()
        path.chmod(0o600)

    def put(self, number: int, picture_HWC: NDArray[np.uint8], answer: Answer) -> None:
        """See Sink."""
        del picture_HWC
        command = Command(
            frame=number,
            steering=answer.steering,
            throttle=answer.throttle,
            release=answer.release,
            latency_ms=answer.latency_ms,
        )
        with self._news:
            self._newest = command
            self._news.notify_all()

    def moment(self) -> VehicleMoment | None:
        """What the controller said last."""
        return self._moment

    def close(self) -> None:
        """Tell the controllers that no more commands come."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._server.stop(grace=1.0).wait()
        self._path.unlink(missing_ok=True)

    def Commands(  # noqa: N802 - gRPC's
        self, request: CommandsRequest, context: grpc.ServicerContext
    ) -> Iterator[Command]:
        """The newest command, whenever there is one."""
        del request
        told = -1
        while context.is_active():
            with self._news:
                self._news.wait_for(lambda told=told: self._closed or self._is_newer(told), 1.0)  # type: ignore[misc]  # mypy takes the default for a parameter
                command = self._newest
                if self._closed:
                    return
            if command is not None and command.frame != told:
                told = command.frame
                yield command

    def Stand(  # noqa: N802 - gRPC's
        self, request: StandRequest, context: grpc.ServicerContext
    ) -> StandReply:
        """How the vehicle stands."""
        del context
        self._moment = VehicleMoment(
            parked=request.parked if request.HasField("parked") else None,
            engaged=request.engaged if request.HasField("engaged") else None,
        )
        return StandReply()

    def _is_newer(self, told: int) -> bool:
        return self._newest is not None and self._newest.frame != told
