"""The few names that Flower does not publish and that running its apps without a runtime needs.

No other file of this repository imports from flwr beyond flwr.app, flwr.clientapp and
flwr.serverapp. When a Flower release moves something, this is the file to change;
tests/protos/test_flower_internals.py says which.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from convoy_protos.door_bell import BELL_PATH, HOLD_S, MAX_HEARD
from convoy_protos.errors import (
    LinkDownError,
    LinkRefusedError,
    MalformedMessageError,
    NodeUnknownError,
    SuperLinkError,
)

__all__ = [
    "CLIENT_APP_CRASHED",
    "CLIENT_APP_RAISED",
    "SERVER_NODE_ID",
    "Run",
    "empty_run",
    "error_reply",
    "make_context",
    "message_with_content",
    "server_identity",
    "set_message_id",
]

SERVER_NODE_ID = 1
"""The node id that Flower gives to the server side."""

CLIENT_APP_RAISED = int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
CLIENT_APP_CRASHED = int(ErrorCode.CLIENT_APP_CRASHED)


@contextmanager
def server_identity(run_id: int = 1) -> Iterator[None]:
    """Let this process build instruction Messages, as if it were the ServerApp of run `run_id`.

    Flower keeps the identity in the process; what was there before comes back at the end.
    """
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SERVER_NODE_ID, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def make_context(
    node_id: int,
    node_config: UserConfig | None = None,
    run_config: UserConfig | None = None,
    *,
    run_id: int = 1,
    state: RecordDict | None = None,
) -> Context:
    """What Flower hands to a handler beside the message."""
    return Context(
        run_id=run_id,
        node_id=node_id,
        node_config=dict(node_config or {}),
        state=RecordDict() if state is None else state,
        run_config=dict(run_config or {}),
    )


def set_message_id(message: Message, message_id: str) -> None:
    """Name a message, which only Flower's SuperLink does otherwise."""
    message.metadata.__dict__["_message_id"] = message_id


def set_replied_to(reply: Message, message_id: str) -> None:
    """Make it the reply to another message, which asked for the same."""
    reply.metadata.__dict__["_reply_to_message_id"] = message_id


def message_with_content(message: Message, content: RecordDict) -> Message:
    """The same message with other content; the metadata is shared."""
    return make_message(metadata=message.metadata, content=content)


