"""A process that observes the platform and exports what it sees, until it is killed: ``python -m tests.telemetry.observing NAME``."""

import asyncio
import os
import sys

import django


def main(name: str, claim_s: float) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceplatform.settings")
    from voiceplatform import telemetry

    django.setup()
    telemetry.start("web")

    from sessions_app.runtime import observer

    observer.CLAIM_S = claim_s  # type: ignore[misc]  # a shorter wait for the test

    async def rounds() -> None:
        while True:
            await observer.observe_round(holder=name)
            await asyncio.sleep(claim_s / 10)

    asyncio.run(rounds())


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
