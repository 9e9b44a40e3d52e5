"""What a provider asks of whoever sets up a backend of it, one thing at a time, so that a form needs no JSON.

Owns: how an option or a secret is told to people, and what may be typed. Refuses: checking it, which the provider does when it is made:
a form that forgets a rule lets nothing wrong through.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Setting:
    """One option, or one secret.

    Attributes:
        name: As the provider reads it.
        label: For people.
        help: One or two sentences, or empty.
        kind: What is typed: ``text``, ``number`` (whole) or ``choice``.
        default: What holds where it is left out; None for a secret, and for what has to be given.
        minimum: Of a number, included.
        maximum: Of a number, included.
        choices: Values and their words, for a choice.
        required: It has to be given.
        secret: It is written, never shown, and kept encrypted.
        advanced: Most people leave it as it is.
    """

    name: str
    label: str
    help: str = ""
    kind: Literal["text", "number", "choice"] = "text"
    default: str | int | None = None
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[tuple[str, str], ...] = ()
    required: bool = False
    secret: bool = False
    advanced: bool = False


def options_of(settings: Sequence[Setting], given: Mapping[str, object]) -> dict[str, object]:
    """Return the options as they are kept: what is empty or the default is left out, so that a better default acts on it too."""
    return {each.name: given[each.name] for each in settings if not each.secret and given.get(each.name) not in (None, "", each.default)}
