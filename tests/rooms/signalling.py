"""The door of a livekit-server, knocked at without the SDK: it shows the refresh token that the server hands to each client."""

import asyncio
from urllib.parse import urlencode

from livekit.protocol import rtc
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

SOON_S = 10.0


async def knock(url: str, token: str) -> tuple[int, str]:
    """Try to come in: the HTTP status of a refusal, or 101 with the refresh token."""
    query = urlencode({"access_token": token, "auto_subscribe": "1", "protocol": "15", "sdk": "python"})
    try:
        async with asyncio.timeout(SOON_S), connect(f"{url}/rtc?{query}", proxy=None) as socket:
            async for said in socket:
                answer = rtc.SignalResponse()
                answer.ParseFromString(said if isinstance(said, bytes) else said.encode())
                if answer.refresh_token:
                    return 101, answer.refresh_token
    except InvalidStatus as refused:
        return refused.response.status_code, ""
    except ConnectionClosed:
        pass
    return 0, ""
