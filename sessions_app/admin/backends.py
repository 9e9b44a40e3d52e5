"""Backends and the platform's cap: edited here, live.

Owns: the form of a backend, whose secrets can be set but are never shown again. Refuses: to delete a backend that has history; a backend
whose provider does not take its options (with the provider's own sentence); a cap below what is reserved, and another name or none for a
backend that quotas name for their reserved slots.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import JSONField, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.safestring import SafeString

from sessions_app.admin.limit_changes import last_changes
from sessions_app.models import Backend, BackendAccess, Platform, Session
from sessions_app.models.fields import Undecipherable
from sessions_app.providers.exceptions import ProviderError, ProviderNotFound
from sessions_app.runtime import backends
from sessions_app.selectors import usage
from sessions_app.services import configuration
from tenants.admin.editing import LimitsAdmin, WhyForm

if TYPE_CHECKING:  # Django's own classes take no type arguments when they run
    AccessTabularInline = admin.TabularInline[BackendAccess, Backend]
else:
    AccessTabularInline = admin.TabularInline

# What a provider has a say in.
_CHECKED: Final = {"provider", "options", "secrets", "remove_secrets", "pipelines", "transports"}


def used_of(used: int, limit: int | None) -> str:
    """Return what is in use, and of how much."""
    return f"{used} of {'any number' if limit is None else limit}"


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "never"


class WriteOnlyTextarea(forms.Textarea):
    """Takes a value and never gives one back, not even the one just typed where another field is wrong."""

    def format_value(self, value: Any) -> str:
        """Return nothing."""
        return ""


class BackendForm(WhyForm):
    """A backend that its provider would accept."""

    provider = forms.ChoiceField(help_text="The code that talks to it.")
    secrets = forms.CharField(
        required=False,
        strip=True,
        label="New secrets",
        widget=WriteOnlyTextarea(attrs={"rows": 3, "cols": 60, "autocomplete": "off", "spellcheck": "false"}),
        help_text='Replaces all of them: {"api_key": "…"}. Left blank, they stay as they are. They are never shown again.',
    )
    remove_secrets = forms.BooleanField(required=False, label="Remove the secrets")

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
        """Ask the provider whether it takes this."""
        super().clean()
        cleaned = self.cleaned_data
        if cleaned.get("remove_secrets"):
            cleaned["secrets"] = {}
        # Not at every edit: a backend whose options became wrong can still be disabled.
        if not self.errors and _CHECKED.intersection(self.changed_data):
            self._ask_provider(cleaned)
        if not self.errors and self.instance.pk is not None:
            self._look_at_reservations(cleaned)
        return cleaned

    def _look_at_reservations(self, cleaned: dict[str, Any]) -> None:
        """Last of all, since it takes the ledger's lock of this backend where the cap is changed."""
        if "name" in self.changed_data and (tenants := configuration.reserving_on(self.initial["name"])):
            self.add_error("name", f"Quotas name this backend for their reserved slots: {', '.join(tenants)}. Change them first.")
        elif "cap" in self.changed_data:
            try:
                configuration.check_cap(backend_id=self.instance.pk, cap=cleaned["cap"])
            except ValidationError as error:
                self.add_error("cap", error)

    def _ask_provider(self, cleaned: dict[str, Any]) -> None:
        if not isinstance(cleaned["options"], dict):
            self.add_error("options", 'Options are a JSON object: {"name": value}.')
            return
        wanted = {name: cleaned[name] for name in ("name", "provider", "options", "secrets")}
        try:
            offered = backends.create(Backend(**wanted)).capabilities
        except ProviderNotFound as error:
            self.add_error("provider", str(error))
            return
        except ProviderError as error:
            self.add_error("options", str(error))
            return
        pipelines, transports = cleaned["pipelines"], cleaned["transports"]
        if not isinstance(pipelines, dict) or not pipelines or not all(isinstance(model, dict) for model in pipelines.values()):
            self.add_error("pipelines", 'Pipelines are a JSON object with at least one: {"s2s": {"model": "…"}}.')
        elif unknown := set(pipelines) - offered.pipelines:
            self.add_error("pipelines", f"The provider does not serve {_list(unknown)}; it serves {_list(offered.pipelines)}.")
        if not isinstance(transports, list) or not transports or not all(isinstance(each, str) for each in transports):
            self.add_error("transports", 'Transports are a JSON list with at least one: ["websocket"].')
        elif unknown := set(transports) - offered.transports:
            self.add_error("transports", f"The provider does not serve {_list(unknown)}; it serves {_list(offered.transports)}.")


def _list(names: set[str] | frozenset[str]) -> str:
    return ", ".join(sorted(names))


