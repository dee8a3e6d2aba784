"""Parts from Kafka over TLS without waiting for its goodbye."""

from typing import Any

from aiokafka.conn import AIOKafkaConnection

PATIENCE = 1.0  # seconds for what was sent to go out, and for TLS to be closed on both sides


def part() -> None:
    """Let no connection in this process take longer than PATIENCE to close.

    A broker that does not answer the end of TLS is waited for 30 s by asyncio and uvloop alike,
    and so was every SIGTERM. By then nothing is left to say: all was acknowledged before.
    """
    if hasattr(AIOKafkaConnection, "parts"):
        return
    close = AIOKafkaConnection.close

    def parting(self: Any, reason: Any = None, exc: Any = None) -> Any:
        writer = self._writer
        closed = close(self, reason, exc)
        if writer is not None and closed is not None and not closed.done():
            closed.get_loop().call_later(PATIENCE, writer.transport.abort)
        return closed

    AIOKafkaConnection.parts = True  # pyright: ignore[reportAttributeAccessIssue]
    AIOKafkaConnection.close = parting
