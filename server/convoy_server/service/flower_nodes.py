"""Tell the SuperLink, through the private door, which nodes may connect."""


class FlowerNodes:
    """A NodeRegistry of convoy_server.service.enrolment_desk."""

    def __init__(self, private_address: str) -> None:
        """Nothing is asked yet.

        Args:
            private_address: HOST:PORT of the private door.
        """
        self._private_address = private_address

    def register(self, node_key: bytes, name: str) -> None:
        """Let a node in.

        Raises:
            ConvoyError: The SuperLink is not up, or refuses.
        """
        from convoy_protos.flower_internals import register_node  # noqa: PLC0415 - Flower is heavy

        register_node(self._private_address, node_key, name)

    def unregister(self, node_key: bytes) -> None:
        """Let it in no more; as `register`."""
        from convoy_protos.flower_internals import unregister_node  # noqa: PLC0415 - Flower is heavy

        unregister_node(self._private_address, node_key)