def error_reply(message: Message, code: int, reason: str) -> Message:
    """The reply of a client that failed, as Flower's runtimes send it."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def empty_run(run_id: int) -> Run:
    """A description of a run that no SuperLink knows."""
    return Run.create_empty(run_id)


# The Control API: who may connect. Reached through the server's private door.


def register_node(private_address: str, public_key_openssh: bytes, name: str) -> None:
    """Let the node with this EC key in; one that may come in already stays.

    Args:
        private_address: HOST:PORT of the SuperLink's private door.
        public_key_openssh: EC P-384, OpenSSH's format.
        name: What lists of nodes call it.

    Raises:
        SuperLinkError: The SuperLink is not up, or refuses.
    """
    from flwr.proto.control_pb2 import RegisterNodeRequest  # noqa: PLC0415

    key = _flower_key(public_key_openssh)
    if key in _registered_nodes(private_address):
        return
    with _control(private_address) as control:
        control.RegisterNode(RegisterNodeRequest(public_key=key, name=name))


def unregister_node(private_address: str, public_key_openssh: bytes) -> None:
    """Let the node with this key in no more.

    Raises:
        SuperLinkError: As `register_node`.
    """
    from flwr.proto.control_pb2 import UnregisterNodeRequest  # noqa: PLC0415

    node_id = _registered_nodes(private_address).get(_flower_key(public_key_openssh))
    if node_id is not None:
        with _control(private_address) as control:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node_id))


def _registered_nodes(private_address: str) -> dict[bytes, int]:
    """Node ids by public key, as Flower writes it."""
    from flwr.proto.control_pb2 import ListNodesRequest  # noqa: PLC0415

    with _control(private_address) as control:
        nodes = control.ListNodes(ListNodesRequest()).nodes_info
    return {bytes(node.public_key): node.node_id for node in nodes if node.status != "unregistered"}


def _flower_key(public_key_openssh: bytes) -> bytes:
    """A node's key as Flower's requests carry it."""
    from cryptography.hazmat.primitives.asymmetric.ec import (  # noqa: PLC0415
        EllipticCurvePublicKey,
    )
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key  # noqa: PLC0415
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: PLC0415

    key = load_ssh_public_key(public_key_openssh)
    if not isinstance(key, EllipticCurvePublicKey):
        raise TypeError(f"a node's key must be an EC key, got {type(key).__name__}")
    return public_key_to_bytes(key)


@contextmanager
def _control(private_address: str) -> Iterator[Any]:
    from flwr.supercore.control import ControlHttpClient  # noqa: PLC0415
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # noqa: PLC0415

    interceptors = [RuntimeVersionHttpInterceptor(component_name="flwr CLI")]
    client = ControlHttpClient.from_server_address(private_address, True, None, interceptors)
    with _superlink_errors(private_address, client):
        yield client


# The Fleet API: what a node says to the SuperLink.

_CALL_BYTES = 1500
"""Headers, signature and TLS records of a call and its answer, about."""
_BELL_BYTES = 700
"""The same of a wait at the door, which is not signed."""
_BELL_PATIENCE_S = HOLD_S + 10.0
_KEEP_OPEN_S = 60.0
"""Longer than the pause between two questions, shorter than what the server allows (75 s)."""


class FleetConnection:
    """One node's calls to the SuperLink, over TLS, signed with the node's key; never repeats by itself.

    Every method raises LinkError: the link is down, or the server refuses.
    """

    def __init__(
        self,
        address: str,
        root_certificates: bytes,
        node_key_openssh: bytes,
        count_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            address: HOST:PORT.
            root_certificates: PEM of the CA that is trusted, and no other.
            node_key_openssh: Private key, EC P-384, OpenSSH's format.
            count_bytes: Told about what each call moves, an estimate for headers and TLS included.
        """
        from cryptography.hazmat.primitives.asymmetric.ec import (  # noqa: PLC0415
            EllipticCurvePrivateKey,
        )
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            load_ssh_private_key,
        )
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # noqa: PLC0415
        from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: PLC0415
        from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: PLC0415
        from flwr.supernode.node_auth_http_interceptor import (  # noqa: PLC0415
            NodeAuthHttpInterceptor,
        )

        key = load_ssh_private_key(node_key_openssh, None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise TypeError(f"the node's key must be an EC key, got {type(key).__name__}")
        self._public_key = public_key_to_bytes(key.public_key())
        self._count_bytes = count_bytes
        self._node: Any = None
        self._client: Any = FleetHttpClient.from_server_address(
            address,
            False,
            root_certificates,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        # Flower's client lets go of a connection after 5 s: every question of an idle node would begin
        # with a handshake, which costs three times what the question does.
        self._http: Any = self._client._client
        self._bell = f"{self._client._base_url}{BELL_PATH}"
        transport: Any = self._http._transport
        transport._pool._keepalive_expiry = _KEEP_OPEN_S

    def close(self) -> None:
        """Close the connection; the server learns nothing by it."""
        self._client.close()

    def resume(self, node_id: int) -> None:
        """Be the node of an earlier `activate`, which the server refuses while that one seems to live."""
        from flwr.proto.node_pb2 import Node  # noqa: PLC0415

        self._node = Node(node_id=node_id)

    def activate(self, heartbeat_interval_s: float) -> int:
        """Say that the node is there, for so long; returns its id."""
        from flwr.proto.fleet_pb2 import ActivateNodeRequest  # noqa: PLC0415
        from flwr.proto.node_pb2 import Node  # noqa: PLC0415

        request = ActivateNodeRequest(
            public_key=self._public_key, heartbeat_interval=heartbeat_interval_s
        )
        with self._call():
            self._node = Node(node_id=self._client.ActivateNode(request).node_id)
        return int(self._node.node_id)

    def deactivate(self) -> None:
        """Say goodbye."""
        from flwr.proto.fleet_pb2 import DeactivateNodeRequest  # noqa: PLC0415

        if self._node is not None:
            with self._call():
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))

    def heartbeat(self, interval_s: float) -> bool:
        """Say that the node is still there; False: the server does not know it."""
        from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest  # noqa: PLC0415

        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=interval_s)
        with self._call():
            return bool(self._client.SendNodeHeartbeat(request).success)

    def pull(self) -> tuple[int, bytes, bytes] | None:
        """The next message for this node; None: none waits.

        Returns:
            Its run, the message without content and the tree of its objects, both serialized.
        """
        from flwr.proto.fleet_pb2 import PullMessagesRequest  # noqa: PLC0415

        with self._call():
            response = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not response.messages_list:
            return None
        message, tree = response.messages_list[0], response.message_object_trees[0]
        return message.metadata.run_id, message.SerializeToString(), tree.SerializeToString()

    def wait_for_call(self, heard: str) -> str | None:
        """Wait until a message may be there, for `door_bell.HOLD_S` at most.

        Args:
            heard: What this returned last; empty at first.

        Returns:
            What has been heard by now; None: the server has no bell.
        """
        import httpx  # noqa: PLC0415

        self._count_bytes(_BELL_BYTES)
        question = {"node": str(self._node.node_id), "heard": heard}
        with _fleet_errors():
            answer = self._http.get(self._bell, params=question, timeout=_BELL_PATIENCE_S)
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            answer.raise_for_status()
        return str(answer.text)[:MAX_HEARD]

    def pull_object(self, run_id: int, object_id: str) -> bytes | None:
        """The bytes of an object; None: the server does not have it whole yet."""
        from flwr.proto.message_pb2 import PullObjectRequest  # noqa: PLC0415

        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        with self._call():
            response = self._client.PullObject(request)
        self._count_bytes(len(response.object_content))
        if not response.object_found:
            raise LinkRefusedError(f"object {object_id[:12]} is gone: its run has ended")
        return response.object_content if response.object_available else None

    def confirm(self, run_id: int, object_id: str) -> None:
        """Say that a message has come whole."""
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest  # noqa: PLC0415

        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run_id, message_object_id=object_id
        )
        with self._call():
            self._client.ConfirmMessageReceived(request)

    def push(self, reply: bytes, tree: bytes, runtime_s: float) -> tuple[set[str], str]:
        """Announce a reply.

        Returns:
            The ids of the objects that the server still lacks, and the session in which it takes them.
            No ids: it has them all, or does not wait for this reply; the SuperLink does not say which.
        """
        from flwr.proto.fleet_pb2 import PushMessagesRequest  # noqa: PLC0415
        from flwr.proto.message_pb2 import Message as ProtoMessage  # noqa: PLC0415
        from flwr.proto.message_pb2 import ObjectTree  # noqa: PLC0415

        request = PushMessagesRequest(
            node=self._node,
            messages_list=[ProtoMessage.FromString(reply)],
            message_object_trees=[ObjectTree.FromString(tree)],
            clientapp_runtime_list=[runtime_s],
        )
        with self._call():
            response = self._client.PushMessages(request)
        return set(response.objects_to_push), response.session_id

    def push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> bool:
        """Hand over one object.

        Args:
            run_id: Of its run.
            session: From `push`; empty: whichever session waits for the object.
            object_id: Digest of the content.
            content: At most what `set_chunk_bytes` says, and a header.

        Returns:
            False: nobody waits for it; it is there already, or the session is over.
        """
        from flwr.proto.message_pb2 import PushObjectRequest  # noqa: PLC0415

        request = PushObjectRequest(
            node=self._node,
            run_id=run_id,
            object_id=object_id,
            object_content=content,
            session_id=session,
        )
        self._count_bytes(len(content))
        with self._call():
            return bool(self._client.PushObject(request).stored)

    def run_bundle(self, run_id: int) -> tuple[bytes, dict[str, Any]]:
        """The bundle that a run was submitted with, and the settings that override those in it."""
        from flwr.common.serde import run_from_proto  # noqa: PLC0415
        from flwr.proto.fab_pb2 import GetFabRequest  # noqa: PLC0415
        from flwr.proto.run_pb2 import GetRunRequest  # noqa: PLC0415

        with self._call():
            answer = self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id))
            run = run_from_proto(answer.run)
            request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
            content = self._client.GetFab(request).fab.content
        return content, dict(run.override_config)

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._count_bytes(_CALL_BYTES)
        with _fleet_errors():
            yield


