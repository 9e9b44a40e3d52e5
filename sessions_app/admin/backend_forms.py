"""The form of a backend: one for providers whose options and secrets are typed as JSON, one made of the settings that a provider declares.

Owns: that what is saved is what the provider accepts, with the provider's own sentence where it does not, beside the field that it names.
Secrets can be set and are never shown again, not even the one just typed where another field is wrong.
Refuses: a cap below what is reserved, and another name or none for a backend that quotas name for their reserved slots.
"""

import json
import re
from typing import Any, ClassVar, Final

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from sessions_app.models import Backend
from sessions_app.providers.base import Capabilities
from sessions_app.providers.exceptions import ProviderError, ProviderNotFound
from sessions_app.providers.settings import Setting, options_of
from sessions_app.runtime import backends
from sessions_app.services import configuration
from tenants.admin.editing import WhyForm

PREFIX: Final = "set_"  # of a declared setting's field
_NO_OBJECT: Final = 'Options are a JSON object: {"name": value}.'
# What a provider has a say in.
_CHECKED: Final = {"provider", "options", "secrets", "remove_secrets", "forget", "pipelines", "transports"}


class WriteOnlyTextarea(forms.Textarea):
    """Takes a value and never gives one back, not even the one just typed where another field is wrong."""

    def format_value(self, value: Any) -> str:
        """Return nothing."""
        return ""


class WriteOnlyInput(forms.PasswordInput):
    """The same on one line; no browser offers to keep it, or fills in what it has."""

    def __init__(self) -> None:
        super().__init__(attrs={"autocomplete": "new-password", "spellcheck": "false", "class": "vTextField"}, render_value=False)


