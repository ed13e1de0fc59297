"""Booking tells the world, and a booking that comes twice makes one label."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
from httpx import ASGITransport, AsyncClient
from parcels.app import Sessions, app, lifespan
from parcels.labels import handle
from parcels.models import Parcel

from outbox.testing import (
    as_received,
    assert_added_async,
    containing,
    drain_async,
    refute_added_async,
)


@dataclass(frozen=True)
class Service:
    """The service, started in this process."""

    client: AsyncClient
    sessions: Sessions


@asynccontextmanager
async def started() -> AsyncIterator[Service]:
    """Start the service, and end it."""
    transport = ASGITransport(app)
    async with lifespan(app), AsyncClient(transport=transport, base_url="http://parcels") as client:
        yield Service(client, app.state.sessions)


def serve(test: Callable[[Service], Awaitable[None]]) -> None:
    """Run a test with the service."""

    async def run() -> None:
        async with started() as service:
            await test(service)

    asyncio.run(run())


def test_a_booking_is_told() -> None:
    async def test(service: Service) -> None:
        answer = await service.client.post("/parcels", json={"recipient": "Ada"})
        assert answer.status_code == 201
        async with service.sessions() as session:
            await assert_added_async(
                session,
                "parcels",
                key=answer.json()["id"],
                payload=containing({"recipient": "Ada"}),
            )

    serve(test)


def test_a_bad_booking_is_not_told() -> None:
    async def test(service: Service) -> None:
        answer = await service.client.post("/parcels", json={"recipient": ""})
        assert answer.status_code == 422
        async with service.sessions() as session:
            await refute_added_async(session)

    serve(test)


def test_a_message_that_comes_twice_makes_one_label() -> None:
    async def test(service: Service) -> None:
        # Given a booking
        booked = (await service.client.post("/parcels", json={"recipient": "Ada"})).json()
        async with service.sessions() as session:
            [sent] = await drain_async(session)
        # When its message comes twice
        handled = []
        for _ in range(2):
            async with service.sessions.begin() as session:
                handled.append(await handle(session, as_received(sent)))
        # Then it takes effect once
        assert handled == [True, False]
        shown = await service.client.get(f"/parcels/{booked['id']}")
        assert shown.json()["label"] == "To: Ada"

    serve(test)


def test_a_label_that_fails_leaves_the_message_new() -> None:
    async def test(service: Service) -> None:
        # Given a message about a parcel that is gone
        booked = (await service.client.post("/parcels", json={"recipient": "Ada"})).json()
        async with service.sessions.begin() as session:
            [sent] = await drain_async(session)
            parcel = await session.get_one(Parcel, UUID(booked["id"]))
            await session.delete(parcel)
        # When it fails, then the inbox has not kept it
        for _ in range(2):
            with pytest.raises(Exception, match="No row"):
                async with service.sessions.begin() as session:
                    await handle(session, as_received(sent))

    serve(test)


def test_the_service_does_not_start_on_old_tables(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTBOX_DATABASE_URL", f"sqlite:///{tmp_path}/empty.db")

    async def start() -> None:
        async with started():
            pass

    with pytest.raises(RuntimeError, match="alembic upgrade head"):
        asyncio.run(start())
