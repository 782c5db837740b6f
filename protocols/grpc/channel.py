"""A client's channel: one HTTP/2 connection to one server, which the library opens again by itself when it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from protocols.grpc.chat_pb2_grpc import ChatServiceStub
from shared.client.protocol import ClientCounts
from shared.client.tls import trusted_certificates

if TYPE_CHECKING:
    # The generated stub's type for asyncio exists only for type checkers.
    from protocols.grpc.chat_pb2_grpc import ChatServiceAsyncStub

CONNECT_S = 5.0
# The library doubles its wait after each failure, up to two minutes. Here it tries again soon; ChatClient decides when to give up.
RECONNECT_MS = 200


class ClientChannel:
    """A channel to HOST:PORT that is opened at the first use, and anew after ``aclose``. It connects at the first call.

    ``silence_s``: a connection on which for this long not even a ping is answered is lost. ``gzip``: compress the
    requests. ``tls``: speak TLS, and trust the CA in the PEM file ``ca``, or the system's CAs.
    """

    def __init__(
        self,
        address: str,
        silence_s: float,
        counts: ClientCounts,
        *,
        gzip: bool,
        tls: bool,
        ca: Path | None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        self._address = address
        self._silence_s = silence_s
        self._counts = counts
        self._gzip = gzip
        self._tls = tls
        self._ca = ca
        self._interceptors = interceptors
        self._open: tuple[grpc.aio.Channel, ChatServiceAsyncStub] | None = None
        self._counting: asyncio.Task[None] | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The open channel, for the services beside the chat."""
        return self._opened()[0]

    @property
    def chat(self) -> ChatServiceAsyncStub:
        """The methods of ChatService on the open channel."""
        return self._opened()[1]

    def _opened(self) -> tuple[grpc.aio.Channel, ChatServiceAsyncStub]:
        if self._open is None:
            compression = grpc.Compression.Gzip if self._gzip else None
            options = _options(self._silence_s)
            if self._tls:
                credentials = grpc.ssl_channel_credentials(trusted_certificates(self._ca))
                channel = grpc.aio.secure_channel(self._address, credentials, options, compression, self._interceptors)
            else:
                channel = grpc.aio.insecure_channel(self._address, options, compression, self._interceptors)
            self._open = channel, ChatServiceStub(channel)
            self._counting = asyncio.create_task(self._count_connections(channel))
        return self._open

    async def connect(self) -> bool:
        """Connect, for at most CONNECT_S. False when no server answers."""
        channel = self.channel
        try:
            async with asyncio.timeout(CONNECT_S):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        return False
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        return True

    async def _count_connections(self, channel: grpc.aio.Channel) -> None:
        """The library connects, and connects again, by itself: a connection counts whenever the channel becomes ready."""
        while (state := channel.get_state()) is not grpc.ChannelConnectivity.SHUTDOWN:
            self._counts.connections += state is grpc.ChannelConnectivity.READY
            await channel.wait_for_state_change(state)

    async def aclose(self) -> None:
        """Close the connection. The calls on it are cancelled."""
        was_open, counting = self._open, self._counting
        self._open = self._counting = None
        if counting is not None:
            counting.cancel()
            await asyncio.wait((counting,))
        if was_open is not None:
            await was_open[0].close(None)


def _options(silence_s: float) -> tuple[tuple[str, int], ...]:
    half_ms = int(silence_s * 500)
    return (
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # A ping after half of the time, and its answer within the other half.
        ("grpc.keepalive_time_ms", half_ms),
        ("grpc.keepalive_timeout_ms", half_ms),
        ("grpc.http2.ping_timeout_ms", half_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
        # In spite of its name this option is the longest time that one attempt may take, SETTINGS included.
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
        # A connection of this channel alone; the library otherwise shares one with other channels to the same address.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    )
