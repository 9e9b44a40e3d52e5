"""Backends and the platform's cap: edited here, live.

Owns: the pages of a backend, with its form (``backend_forms``) and what is known of it now; the test of a connection with what is typed in
the form, saved or not. Refuses: to delete a backend that has history, and to repeat a secret, in whatever answer.
"""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import JSONField, Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString

from sessions_app.admin.backend_forms import PREFIX, BackendForm, form_for
from sessions_app.admin.limit_changes import last_changes
from sessions_app.models import Backend, BackendAccess, Platform, Session
from sessions_app.models.fields import Undecipherable
from sessions_app.providers.base import Room
from sessions_app.providers.exceptions import ProviderError
from sessions_app.providers.settings import Setting
from sessions_app.runtime import backends, prober, room_tasks, webhooks
from sessions_app.selectors import room_records, usage
from sessions_app.services import configuration
from tenants.admin.editing import LimitsAdmin

if TYPE_CHECKING:  # Django's own classes take no type arguments when they run
    AccessTabularInline = admin.TabularInline[BackendAccess, Backend]
    AnyAccessFormSet = forms.BaseInlineFormSet[BackendAccess, Backend, Any]
else:
    AccessTabularInline = admin.TabularInline
    AnyAccessFormSet = forms.BaseInlineFormSet


MOST_ROOMS: Final = 500  # of a page


def used_of(used: int, limit: int | None) -> str:
    """Return what is in use, and of how much."""
    return f"{used} of {'any number' if limit is None else limit}"


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "never"


class AccessFormSet(AnyAccessFormSet):
    """Asks whether tenants could still use the backends that they reserved slots on."""

    def clean(self) -> None:
        """Look at who may use this backend from now on, and who may not."""
        super().clean()
        if any(self.errors):
            return
        allowed: set[int] = set()
        forbidden: set[int] = set()
        for each in self.forms:
            tenant = None if each in self.deleted_forms else each.cleaned_data.get("tenant")
            was, now = each.initial.get("tenant"), tenant.pk if tenant is not None else None
            if was != now:
                allowed.update([] if now is None else [now])
                forbidden.update([] if was is None else [was])
        configuration.check_access(backend_id=self.instance.pk, allowed=allowed - forbidden, forbidden=forbidden - allowed)


class AccessInline(AccessTabularInline):
    """Which tenants may use it, where that is restricted."""

    model = BackendAccess
    formset = AccessFormSet
    extra = 0
    autocomplete_fields: ClassVar[list[str]] = ["tenant"]
    verbose_name = "tenant that may use this backend"
    verbose_name_plural = (
        "Tenants restricted to certain backends, this one among them (a tenant that is nowhere restricted may use every backend)"
    )


