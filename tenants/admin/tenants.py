"""The pages of tenants: the tenant with what ``inlines`` has beside it, and what other apps show there.

Owns: pages to issue and to revoke a key, actions to suspend and to activate. A new key is in the answer to the form that asked for it
and nowhere else: Django's messages would keep it in a cookie or in the session's row.
Refuses: to delete a tenant that has rows which protect it (its history), with a sentence; editing of a key.
"""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import ForeignObjectRel, Model, Prefetch, ProtectedError, QuerySet, RestrictedError
from django.db.models.deletion import PROTECT, RESTRICT
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from tenants import credentials, extensions, selectors, services
from tenants.admin.editing import LimitsAdmin
from tenants.admin.inlines import ApiKeyInline, MembershipInline, OverrideInline, QuotaInline
from tenants.exceptions import TenantsError
from tenants.models import ApiKey, Override, Tenant
from tenants.selectors import Limit


class IssueKeyForm(forms.Form):
    """What a new key is for."""

    name = forms.CharField(max_length=100, required=False, help_text="What will use it, for example the name of a server.")


@admin.register(Tenant)
class TenantAdmin(LimitsAdmin):
    """Who may talk, and how much."""

    list_display = ["slug", "name", "status", "session_limit", "created_at"]
    list_filter = ["status"]
    list_select_related = ["quota"]
    search_fields = ["slug", "name"]
    fields = ["name", "slug", "status", "created_at"]
    readonly_fields = ("created_at",)
    inlines = [QuotaInline, OverrideInline, MembershipInline, ApiKeyInline]
    actions = ["suspend", "activate"]
    change_form_template = "admin/tenants/tenant/change_form.html"

    @admin.display(description="concurrent sessions", ordering="quota__max_concurrent_sessions")
    def session_limit(self, tenant: Tenant) -> str:
        """The limit that matters most, in the list, with what changes it for a time."""
        quota = getattr(tenant, "quota", None)
        if quota is None:
            return "no quota"
        name = "max_concurrent_sessions"
        changes = (each for each in getattr(tenant, "overrides_now", ()) if each.field == name)
        return str(Limit(name, quota.max_concurrent_sessions, tuple(changes)))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tenant]:
        """With the overrides that are in force."""
        found: QuerySet[Tenant] = super().get_queryset(request)
        return found.prefetch_related(Prefetch("overrides", selectors.overrides_in_force(), to_attr="overrides_now"))

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        """The slug stays: scripts know the tenant by it, and a change of a key column would wait for admissions that wait for it."""
        return ("created_at",) if obj is None else ("created_at", "slug")

    def get_prepopulated_fields(self, request: HttpRequest, obj: Tenant | None = None) -> dict[str, Sequence[str]]:
        """A slug from the name, when the tenant is added."""
        return {"slug": ["name"]} if obj is None else {}

    def get_inlines(self, request: HttpRequest, obj: Tenant | None) -> list[Any]:
        """A tenant that is being added has no keys and no overrides yet."""
        return [each for each in self.inlines if obj is not None or each not in {ApiKeyInline, OverrideInline}]

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Sign new overrides."""
        if formset.model is Override:
            for each in formset.extra_forms:
                each.instance.created_by = request.user.get_username()
        super().save_formset(request, form, formset, change)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> HttpResponse:
        """Add what other apps show of this tenant."""
        tenant = kwargs.get("obj")
        if tenant is not None:
            rendered = [(panel.below, panel.title, panel.render(tenant)) for panel in extensions.panels()]
            context["panels"] = [(title, content) for below, title, content in rendered if not below]
            context["panels_below"] = [(title, content) for below, title, content in rendered if below]
            context["may_issue_key"] = self._may(request, "add_apikey")
        return super().render_change_form(request, context, *args, **kwargs)

    # --- suspend and activate ----------------------------------------------------------------------------------------

    @admin.action(description="Suspend selected tenants: they start no new sessions", permissions=["change"])
    def suspend(self, request: HttpRequest, tenants: QuerySet[Tenant]) -> None:
        """Suspend; sessions that live go on."""
        self._set_status(request, tenants, Tenant.Status.SUSPENDED, "Suspended")

    @admin.action(description="Activate selected tenants", permissions=["change"])
    def activate(self, request: HttpRequest, tenants: QuerySet[Tenant]) -> None:
        """Let them start sessions again."""
        self._set_status(request, tenants, Tenant.Status.ACTIVE, "Activated")

    def _set_status(self, request: HttpRequest, tenants: QuerySet[Tenant], status: Tenant.Status, done: str) -> None:
        actor = request.user.get_username()
        changed = [each for each in tenants if services.set_status(tenant=each, status=status, actor=actor)]
        for tenant in changed:
            self.log_change(request, tenant, f"{done}.")
        names = ", ".join(each.slug for each in changed)
        self.message_user(request, f"{done}: {names}." if changed else f"Nothing to do: all were {status} already.")

    # --- API keys ----------------------------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """The pages of keys, before the ones that take any text for a tenant's id."""
        view = self.admin_site.admin_view
        return [
            path("<int:tenant_id>/issue-api-key/", view(self.issue_api_key_view), name="tenants_tenant_issue_api_key"),
            path("<int:tenant_id>/revoke-api-key/<int:key_id>/", view(self.revoke_api_key_view), name="tenants_tenant_revoke_api_key"),
            *super().get_urls(),
        ]

    def issue_api_key_view(self, request: HttpRequest, tenant_id: int) -> HttpResponse:
        """Ask for a name, then show the new key, once, in the answer to that form."""
        tenant = self._tenant(request, tenant_id, "add_apikey")
        form = IssueKeyForm(request.POST or None)
        issued = ""
        if request.method == "POST" and form.is_valid():
            try:
                issued = services.issue_api_key(tenant=tenant, name=form.cleaned_data["name"])
            except TenantsError as error:
                form.add_error("name", str(error))
            else:
                self.log_change(request, tenant, f"Issued API key vk_{credentials.prefix_of(issued)}_….")
        context = {**self._context(request, tenant, "Issue API key"), "form": form, "issued": issued}
        return TemplateResponse(request, "admin/tenants/tenant/issue_api_key.html", context)

    def revoke_api_key_view(self, request: HttpRequest, tenant_id: int, key_id: int) -> HttpResponse:
        """Ask, then revoke."""
        tenant = self._tenant(request, tenant_id, "change_apikey")
        key = ApiKey.objects.filter(tenant=tenant, pk=key_id).first()
        if key is None:
            raise Http404
        if request.method == "POST":
            if services.revoke_api_key(key_id=key.pk):
                self.log_change(request, tenant, f"Revoked API key {key}.")
                self.message_user(request, f"API key {key} is revoked.", messages.SUCCESS)
            else:
                self.message_user(request, f"API key {key} was revoked already.", messages.WARNING)
            return HttpResponseRedirect(reverse("admin:tenants_tenant_change", args=[tenant.pk]))
        context = {**self._context(request, tenant, "Revoke API key"), "key": key}
        return TemplateResponse(request, "admin/tenants/tenant/revoke_api_key.html", context)

    def _may(self, request: HttpRequest, permission: str) -> bool:
        return request.user.has_perm(f"tenants.{permission}")

    def _tenant(self, request: HttpRequest, tenant_id: int, permission: str) -> Tenant:
        tenant: Tenant | None = self.get_object(request, str(tenant_id))
        if not self.has_view_permission(request, tenant) or not self._may(request, permission):
            raise PermissionDenied
        if tenant is None:
            raise Http404
        return tenant

    def _context(self, request: HttpRequest, tenant: Tenant, title: str) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "opts": self.opts, "original": tenant, "title": title, "subtitle": str(tenant)}

    # --- deletion ----------------------------------------------------------------------------------------------------

    def get_deleted_objects(
        self, objs: QuerySet[Tenant] | Sequence[Any], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """Refuse by a question per protecting table: Django's own way would load every row of the history to list it."""
        protected = [sentence for tenant in objs for sentence in _why_kept(tenant)]
        if protected:
            return [str(each) for each in objs], {}, set(), protected
        return super().get_deleted_objects(objs, request)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Delete, or say why not; history may also begin between the question and the answer."""
        try:
            return super().delete_view(request, object_id, extra_context)
        except (ProtectedError, RestrictedError):
            self.message_user(request, "This tenant has history by now, which is kept: suspend it instead.", messages.ERROR)
            return HttpResponseRedirect(reverse("admin:tenants_tenant_change", args=[object_id]))


def _why_kept(tenant: Tenant) -> list[str]:
    """One sentence for each table whose rows forbid to delete the tenant."""
    return [
        f"{model._meta.verbose_name_plural} of {tenant}: a tenant with history is kept; suspend it instead"
        for model, field in _protecting()
        if model._base_manager.filter(**{field: tenant}).exists()
    ]


def _protecting() -> list[tuple[type[Model], str]]:
    """The models, and their fields, that point to a tenant and forbid to delete it; also those without a way back."""
    relations = (each for each in Tenant._meta.get_fields(include_hidden=True) if isinstance(each, ForeignObjectRel))
    return [(each.related_model, each.field.name) for each in relations if each.on_delete in {PROTECT, RESTRICT}]
