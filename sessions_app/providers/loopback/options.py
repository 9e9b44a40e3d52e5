"""The loopback backend's options: how it speaks, and what it does wrong when it is told to.

All times are in milliseconds. Those that end in ``_after_ms`` count from the opening; unset, the thing does not happen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from sessions_app.providers.options import OptionReader

DEFAULT_DELAY_MS = 200
MAX_DELAY_MS = 10_000  # bounds the audio that one session holds in memory
MAX_WAIT_MS = 3_600_000
SAMPLE_RATES = (24_000, 16_000)


@dataclass(frozen=True, slots=True)
class LoopbackOptions:
    """The options, checked.

    Attributes:
        delay_ms: From a frame's coming in to its going out, 200 by default.
        sample_rate: Hz of its PCM, 24000 (the default) or 16000.
        open_delay_ms: How long opening takes.
        fail_open: Opening fails with ``ConnectionFailed``: always, or that many times.
        hang_open: Opening never returns.
        hang_after_ms: Stops answering, but stays open.
        die_after_ms: Fails with ``ProviderFailed``.
        pipeline_error_after_ms: Fails with ``PipelineError``.
        absent_after_ms: Fails with ``AgentAbsent``, as if nobody had come to answer.
        end_after_ms: Hangs up.
        close_delay_ms: How long closing takes.
        hang_close: Closing never returns, and the session stays listed.
        fail_probe: The probe fails with ``ConnectionFailed``: always, or that many times.
        probe_delay_ms: How long the probe takes.
    """

    delay_ms: int
    sample_rate: int
    open_delay_ms: int
    fail_open: bool | int
    hang_open: bool
    hang_after_ms: int | None
    die_after_ms: int | None
    pipeline_error_after_ms: int | None
    absent_after_ms: int | None
    end_after_ms: int | None
    close_delay_ms: int
    hang_close: bool
    fail_probe: bool | int
    probe_delay_ms: int

    @classmethod
    def read(cls, options: Mapping[str, object]) -> Self:
        """Check and return the options.

        Raises:
            InvalidConfig: One is unknown or wrong; the detail names it.
        """
        reader = OptionReader(options)

        def wait(name: str) -> int:
            return reader.integer(name, 0, minimum=0, maximum=MAX_WAIT_MS)

        def moment(name: str) -> int | None:
            return reader.optional_integer(name, minimum=0, maximum=MAX_WAIT_MS)

        checked = cls(
            delay_ms=reader.integer("delay_ms", DEFAULT_DELAY_MS, minimum=0, maximum=MAX_DELAY_MS),
            sample_rate=reader.choice("sample_rate", SAMPLE_RATES[0], SAMPLE_RATES),
            open_delay_ms=wait("open_delay_ms"),
            fail_open=reader.flag_or_count("fail_open"),
            hang_open=reader.flag("hang_open"),
            hang_after_ms=moment("hang_after_ms"),
            die_after_ms=moment("die_after_ms"),
            pipeline_error_after_ms=moment("pipeline_error_after_ms"),
            absent_after_ms=moment("absent_after_ms"),
            end_after_ms=moment("end_after_ms"),
            close_delay_ms=wait("close_delay_ms"),
            hang_close=reader.flag("hang_close"),
            fail_probe=reader.flag_or_count("fail_probe"),
            probe_delay_ms=wait("probe_delay_ms"),
        )
        reader.finish()
        return checked