class BackendForm(WhyForm):
    """What is common to both kinds."""

    provider = forms.ChoiceField(help_text="The code that talks to it.")
    _is_trial = False

    class Meta:
        model = Backend
        exclude: ClassVar[list[str]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Django fills the initial values from the model: what is never shown has no place there, nor in the record of changes.
        self.initial.pop("secrets", None)
        provider = self.fields.get("provider")  # not there for those who may only look
        if isinstance(provider, forms.ChoiceField):
            names = sorted({*settings.VOICE_PROVIDERS, *filter(None, [self.instance.provider])})
            provider.choices = [(name, name) for name in names]

    def clean(self) -> dict[str, Any]:
        """Ask the provider whether it takes this."""
        super().clean()
        if self._is_trial:
            return self.cleaned_data
        # Not at every edit: a backend whose options became wrong can still be disabled.
        if not self.errors and self.concerns_provider:
            self._ask_provider()
        if not self.errors and self.instance.pk is not None:
            self._look_at_reservations()
        return self.cleaned_data

    def on_trial(self) -> tuple[Backend | None, str]:
        """Return the backend as it is typed, for a test of its connection, or None and what is wrong with it. What else is wrong waits."""
        self._is_trial = True
        self.full_clean()
        wrong = [
            f"{self.fields[name].label or name.capitalize()}: {error}"
            for name, errors in self.errors.items()
            if name in {"provider", "options", "secrets"} or name.startswith(PREFIX)
            for error in errors
        ]
        if wrong:
            return None, wrong[0]
        wanted = self.asked_for()
        return (wanted, "") if isinstance(wanted.options, dict) else (None, _NO_OBJECT)

    @property
    def concerns_provider(self) -> bool:
        """Whether anything was changed that its provider has a say in."""
        return any(name in _CHECKED or name.startswith(PREFIX) for name in self.changed_data)

    def asked_for(self) -> Backend:
        """Return a backend as the fields have it, not to be saved: with its name, provider, options and secrets."""
        raise NotImplementedError

    def blame(self, error: ProviderError) -> None:
        """Put what the provider says beside the field that it names."""
        self.add_error("provider" if isinstance(error, ProviderNotFound) else self.place_of(error), str(error))

    def place_of(self, error: ProviderError) -> str | None:
        """Return the field that the error is about; None: the form as a whole."""
        raise NotImplementedError

    def agree(self, wanted: Backend, offered: Capabilities) -> None:
        """Take over what the provider accepts, and refuse what it does not serve."""
        pipelines = self.cleaned_data["pipelines"]
        if not isinstance(pipelines, dict) or not pipelines or not all(isinstance(model, dict) for model in pipelines.values()):
            self.add_error("pipelines", 'Pipelines are a JSON object with at least one: {"s2s": {"model": "…"}}.')
        elif unknown := set(pipelines) - offered.pipelines:
            self.add_error("pipelines", f"The provider does not serve {_list(unknown)}; it serves {_list(offered.pipelines)}.")

    def _ask_provider(self) -> None:
        wanted = self.asked_for()
        if not isinstance(wanted.options, dict):
            self.add_error("options", _NO_OBJECT)
            return
        try:
            offered = backends.create(wanted).capabilities
        except ProviderError as error:
            self.blame(error)
            return
        self.agree(wanted, offered)

    def _look_at_reservations(self) -> None:
        """Last of all, since it takes the ledger's lock of this backend where the cap is changed."""
        if "name" in self.changed_data and (tenants := configuration.reserving_on(self.initial["name"])):
            self.add_error("name", f"Quotas name this backend for their reserved slots: {', '.join(tenants)}. Change them first.")
        elif "cap" in self.changed_data and "enabled" not in self.changed_data:  # together they are the trigger's
            try:
                configuration.check_cap(backend_id=self.instance.pk, cap=self.cleaned_data["cap"])
            except ValidationError as error:
                self.add_error("cap", error)


class JsonBackendForm(BackendForm):
    """A backend whose options and secrets are JSON."""

    secrets = forms.CharField(
        required=False,
        strip=True,
        label="New secrets",
        widget=WriteOnlyTextarea(attrs={"rows": 3, "cols": 60, "autocomplete": "off", "spellcheck": "false"}),
        help_text='Replaces all of them: {"api_key": "…"}. Left blank, they stay as they are. They are never shown again.',
    )
    remove_secrets = forms.BooleanField(required=False, label="Remove the secrets")

    def clean_secrets(self) -> dict[str, str]:
        """Return the secrets to keep: the new ones, or those that are set."""
        text = self.cleaned_data["secrets"]
        if not text:
            kept: dict[str, str] = self.instance.secrets
            return kept
        try:
            given = json.loads(text)
        except ValueError:
            given = None
        if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
            # Without the text: it may hold a secret.
            raise ValidationError('Secrets are a JSON object of names and texts: {"api_key": "…"}. Nothing was changed.')
        return given

    def clean(self) -> dict[str, Any]:
        """Take the secrets away where that is wanted."""
        if self.cleaned_data.get("remove_secrets"):
            self.cleaned_data["secrets"] = {}
        return super().clean()

    def asked_for(self) -> Backend:
        """Return what was typed."""
        return Backend(**{name: self.cleaned_data.get(name) for name in ("name", "provider", "options", "secrets")})

    def place_of(self, error: ProviderError) -> str:
        """All of it is in one field."""
        return "options"

    def agree(self, wanted: Backend, offered: Capabilities) -> None:
        """Check the transports, too."""
        super().agree(wanted, offered)
        transports = self.cleaned_data["transports"]
        if not isinstance(transports, list) or not transports or not all(isinstance(each, str) for each in transports):
            self.add_error("transports", 'Transports are a JSON list with at least one: ["websocket"].')
        elif unknown := set(transports) - offered.transports:
            self.add_error("transports", f"The provider does not serve {_list(unknown)}; it serves {_list(offered.transports)}.")


class DeclaredBackendForm(BackendForm):
    """A backend of a provider that declares its settings: a field for each, and its transports are those that it serves.

    Attributes:
        declared: The settings; subclasses are made by ``form_for``.
    """

    declared: ClassVar[tuple[Setting, ...]] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.instance.options if isinstance(self.instance.options, dict) else {}
        for each in self.declared:
            field = self.fields.get(PREFIX + each.name)
            if field is None:
                continue
            if not each.secret:
                self.initial[PREFIX + each.name] = options.get(each.name, each.default)
            elif self.instance.pk is not None:
                told = "It is set; left blank, it stays." if self.instance.secrets.get(each.name) else "It is not set."
                field.help_text = f"{field.help_text} {told}".strip()
            if self.instance.pk is not None:
                field.required = False  # the provider says so where it is missing, and only where anything was changed

    def clean(self) -> dict[str, Any]:
        """Hand over what the model has besides the fields."""
        cleaned = super().clean()
        if not self.errors and self.concerns_provider:
            wanted = self.asked_for()
            self.instance.options, self.instance.secrets = wanted.options, wanted.secrets
        return cleaned

    def asked_for(self) -> Backend:
        """Return what was typed, over what is there: a blank secret stays as it is; former ones go by a tick."""
        given = {each.name: self.cleaned_data.get(PREFIX + each.name) for each in self.declared}
        names = {each.name for each in self.declared}
        others = {name: value for name, value in self._options.items() if name not in names}
        fresh = {each.name: str(given[each.name]) for each in self.declared if each.secret and given[each.name]}
        gone = set(self.cleaned_data.get("forget") or ())
        secrets = {name: value for name, value in {**self.instance.secrets, **fresh}.items() if name not in gone - fresh.keys()}
        return Backend(
            name=str(self.cleaned_data.get("name", "")),
            provider=str(self.cleaned_data.get("provider", "")),
            options={**others, **options_of(self.declared, given)},
            secrets=secrets,
        )

    @property
    def _options(self) -> dict[str, Any]:
        # Those of another provider are of no use to this one.
        is_same = self.initial.get("provider", self.cleaned_data.get("provider")) == self.cleaned_data.get("provider")
        options = self.instance.options
        return options if is_same and isinstance(options, dict) else {}

    def place_of(self, error: ProviderError) -> str | None:
        """Return the field of the first setting that the sentence names."""
        named = (PREFIX + name for name in re.findall(r"'(\w+)'", str(error)))
        return next((name for name in named if name in self.fields), None)

    def agree(self, wanted: Backend, offered: Capabilities) -> None:
        """Serve by every transport that the provider has."""
        super().agree(wanted, offered)
        self.instance.transports = sorted(offered.transports)


def form_for(declared: tuple[Setting, ...]) -> type[BackendForm]:
    """Return the form for a provider that declares these settings; with none, the one with JSON."""
    if not declared:
        return JsonBackendForm
    fields: dict[str, Any] = {PREFIX + each.name: _field(each) for each in declared}
    former = [(each.name, each.label) for each in declared if each.secret and not each.required]
    if former:
        fields["forget"] = forms.MultipleChoiceField(
            required=False,
            choices=former,
            widget=forms.CheckboxSelectMultiple,
            label="Remove",
            help_text="Secrets that are needed no more.",
        )
    return type("DeclaredBackendForm", (DeclaredBackendForm,), {**fields, "declared": declared})


def _field(setting: Setting) -> forms.Field:
    told: dict[str, Any] = {"label": setting.label, "help_text": setting.help, "required": setting.required}
    if setting.secret:
        return forms.CharField(widget=WriteOnlyInput(), strip=True, max_length=500, **told)
    if setting.kind == "number":
        told["required"] = False
        unit = f" Without a number: {setting.default}." if setting.default is not None else ""
        told["help_text"] = f"{setting.help}{unit}".strip()
        return forms.IntegerField(min_value=setting.minimum, max_value=setting.maximum, **told)
    if setting.kind == "choice":
        return forms.ChoiceField(choices=setting.choices, **told)
    return forms.CharField(max_length=500, strip=True, widget=forms.TextInput(attrs={"class": "vTextField", "spellcheck": "false"}), **told)


def _list(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))
