"""Client apps of a few lines, in an importable file because worker processes must find them."""

import os
import signal
import time

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from convoy_simulation.errors import ClientVanishedError


def obedient() -> ClientApp:
    """Does what the message's record "order" says, then tells who it was and what it saw."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        order = message.content["order"]
        what = str(order["do"])
        if what == "fail":
            raise RuntimeError("the camera fell off")
        if what == "vanish":
            raise ClientVanishedError
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            os._exit(3)
        if what == "sleep":
            time.sleep(float(order["seconds"]))
        if what == "meddle":
            order["do"] = "meddled"
            message.content["metrics"]["loss"][0] = -1.0
        calls = int(context.state.get("calls", MetricRecord({"n": 0}))["n"]) + 1
        context.state["calls"] = MetricRecord({"n": calls})
        seen = {
            "node": context.node_id,
            "calls": calls,
            "pid": os.getpid(),
            "place": str(context.node_config.get("place", "")),
            "run": str(context.run_config.get("run", "")),
        }
        content = RecordDict({"seen": ConfigRecord(seen)})
        if "model" in message.content:
            content["model"] = message.content["model"]
        return Message(content, reply_to=message)

    return app


def unsendable() -> ClientApp:
    """Replies with something that has no pickle."""
    app = ClientApp()

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        reply = Message(RecordDict(), reply_to=message)
        reply.__dict__["_content"] = (each for each in ())
        return reply

    return app


def careless() -> ClientApp:
    """Forgets to reply, and leaves something that is no state."""
    app = ClientApp()

    @app.train()
    def train(_message: Message, context: Context) -> Message:
        context.state = "done"

    return app


def never_built() -> ClientApp:
    """Fails like an app whose package is broken."""
    raise ImportError("no module named 'wheels'")


def dies_while_building() -> ClientApp:
    """Fails like an app that takes its process with it."""
    os._exit(7)


def echoing() -> ClientApp:
    """Sends back the arrays it was sent."""
    app = ClientApp()

    @app.train()
    def train(message: Message, _context: Context) -> Message:
        model = ArrayRecord(dict(message.content["model"]))
        return Message(RecordDict({"model": model}), reply_to=message)

    return app