@admin.register(Backend)
class BackendAdmin(LimitsAdmin):
    """Configured voice backends with their caps, what is in use and what the probes saw."""

    change_form_template = "admin/sessions_app/backend/change_form.html"
    formfield_overrides: ClassVar[dict[Any, Any]] = {JSONField: {"widget": forms.Textarea(attrs={"rows": 3, "cols": 60})}}
    list_display = ("name", "provider", "health_now", "in_use", "weight", "enabled", "draining")
    list_filter = ("enabled", "draining")
    list_select_related = ("health",)
    search_fields = ("name",)
    inlines = (AccessInline,)
    readonly_fields = ("in_use", "health_now", "last_probe", "health_error", "secrets_now", "updated_at", "last_changes")

    class Media:
        js = ("sessions_app/admin-backend.js",)
        css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("sessions_app/admin-backend.css",)}

    def get_form(self, request: HttpRequest, obj: Backend | None = None, change: bool = False, **kwargs: Any) -> Any:
        """Return the form of the backend's provider, or of the one that is picked."""
        return super().get_form(request, obj, change, **{"form": form_for(self._declared(request, obj)), **kwargs})

    def get_fieldsets(self, request: HttpRequest, obj: Backend | None = None) -> Any:
        """Show what only a saved backend has, and to those who may only look no field for secrets."""
        may_edit = self._may_edit(request, obj)
        hidden = set() if may_edit else {"secrets", "remove_secrets"}
        if obj is None:
            hidden |= {*self.readonly_fields, "remove_secrets"}
        named = self._sections(self._declared(request, obj))
        shown = [(title, {**options, "fields": [name for name in options["fields"] if name not in hidden]}) for title, options in named]
        return [each for each in shown if each[1]["fields"]]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Begin with the provider that is picked."""
        return {**super().get_changeform_initial_data(request), "provider": self._provider(request, None)}

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lock the tenants whose access is edited before the form locks the backend: the other order locks the ledger out."""
        if request.method != "POST" or not (self.has_change_permission(request) or self.has_add_permission(request)):
            return super().changeform_view(request, object_id, form_url, extra_context)
        with transaction.atomic():
            configuration.lock_tenants(_tenants_of_access(request.POST))
            return super().changeform_view(request, object_id, form_url, extra_context)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> HttpResponse:
        """Put the test of the connection below what it tests."""
        backend = kwargs.get("obj")
        if self._may_edit(request, backend):
            context["tested_after"] = "Connection" if self._declared(request, backend) else "Secrets"
        if backend is not None and backends.makes_rooms(backend.provider):
            address = webhooks.address(provider=backend.provider, backend=backend.name)
            context["webhooks"] = {
                "address": request.build_absolute_uri(address),
                "health": room_records.health(backend, now=datetime.now(UTC)),
            }
        return super().render_change_form(request, context, *args, **kwargs)

    def _sections(self, declared: tuple[Setting, ...]) -> list[tuple[str | None, dict[str, Any]]]:
        first: list[tuple[str | None, dict[str, Any]]] = [
            (None, {"fields": ["provider", "name", "enabled", "draining"]}),
            ("Now", {"fields": ["in_use", "health_now", "last_probe", "health_error"]}),
        ]
        limits: tuple[str, dict[str, Any]] = ("Limits", {"fields": ["cap", "weight", "burst_below"]})
        changes: tuple[str, dict[str, Any]] = ("Last changes", {"fields": ["last_changes"]})
        if not declared:
            serves = ("What it serves", {"fields": ["pipelines", "transports", "options"]})
            return [*first, limits, serves, ("Secrets", {"fields": ["secrets_now", "secrets", "remove_secrets"]}), changes]
        usual = [PREFIX + each.name for each in declared if not each.advanced]
        rare = [PREFIX + each.name for each in declared if each.advanced]
        if any(each.secret and not each.required for each in declared):
            rare.append("forget")
        first[1][1]["fields"].append("secrets_now")
        return [
            *first,
            ("Connection", {"fields": usual}),
            ("Seldom changed", {"fields": rare, "classes": ["collapse"]}),
            limits,
            ("What it serves", {"fields": ["pipelines"]}),
            changes,
        ]

    def _may_edit(self, request: HttpRequest, obj: Backend | None) -> bool:
        return self.has_change_permission(request, obj) if obj else self.has_add_permission(request)

    def _provider(self, request: HttpRequest, obj: Backend | None) -> str:
        asked = request.POST.get("provider") or (obj.provider if obj else request.GET.get("provider"))
        return asked or min(settings.VOICE_PROVIDERS, default="")

    def _declared(self, request: HttpRequest, obj: Backend | None) -> tuple[Setting, ...]:
        """Return the settings to ask for, one by one; those who may only look are shown what is kept."""
        return backends.settings_of(self._provider(request, obj)) if self._may_edit(request, obj) else ()

    # --- the test of a connection --------------------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """The test of a connection, before the pages that take any text for a backend's id."""
        view = self.admin_site.admin_view
        return [
            path("test-connection/", view(self.test_connection), name="sessions_app_backend_test_new"),
            path("<int:backend_id>/test-connection/", view(self.test_connection), name="sessions_app_backend_test"),
            path("<int:backend_id>/rooms/", view(self.rooms), name="sessions_app_backend_rooms"),
            *super().get_urls(),
        ]

    def test_connection(self, request: HttpRequest, backend_id: int | None = None) -> HttpResponse:
        """Ask the backend with what is typed, whether or not it was saved; answer in JSON, with one sentence and no secret."""
        if request.method != "POST":
            return HttpResponse(status=405, headers={"Allow": "POST"})
        backend: Backend | None = self.get_object(request, str(backend_id)) if backend_id is not None else None
        if not self._may_edit(request, backend):
            raise PermissionDenied
        if backend_id is not None and backend is None:
            raise Http404
        form: BackendForm = self.get_form(request, backend, change=backend is not None)(request.POST, instance=backend)
        wanted, problem = form.on_trial()
        if wanted is None:
            return JsonResponse({"ok": False, "sentence": problem})
        # Pages run in threads of their own, without an event loop.
        outcome = asyncio.run(prober.try_out(wanted))
        return JsonResponse({"ok": not outcome.error, "sentence": outcome.error or f"It answered in {outcome.latency_ms:.1f} ms."})

    # --- its rooms -----------------------------------------------------------------------------------------------------------

    def rooms(self, request: HttpRequest, backend_id: int) -> HttpResponse:
        """Show the rooms that the provider has now, beside those that it should have."""
        backend: Backend | None = self.get_object(request, str(backend_id))
        if not self.has_view_permission(request, backend):
            raise PermissionDenied
        if backend is None or not backends.makes_rooms(backend.provider):
            raise Http404
        ours, problem = room_records.open_rooms(backend), ""
        listed: Sequence[Room] = []
        try:
            listed = asyncio.run(room_tasks.list_once(backend_id=backend.pk))
        except ProviderError as error:
            problem = str(error)
        there, known = {each.name for each in listed}, {each.name for each in ours}
        states = room_records.states({each.session_id for each in listed if each.session_id})
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": backend,
            "title": "Rooms now",
            "subtitle": str(backend),
            "problem": problem,
            "rooms": [
                (each, states.get(each.session_id, "") if each.session_id else "", each.name in known) for each in listed[:MOST_ROOMS]
            ],
            "cut": len(listed) > MOST_ROOMS,
            "missing": [each for each in ours if each.name not in there] if not problem else [],
        }
        return TemplateResponse(request, "admin/sessions_app/backend/rooms.html", context)

    # --- what is known of it -------------------------------------------------------------------------------------------------

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


def _tenants_of_access(posted: QueryDict) -> set[int]:
    """Return the ids of tenants whom a posted form lets use the backend, or not any more."""
    found: dict[tuple[str, str], int] = {}
    for name in posted:
        named, value = re.fullmatch(r"access-([0-9]{1,9})-(id|tenant)", name), str(posted[name])
        if named and re.fullmatch(r"[0-9]{1,15}", value):
            found[named[1], named[2]] = int(value)
    rows = BackendAccess.objects.filter(pk__in=[each for (_, field), each in found.items() if field == "id"])
    was = dict(rows.values_list("pk", "tenant_id"))
    tenants: set[int | None] = set()
    for number in {number for number, _ in found}:
        before, after = was.get(found.get((number, "id"), 0)), found.get((number, "tenant"))
        if before != after or f"access-{number}-DELETE" in posted:
            tenants |= {before, after}
    return {each for each in tenants if each is not None}


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
