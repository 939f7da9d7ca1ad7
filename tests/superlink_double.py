"""A SuperLink of one node in memory, as the agent sees it, with a link that fails when the test says so.

It keeps Flower's rules that an agent must know: a message is handed out once; objects are taken in the
session of an announcement; once the ServerApp has taken a reply, announcing it again says nothing lacks
and opens no session; an object that is there is refused, and nobody says why.
"""

# ruff: noqa: ARG002 - the calls are FleetConnection's, and the double needs less of them

from collections import Counter
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict

from convoy_protos.errors import LinkDownError, LinkRefusedError, NodeUnknownError
from convoy_protos.flower_internals import (
    deflated_message,
    inflated_message,
    object_ids,
    root_object_id,
    server_identity,
)
from convoy_protos.run_bundle import RUN_KEY, build_run_bundle

RUN_ID = 7
NODE_ID = 42
BEFORE, AFTER = "before", "after"
"""A call that fails before the server has heard of it, and one whose answer is lost."""


class Crash(BaseException):
    """The agent's process dies here; nothing catches it."""


@dataclass
class Session:
    """What the server takes.

    Attributes:
        missing: Ids of objects.
        root: Of the reply they belong to.
    """

    missing: set[str]
    root: str


@dataclass
class SuperLinkDouble:
    """See the top.

    Attributes:
        failures: What happens at the n-th call: ("before" | "after", an exception).
        calls: How many there were.
        sent: How often each object has come over the link.
        eager: Whether the ServerApp takes a reply as soon as it is announced.
        waiting: Instructions that no node has been given, by id.
        lost: Instructions that were given to a node that has never heard of them.
        activations: How often the node introduced itself.
        goodbyes: How often it took its leave.
        known: Whether it takes heartbeats of the node.
        run_over: Nothing of the run is taken any more.
        settings: That the run was submitted with.
    """

    failures: dict = field(default_factory=dict)
    eager: bool = True
    calls: int = 0
    sent: Counter = field(default_factory=Counter)
    stored: dict = field(default_factory=dict)
    given: list = field(default_factory=list)
    waiting: dict = field(default_factory=dict)
    open_questions: set = field(default_factory=set)
    announced: dict = field(default_factory=dict)
    sessions: dict = field(default_factory=dict)
    confirmed: list = field(default_factory=list)
    activations: int = 0
    goodbyes: int = 0
    known: bool = True
    lost: list = field(default_factory=list)
    run_over: bool = False
    settings: dict = field(default_factory=lambda: {RUN_KEY: '{"name": "night"}'})

    def ask(self, text, message_type="query.echo", payload=b""):
        """Have an instruction wait for the node; returns its id."""
        record = ConfigRecord({"text": text, "payload": payload})
        with server_identity(run_id=RUN_ID):
            message = Message(RecordDict({"ask": record}), NODE_ID, message_type)
        bare, tree, objects = deflated_message(message)
        key = root_object_id(tree)
        self.waiting[key] = (bare, tree)
        self.open_questions.add(key)
        self.stored |= objects
        return key

    def answer_to(self, key):
        """The reply to an instruction; None where none has come whole."""
        for asked, tree in self.announced.items():
            if asked == key and all(one in self.stored for one in object_ids(tree)):
                return inflated_message(tree, {one: self.stored[one] for one in object_ids(tree)})
        return None

    def expire_sessions(self):
        """Nothing has come for three minutes: what had come of unfinished replies is deleted."""
        for session in self.sessions.values():
            for asked, tree in list(self.announced.items()):
                if root_object_id(tree) == session.root and session.missing:
                    del self.announced[asked]
        self.sessions = {name: one for name, one in self.sessions.items() if not one.missing}

    # What a node calls.

    def activate(self, heartbeat_interval_s):
        return self._call(self._activate)

    def deactivate(self):
        self.goodbyes += 1

    def close(self):
        return None

    def resume(self, node_id):
        return None

    def heartbeat(self, interval_s):
        return self._call(lambda: self.known)

    def pull(self):
        return self._call(self._pull)

    def pull_object(self, run_id, object_id):
        return self._call(lambda: self._pull_object(object_id))

    def confirm(self, run_id, object_id):
        return self._call(lambda: self.confirmed.append(object_id))

    def push(self, reply, tree, runtime_s):
        return self._call(lambda: self._push(tree))

    def push_object(self, run_id, session, object_id, content):
        return self._call(lambda: self._push_object(session, object_id, content))

    def run_bundle(self, run_id):
        return self._call(lambda: (build_run_bundle(self.settings), {}))

    def _call(self, what):
        self.calls += 1
        when, error = self.failures.get(self.calls, ("", None))
        if when == BEFORE:
            raise error
        result = what()
        if when == AFTER:
            if what == self._pull and result is not None:
                self.lost.append(self.given[-1])
            raise error
        return result

    def _activate(self):
        self.activations += 1
        return NODE_ID

    def _pull(self):
        if not self.waiting:
            return None
        key = next(iter(self.waiting))
        bare, tree = self.waiting.pop(key)
        self.given.append(key)
        return RUN_ID, bare, tree

    def _pull_object(self, object_id):
        if self.run_over or object_id not in self.stored:
            raise LinkRefusedError("gone")
        return self.stored[object_id]

    def _push(self, tree):
        if self.run_over:
            raise LinkRefusedError("403: the run is over")
        asked = self.given[-1]  # an agent answers before it asks again
        name = f"session {len(self.sessions)}"
        if asked not in self.open_questions:
            return set(), name
        missing = {one for one in object_ids(tree) if one not in self.stored}
        self.announced[asked] = tree
        self.sessions[name] = Session(missing=set(missing), root=root_object_id(tree))
        if self.eager:
            # The ServerApp looks for replies all the time, and takes what is announced.
            self.open_questions.discard(asked)
        return missing, name

    def _push_object(self, session, object_id, content):
        if self.run_over:
            raise LinkRefusedError("403: the run is over")
        self.sent[object_id] += 1
        names = [session] if session else list(self.sessions)
        for name in names:
            if name in self.sessions and object_id in self.sessions[name].missing:
                self.sessions[name].missing.discard(object_id)
                self.stored[object_id] = content
                return True
        return False


def down():
    """The link is."""
    return LinkDownError("ConnectError")


def unknown():
    """The server restarted and does not know the node."""
    return NodeUnknownError("401")
