"""What every provider must do: subclass ``ProviderContract`` as ``Test…``, name its ``provider_class`` and override two fixtures.

``config`` is a backend that works, ``unreachable_config`` one that cannot be reached (with its secrets, where the provider takes any).
Backends are asked for real; nothing here knows which one it is. What concerns relayed audio is skipped for providers that do not relay,
and the other way round, by their capabilities.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest

from sessions_app.providers.base import BackendConfig, OpenRequest, Provider, ProviderEvent, ProviderSession
from sessions_app.providers.exceptions import InvalidConfig, NotRelayed, ProviderError

LIMIT_S = 10.0
REASONS = {"connection_failed", "timeout", "invalid_config", "provider_failed", "pipeline_error", "agent_absent"}


def request_for(provider: Provider, **changes: Any) -> OpenRequest:
    """An admitted session that this provider can serve."""
    fields: dict[str, Any] = {
        "session_id": uuid4(),
        "tenant": "demo",
        "user": "ann",
        "pipeline": min(provider.capabilities.pipelines),
        "transport": min(provider.capabilities.transports),
        "max_duration_s": 600,
    }
    return OpenRequest(**fields | changes)


async def held_ids(provider: Provider) -> list[UUID | None]:
    return [live.session_id for live in await provider.list_live()]


def relayed_only(provider: Provider) -> None:
    if not provider.capabilities.relayed:
        pytest.skip("media does not pass through the platform")


async def drain(stream: AsyncIterator[bytes | ProviderEvent]) -> None:
    async for _ in stream:
        pass


class ProviderContract:
    """The suite."""

    provider_class: ClassVar[type[Provider]]

    @pytest.fixture
    def config(self) -> BackendConfig:
        """A backend that works."""
        raise NotImplementedError

    @pytest.fixture
    def unreachable_config(self) -> BackendConfig:
        """A backend that cannot be reached."""
        raise NotImplementedError

    @pytest.fixture
    async def provider(self, config: BackendConfig) -> AsyncIterator[Provider]:
        provider = self.provider_class(config)
        yield provider
        await provider.aclose()

    @pytest.fixture
    async def unreachable(self, unreachable_config: BackendConfig) -> AsyncIterator[Provider]:
        provider = self.provider_class(unreachable_config)
        yield provider
        await provider.aclose()

    @pytest.fixture(autouse=True)
    async def _limit(self) -> AsyncIterator[None]:
        async with asyncio.timeout(LIMIT_S * 3):
            yield

    def test_it_can_be_made_in_a_thread_without_an_event_loop(self, config: BackendConfig) -> None:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self.provider_class, config).result()

    def test_an_unknown_option_is_refused_by_name(self, config: BackendConfig) -> None:
        with pytest.raises(InvalidConfig, match="no_such_option"):
            self.provider_class(replace(config, options={**config.options, "no_such_option": 1}))

    async def test_its_capabilities_make_sense(self, provider: Provider) -> None:
        capabilities = provider.capabilities
        assert provider.name
        assert capabilities.transports
        assert capabilities.transports <= {"websocket", "webrtc"}
        assert capabilities.pipelines
        assert capabilities.pipelines <= {"s2s", "stt_tts"}
        assert bool(capabilities.audio) == capabilities.relayed
        assert provider.capabilities == capabilities

    async def test_an_opened_session_has_a_name_and_a_way_in(self, provider: Provider) -> None:
        request = request_for(provider)
        session = await provider.open(request)
        assert session.session_id == request.session_id
        assert session.resource
        json.dumps(dict(session.client))
        if provider.capabilities.relayed:
            assert session.audio in provider.capabilities.audio
        else:
            assert session.audio is None
            assert session.client
        await provider.close(session)

    async def test_every_pipeline_and_transport_that_it_names_can_be_opened(self, provider: Provider) -> None:
        for pipeline in provider.capabilities.pipelines:
            for transport in provider.capabilities.transports:
                await provider.close(await provider.open(request_for(provider, pipeline=pipeline, transport=transport)))

    async def test_every_audio_format_that_it_names_can_be_had(self, provider: Provider) -> None:
        relayed_only(provider)
        for audio in provider.capabilities.audio:
            session = await provider.open(request_for(provider, audio=audio))
            assert session.audio == audio
            await provider.close(session)

    async def test_what_it_does_not_serve_is_refused(self, provider: Provider) -> None:
        with pytest.raises(InvalidConfig):
            await provider.open(request_for(provider, transport="telepathy"))
        with pytest.raises(InvalidConfig):
            await provider.open(request_for(provider, pipeline="telepathy"))

    async def test_a_session_is_listed_from_open_to_close(self, provider: Provider) -> None:
        request = request_for(provider)
        session = await provider.open(request)
        listed = {live.session_id: live for live in await provider.list_live()}
        assert listed[request.session_id].resource == session.resource
        started_at = listed[request.session_id].started_at
        assert started_at is None or started_at.tzinfo is not None
        await provider.close(session)
        assert request.session_id not in await held_ids(provider)

    async def test_many_opened_at_once_are_separate(self, provider: Provider) -> None:
        requests = [request_for(provider) for _ in range(20)]
        sessions = await asyncio.gather(*(provider.open(request) for request in requests))
        assert len({session.resource for session in sessions}) == 20
        await provider.close(sessions[0])
        held = await held_ids(provider)
        assert requests[0].session_id not in held
        assert {request.session_id for request in requests[1:]} <= set(held)
        await asyncio.gather(*(provider.close(session) for session in sessions[1:]))

    async def test_opening_again_carries_on_and_holds_one_session(self, provider: Provider) -> None:
        request = request_for(provider)
        first = await provider.open(request)
        second = await provider.open(request)
        assert (await held_ids(provider)).count(request.session_id) == 1
        await provider.close(second)
        await provider.close(first)
        assert request.session_id not in await held_ids(provider)

    async def test_closing_twice_or_at_once_is_the_same_as_once(self, provider: Provider) -> None:
        session = await provider.open(request_for(provider))
        await asyncio.gather(provider.close(session), provider.close(session))
        await provider.close(session)

    async def test_closing_what_was_never_open_is_no_error(self, provider: Provider) -> None:
        await provider.close(ProviderSession.known(uuid4()))

    async def test_a_session_is_closed_by_its_id_alone(self, provider: Provider) -> None:
        session = await provider.open(request_for(provider))
        await provider.close(ProviderSession.known(session.session_id))
        assert session.session_id not in await held_ids(provider)

    async def test_another_process_can_close_what_this_one_opened(self, provider: Provider, config: BackendConfig) -> None:
        session = await provider.open(request_for(provider))
        other = self.provider_class(config)
        try:
            await other.close(ProviderSession.known(session.session_id, session.resource))
            if not provider.capabilities.relayed:
                assert session.session_id not in await held_ids(provider)
        finally:
            await other.aclose()
        await provider.close(session)

    async def test_an_opening_cut_short_leaves_nothing_that_close_does_not_remove(self, provider: Provider) -> None:
        for turns in range(5):
            request = request_for(provider)
            opening = asyncio.create_task(provider.open(request))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            await provider.close(ProviderSession.known(request.session_id))
            assert request.session_id not in await held_ids(provider)

    async def test_a_closing_cut_short_can_be_done_again(self, provider: Provider) -> None:
        session = await provider.open(request_for(provider))
        closing = asyncio.create_task(provider.close(session))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await provider.close(session)
        assert session.session_id not in await held_ids(provider)

    async def test_closing_ends_the_reading(self, provider: Provider) -> None:
        relayed_only(provider)
        session = await provider.open(request_for(provider))
        reading = asyncio.create_task(drain(provider.receive(session)))
        await asyncio.sleep(0)
        await provider.close(session)
        async with asyncio.timeout(LIMIT_S):
            await reading

    async def test_reading_can_be_cut_short_and_taken_up_again(self, provider: Provider) -> None:
        relayed_only(provider)
        session = await provider.open(request_for(provider))
        for _ in range(3):
            reading = asyncio.create_task(drain(provider.receive(session)))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()
        await provider.close(session)
        await drain(provider.receive(session))

    async def test_audio_is_taken_without_waiting_for_an_answer_and_dropped_after_the_end(self, provider: Provider) -> None:
        relayed_only(provider)
        session = await provider.open(request_for(provider))
        assert session.audio is not None
        frame = bytes(session.audio.frame_bytes)
        async with asyncio.timeout(LIMIT_S):
            for _ in range(10):
                await provider.send(session, frame)
            await provider.send(session, frame * 3)
            await provider.close(session)
            await provider.send(session, frame)

    async def test_media_that_is_not_relayed_is_not_to_be_had(self, provider: Provider) -> None:
        if provider.capabilities.relayed:
            pytest.skip("media passes through the platform")
        session = await provider.open(request_for(provider))
        with pytest.raises(NotRelayed):
            await provider.send(session, b"\0\0")
        with pytest.raises(NotRelayed):
            await drain(provider.receive(session))
        await provider.close(session)

    async def test_a_probe_tells_its_latency(self, provider: Provider) -> None:
        result = await provider.probe()
        assert 0 <= result.latency_ms < LIMIT_S * 1000

    async def test_a_backend_that_cannot_be_reached_is_told_by_one_error(
        self, unreachable: Provider, unreachable_config: BackendConfig
    ) -> None:
        request = request_for(unreachable)
        with pytest.raises(ProviderError) as of_probe:
            await unreachable.probe()
        with pytest.raises(ProviderError) as of_open:
            await unreachable.open(request)
        for error in (of_probe.value, of_open.value):
            assert error.code in REASONS
            assert error.retryable
            assert not any(secret in f"{error} {error!r}" for secret in unreachable_config.secrets.values())

    async def test_no_secret_is_shown(self, provider: Provider, config: BackendConfig) -> None:
        session = await provider.open(request_for(provider))
        session.client = {**session.client, "token": "hush-hush"}
        shown = f"{replace(config, secrets={**config.secrets, 'key': 'hush-hush'})!r} {provider!r} {session!r}"
        assert not any(secret in shown for secret in (*config.secrets.values(), "hush-hush"))
        await provider.close(session)

    async def test_it_can_be_given_up_twice_and_with_sessions_open(self, provider: Provider) -> None:
        await provider.open(request_for(provider))
        await provider.aclose()
        await provider.aclose()