@contextmanager
def _fleet_errors() -> Iterator[None]:
    import httpx  # noqa: PLC0415

    try:
        yield
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        text = f"{code}: {error.response.text[:200]}"
        if code >= 500 or code in (408, 429):
            raise LinkDownError(text) from error
        if code == 401:
            raise NodeUnknownError(text) from error
        raise LinkRefusedError(text) from error
    except httpx.HTTPError as error:
        raise LinkDownError(f"{type(error).__name__}: {error}") from error
    except ValueError as error:  # how Flower's client says that the answer does not parse
        raise LinkDownError(f"the answer is none of a SuperLink's: {error}") from error


def object_ids(tree: bytes) -> list[str]:
    """Of all objects in a serialized tree, the message's own among them.

    Raises:
        MalformedMessageError: It is none.
    """
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree  # noqa: PLC0415

    # One that is twice in the tree is sent once.
    return list(dict.fromkeys(one.object_id for one in iterate_object_tree(_object_tree(tree))))


def root_object_id(tree: bytes) -> str:
    """Of the message itself.

    Raises:
        MalformedMessageError: It is no tree.
    """
    return str(_object_tree(tree).object_id)


def _object_tree(tree: bytes) -> Any:
    from flwr.proto.message_pb2 import ObjectTree  # noqa: PLC0415
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        return ObjectTree.FromString(tree)
    except DecodeError as error:
        raise MalformedMessageError("the tree of a message's objects does not parse") from error