class AccessInline(AccessTabularInline):
    """Which tenants may use it, where that is restricted."""

    model = BackendAccess
    extra = 0
    autocomplete_fields: ClassVar[list[str]] = ["tenant"]
    verbose_name = "tenant that may use this backend"
    verbose_name_plural = (
        "Tenants restricted to certain backends, this one among them (a tenant that is nowhere restricted may use every backend)"
    )


@admin.register(Backend)
class BackendAdmin(LimitsAdmin):
    """Configured voice backends with their caps, what is in use and what the probes saw."""

    form = BackendForm
    formfield_overrides: ClassVar[dict[Any, Any]] = {JSONField: {"widget": forms.Textarea(attrs={"rows": 3, "cols": 60})}}
    list_display = ("name", "provider", "health_now", "in_use", "weight", "enabled", "draining")
    list_filter = ("enabled", "draining")
    list_select_related = ("health",)
    search_fields = ("name",)
    inlines = (AccessInline,)
    readonly_fields = ("in_use", "health_now", "last_probe", "health_error", "secrets_now", "updated_at", "last_changes")
    fieldsets = (
        (None, {"fields": ("name", "provider", "enabled", "draining")}),
        ("Now", {"fields": ("in_use", "health_now", "last_probe", "health_error")}),
        ("Limits", {"fields": ("cap", "weight", "burst_below")}),
        ("What it serves", {"fields": ("pipelines", "transports", "options")}),
        ("Secrets", {"fields": ("secrets_now", "secrets", "remove_secrets")}),
        ("Last changes", {"fields": ("last_changes",)}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Backend | None = None) -> Any:
        """Show what only a saved backend has, and to those who may only look no field for secrets."""
        may_edit = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        hidden = set() if may_edit else {"secrets", "remove_secrets"}
        if obj is None:
            hidden |= {*self.readonly_fields, "remove_secrets"}
        shown = [(title, {"fields": [name for name in options["fields"] if name not in hidden]}) for title, options in self.fieldsets]
        return [each for each in shown if each[1]["fields"]]

    @admin.display(description="health")
    def health_now(self, backend: Backend) -> str:
        """What an admission would take it for."""
        return usage.health_of(backend, now=datetime.now(UTC)).status

    @admin.display(description="last probe")
    def last_probe(self, backend: Backend) -> str:
        """When, and how long the answer took."""
        seen = usage.health_of(backend, now=datetime.now(UTC))
        took = f", answered in {seen.latency_ms:.1f} ms" if seen.latency_ms is not None and not seen.error else ""
        return _moment(seen.last_probe_at) + took

    @admin.display(description="last error")
    def health_error(self, backend: Backend) -> str:
        """The probe's sentence."""
        return usage.health_of(backend, now=datetime.now(UTC)).error or "none"

    @admin.display(description="in use")
    def in_use(self, backend: Backend) -> str:
        """Slots held, and the cap."""
        return used_of(usage.backend_use([backend.pk])[backend.pk], backend.cap)

    @admin.display(description="secrets")
    def secrets_now(self, backend: Backend) -> str:
        """Whether there are any; no more than that."""
        if isinstance(backend.secrets, Undecipherable):
            return Undecipherable.sentence
        return "set" if backend.secrets else "not set"

    @admin.display(description="of its limits")
    def last_changes(self, backend: Backend) -> SafeString:
        """Who changed what, and why."""
        return last_changes(scope="backend", ref=backend.pk, name=backend.name)

    def get_deleted_objects(
        self, objs: QuerySet[Any] | Sequence[Any], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """Refuse by one question each: Django's own way would load every session of the backend to list it."""
        kept = [f"Sessions of {each}: a backend with history is kept; disable it instead" for each in objs if _has_history(each)]
        kept += [f"Reserved slots of {tenant} on {each}" for each in objs for tenant in configuration.reserving_on(each.name)]
        if kept:
            return [str(each) for each in objs], {}, set(), kept
        return super().get_deleted_objects(objs, request)


def _has_history(backend: Backend) -> bool:
    return Session.objects.filter(backend=backend).exists()


@admin.register(Platform)
class PlatformAdmin(LimitsAdmin):
    """One row, made with the tables: its list is its form."""

    fields = ("max_concurrent_sessions", "in_use")
    readonly_fields = ("in_use",)

    @admin.display(description="in use")
    def in_use(self, platform: Platform) -> str:
        """Slots held on all backends, and the cap."""
        return used_of(usage.platform_use().used, platform.max_concurrent_sessions)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: it is there."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Go on to the one row."""
        return HttpResponseRedirect(reverse("admin:sessions_app_platform_change", args=[1]))
