"""Connections that never become requests: as many as somebody opens, and the server still takes new ones.

Uvicorn waits for the head of a first request without end. Here there is a time for it, and where too many connections
are open, the one that has waited longest makes way.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from flash_sparse_apps.serving.limits import Limits


def bounded(limits: Limits) -> type[H11Protocol]:
    """The protocol for `uvicorn.Config(http=...)`."""
    idle: dict[BoundedProtocol, None] = {}  # connections without a request, the oldest first

    class BoundedProtocol(H11Protocol):
        timer: asyncio.TimerHandle | None = None
        unsent = 0  # bytes of an answer at the last look

        def connection_made(self, transport):
            super().connection_made(transport)
            self._begin_waiting()
            if len(self.connections) > limits.connections:
                next(iter(idle)).transport.abort()

        def data_received(self, data):
            super().data_received(data)
            self._end_waiting()

        def on_response_complete(self):
            self._begin_waiting()
            super().on_response_complete()
            self._end_waiting()

        def connection_lost(self, exc):
            idle.pop(self, None)
            if self.timer is not None:
                self.timer.cancel()
            super().connection_lost(exc)

        def _begin_waiting(self):
            idle.pop(self, None)
            idle[self] = None
            if self.timer is not None:
                self.timer.cancel()
            self.timer = self.loop.call_later(limits.head_seconds, self._give_up)

        def _end_waiting(self):
            if self.cycle is not None and not self.cycle.response_complete:  # a request is being answered
                idle.pop(self, None)
                if self.timer is not None:
                    self.timer.cancel()

        def _give_up(self):
            unsent = self.transport.get_write_buffer_size()
            if 0 < unsent != self.unsent:  # a long answer to a slow reader, who is still reading
                self.unsent = unsent
                self.timer = self.loop.call_later(limits.head_seconds, self._give_up)
            else:
                self.transport.abort()

    return BoundedProtocol