def inflated_message(tree: bytes, contents: Mapping[str, bytes]) -> Message:
    """The message that was sent, from the objects in its tree.

    Raises:
        MalformedMessageError: They are none, or do not fit together.
    """
    return _inflated(root_object_id(tree), contents)


def _inflated(root: str, contents: Mapping[str, bytes]) -> Message:
    from flwr.supercore.inflatable.inflatable_utils import (  # noqa: PLC0415
        inflate_object_from_contents,
    )

    try:
        message = inflate_object_from_contents(root, dict(contents))
    except Exception as error:  # Flower's decoders raise whatever the bytes make them
        raise MalformedMessageError(f"not a message: {type(error).__name__}: {error}") from error
    if not isinstance(message, Message):
        raise MalformedMessageError(f"expected a message, got {type(message).__name__}")
    set_message_id(message, root)
    return message


def deflated_message(message: Message) -> tuple[bytes, bytes, dict[str, bytes]]:
    """A reply as it travels: serialized without content, its object tree, its objects by id."""
    from flwr.app.message import remove_content_from_message  # noqa: PLC0415
    from flwr.common.serde import message_to_proto  # noqa: PLC0415
    from flwr.supercore.inflatable.inflatable_object import (  # noqa: PLC0415
        get_all_nested_objects,
        get_object_tree,
        no_object_id_recompute,
    )

    with no_object_id_recompute():
        set_message_id(message, message.object_id)
        tree = get_object_tree(message)
        objects = {key: each.deflate() for key, each in get_all_nested_objects(message).items()}
        bare = remove_content_from_message(message) if message.has_content() else message
        return message_to_proto(bare).SerializeToString(), tree.SerializeToString(), objects


def set_chunk_bytes(byte_count: int) -> None:
    """Into pieces of what size this process cuts the arrays that it sends."""
    from flwr.app.message import array  # noqa: PLC0415

    # Read from the environment at import; a module's constant is all there is afterwards.
    array.__dict__["FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"] = byte_count


@contextmanager
def node_identity(run_id: int, node_id: int) -> Iterator[None]:
    """Let this process build Messages as that node, as in `server_identity`."""
    before = (TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, 1
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = before


def record_bytes(record: RecordDict) -> bytes:
    """A node's state, serialized."""
    from flwr.common.serde import recorddict_to_proto  # noqa: PLC0415

    return recorddict_to_proto(record).SerializeToString()


def record_from_bytes(content: bytes) -> RecordDict:
    """What `record_bytes` has written."""
    from flwr.common.serde import recorddict_from_proto  # noqa: PLC0415
    from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict  # noqa: PLC0415

    return recorddict_from_proto(ProtoRecordDict.FromString(content))


# The SuperLink itself, and what executes a run's ServerApp. For the server alone.


PUSH_PATH: Final = "/v1/runtime/push-messages"
"""Where a ServerApp hands its messages to the SuperLink."""


def addressed_nodes(request: bytes) -> set[int]:
    """To which nodes the messages go that a ServerApp hands over at PUSH_PATH; none where it hands over none."""
    from flwr.proto.runtime_pb2 import PushAppMessagesRequest  # noqa: PLC0415
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        messages = PushAppMessagesRequest.FromString(request).messages_list
    except DecodeError:
        return set()
    return {message.metadata.dst_node_id for message in messages}


def make_superlink(
    *, host: str, port: int, database: str, certificate: str, key: str, ca: str
) -> Any:
    """Flower's SuperLink as an ASGI app: state on disk, node authentication on, nothing installed at run time.

    Args:
        host: Where the caller will serve it.
        port: TCP.
        database: SQLite file.
        certificate: PEM file of the server; node authentication is only offered beside TLS.
        key: PEM file of its private key.
        ca: PEM file of the CA.
    """
    import sys  # noqa: PLC0415

    from flwr.supercore.corestate import sql_corestate  # noqa: PLC0415
    from flwr.superlink.cli.flower_superlink import (  # noqa: PLC0415
        SuperLinkLifespan,
        _parse_superlink_lifespan_config,
    )
    from flwr.superlink.main import create_app  # noqa: PLC0415

    before = sys.argv
    sys.argv = [
        "flower-superlink",
        *("--host", host, "--port", str(port), "--database", database),
        *("--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-ca-certfile", ca),
        *("--isolation", "process", "--enable-supernode-auth"),
        "--disable-runtime-dependency-installation",
    ]
    try:
        config = _parse_superlink_lifespan_config()
    finally:
        sys.argv = before
    sql_corestate.__dict__["OBJECT_PUSH_SESSION_TTL_SECONDS"] = _UPLOAD_PATIENCE_S
    app = create_app(config, SuperLinkLifespan)
    # Each costs half a millisecond a request, and a round has hundreds; who authenticates stays.
    app.user_middleware = [
        each for each in app.user_middleware if _name_of(each.cls) not in _IDLE_MIDDLEWARE
    ]
    return app


_UPLOAD_PATIENCE_S = 3600
"""For so long an upload that was cut can go on. Flower's three minutes are less than a fuel stop takes."""


def _name_of(kind: Any) -> str:
    return str(kind.__name__)


_IDLE_MIDDLEWARE = frozenset(
    {
        "ControlSensitiveResponseMiddleware",  # keeps tokens of Flower's hosted service out of caches
        "ControlLicenseMiddleware",  # of Flower's enterprise edition, as are both event logs
        "ControlEventLogMiddleware",
        "FleetEventLogMiddleware",
        "RuntimeTracingMiddleware",  # does nothing without FLWR_TRACING_ENABLED
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTask:
    """A run whose ServerApp we have taken on.

    Attributes:
        token: Lets its holder act as the ServerApp; a secret.
        run_id: Flower's.
        task_id: Flower's.
        node_id: Of the server's side.
    """

    token: str
    run_id: int
    task_id: int
    node_id: int


def start_run(private_address: str, bundle: bytes) -> int:
    """Submit a run; returns Flower's id of it.

    Raises:
        SuperLinkError: The SuperLink is not up, or refuses.
    """
    import hashlib  # noqa: PLC0415

    from flwr.common.serde import fab_to_proto  # noqa: PLC0415
    from flwr.proto.control_pb2 import StartRunRequest  # noqa: PLC0415
    from flwr.supercore.fab import Fab  # noqa: PLC0415

    fab = fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {}))
    with _control(private_address) as control:
        return int(control.StartRun(StartRunRequest(fab=fab)).run_id)


def stop_run(private_address: str, run_id: int) -> None:
    """End a run; its ServerApp hears of it with its next heartbeat.

    Raises:
        SuperLinkError: As `start_run`.
    """
    from flwr.proto.control_pb2 import StopRunRequest  # noqa: PLC0415

    with _control(private_address) as control:
        control.StopRun(StopRunRequest(run_id=run_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How far the SuperLink says that a run is.

    Attributes:
        bundle_sha256: Of the bundle it was submitted with; a run that goes on as another has the same.
        status: "pending", "starting", "running" or "finished".
        end: How it finished: "completed", "failed" or "stopped"; empty before.
        details: Why it failed; else empty.
    """

    bundle_sha256: str
    status: str
    end: str
    details: str


def run_outcomes(private_address: str) -> dict[int, RunOutcome]:
    """Every run that the SuperLink knows, by Flower's id.

    Raises:
        SuperLinkError: As `start_run`.
    """
    from flwr.proto.control_pb2 import ListRunsRequest  # noqa: PLC0415

    with _control(private_address) as control:
        runs = control.ListRuns(ListRunsRequest()).run_dict
    return {
        run_id: RunOutcome(
            bundle_sha256=run.fab_hash,
            status=run.status.status,
            end=run.status.sub_status,
            details=run.status.details,
        )
        for run_id, run in runs.items()
    }


def take_task(private_address: str) -> tuple[ServerTask, bytes] | None:
    """Take on the next run that waits, with the bundle it was submitted with; None: none waits.

    Raises:
        SuperLinkError: As `start_run`.
    """
    from flwr.proto.runtime_pb2 import (  # noqa: PLC0415
        AcquireTaskRequest,
        PullTaskInputRequest,
    )

    with _runtime(private_address) as runtime:
        taken = runtime.AcquireTask(
            AcquireTaskRequest(supported_task_types={"flwr-serverapp"}, agentapp_fab_hashes=set())
        )
    if not (taken.HasField("task") and taken.token):
        return None
    with _runtime(private_address, taken.token) as runtime:
        found = runtime.PullTaskInput(PullTaskInputRequest())
    task = ServerTask(
        token=taken.token,
        run_id=found.run.run_id,
        task_id=found.task_id,
        node_id=found.context.node_id,
    )
    return task, found.fab.content


def keep_task(private_address: str, task: ServerTask) -> bool:
    """Say that the task is still worked on; False: the SuperLink has given it up.

    Raises:
        SuperLinkError: The SuperLink is not up.
    """
    import httpx  # noqa: PLC0415
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest  # noqa: PLC0415

    try:
        with _runtime(private_address, task.token) as runtime:
            return bool(runtime.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
    except SuperLinkError as error:
        cause = error.__cause__
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code in (401, 403):
            return False
        raise


def finish_task(private_address: str, task: ServerTask, failure: str = "") -> None:
    """Report how a run has ended.

    Args:
        private_address: HOST:PORT.
        task: Which.
        failure: Why it failed; empty: it did not.

    Raises:
        SuperLinkError: As `start_run`.
    """
    from flwr.common.constant import SubStatus  # noqa: PLC0415
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest  # noqa: PLC0415

    status = SubStatus.FAILED if failure else SubStatus.COMPLETED
    with _runtime(private_address, task.token) as runtime:
        runtime.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=failure))


def act_as_server(private_address: str, task: ServerTask) -> Any:
    """Flower's Grid for the ServerApp of a task; this process builds its Messages from now on.

    Unlike Flower's own it waits for nobody: a reply that is announced and not yet there whole is no reply.
    """
    TaskIdentity.run_id, TaskIdentity.node_id = task.run_id, task.node_id
    TaskIdentity.task_id = task.task_id
    grid = _impatient_grid(private_address, task.token)
    grid.set_run(empty_run(task.run_id))
    return grid


def _impatient_grid(private_address: str, token: str) -> Any:
    """Flower's own waits inside `pull_messages` for the last object, however slow its sender's link is.

    Meanwhile it looks at no other reply and at no deadline: three minutes where a sender is gone.
    """
    from flwr.proto.message_pb2 import (  # noqa: PLC0415
        ConfirmMessageReceivedRequest,
        PullObjectRequest,
    )
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest  # noqa: PLC0415
    from flwr.superlink.grid import HttpGrid  # noqa: PLC0415

    class ImpatientGrid(HttpGrid):
        """Keeps what has come of replies that are on their way; yields one reply after the other."""

        yields_replies = True

        def __init__(self) -> None:
            super().__init__(private_address, insecure=True, token=token)
            self._coming: dict[str, _ComingReply] = {}

        def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
            """Replies to these that have come whole; the next one is put together when it is asked for."""
            asked = list(message_ids)
            # Nobody waits for the others any more.
            self._coming = {key: self._coming[key] for key in asked if key in self._coming}
            unseen = [key for key in asked if key not in self._coming]
            if unseen:
                request = PullAppMessagesRequest(message_ids=unseen)
                answer = self._runtime_client.PullMessages(request)
                for message, tree in zip(
                    answer.messages_list, answer.message_object_trees, strict=True
                ):
                    self._coming[message.metadata.reply_to_message_id] = _ComingReply(
                        root=tree.object_id, missing=object_ids(tree.SerializeToString())
                    )
            for key in [key for key in asked if key in self._coming]:
                box = self._finished(key)
                if box:
                    yield box.pop()

        def _finished(self, key: str) -> list[Message]:
            """The reply alone in a list, so that nobody holds it once it is taken; none: it is coming."""
            coming = self._coming[key]
            while coming.missing:
                request = PullObjectRequest(
                    node=self.node, run_id=self.run.run_id, object_id=coming.missing[-1]
                )
                answer = self._runtime_client.PullObject(request)
                if not answer.object_found:
                    del self._coming[key]
                    return [_lost_reply(self.run.run_id, key, "it never came whole")]
                if not answer.object_available:
                    return []
                coming.contents[coming.missing.pop()] = answer.object_content
            del self._coming[key]
            self._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self.node, run_id=self.run.run_id, message_object_id=coming.root
                )
            )
            try:
                return [_inflated(coming.root, coming.contents)]
            except MalformedMessageError as error:
                return [_lost_reply(self.run.run_id, key, str(error))]

    return ImpatientGrid()


@dataclass(slots=True, kw_only=True)
class _ComingReply:
    """A reply whose sender has announced it.

    Attributes:
        root: Id of the message itself.
        missing: Ids of the objects that have not come.
        contents: Of those that have, by id.
    """

    root: str
    missing: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)


def _lost_reply(run_id: int, key: str, why: str) -> Message:
    """As Flower's own grid tells of a sender who was gone for so long that what had come is deleted."""
    import time  # noqa: PLC0415

    from flwr.app import Metadata  # noqa: PLC0415
    from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE  # noqa: PLC0415

    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=SERVER_NODE_ID,
        dst_node_id=SERVER_NODE_ID,
        reply_to_message_id=key,
        group_id="",
        created_at=time.time(),
        ttl=0.0,
        message_type=SYSTEM_MESSAGE_TYPE,
    )
    error = Error(code=int(ErrorCode.MESSAGE_UNAVAILABLE), reason=f"a reply was announced: {why}")
    return make_message(metadata=metadata, error=error)


@contextmanager
def _runtime(private_address: str, token: str = "") -> Iterator[Any]:
    from flwr.supercore.interceptors import (  # noqa: PLC0415
        RuntimeTokenHttpInterceptor,
        RuntimeVersionHttpInterceptor,
    )
    from flwr.supercore.runtime import RuntimeHttpClient  # noqa: PLC0415

    interceptors: list[Any] = [RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")]
    if token:
        interceptors.append(RuntimeTokenHttpInterceptor(token))
    client = RuntimeHttpClient.from_server_address(private_address, True, None, interceptors)
    with _superlink_errors(private_address, client):
        yield client


@contextmanager
def _superlink_errors(private_address: str, client: Any) -> Iterator[None]:
    import httpx  # noqa: PLC0415

    try:
        yield
    except httpx.HTTPStatusError as error:
        raise SuperLinkError(
            f"the SuperLink at {private_address} refuses: "
            f"{error.response.status_code} {error.response.text[:200]}"
        ) from error
    except httpx.HTTPError as error:
        raise SuperLinkError(f"the SuperLink at {private_address} is not up: {error}") from error
    finally:
        client.close()
