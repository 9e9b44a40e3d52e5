"""Tenants in Django admin: the tenant with its one quota, its members and API keys, and what other apps show beside them.

Owns: pages to issue and to revoke a key, actions to suspend and to activate. A new key is in the answer to the form that asked for it
and nowhere else: Django's messages would keep it in a cookie or in the session's row.
Refuses: to delete a tenant that has rows which protect it (its history), with a sentence; editing of a key.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import ForeignObjectRel, Model, ProtectedError, QuerySet, RestrictedError
from django.db.models.deletion import PROTECT, RESTRICT
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tenants import credentials, extensions, services
from tenants.exceptions import TenantsError
from tenants.models import ApiKey, Membership, Quota, Tenant

if TYPE_CHECKING:  # Django's own classes take no type arguments when they run
    TenantModelAdmin = admin.ModelAdmin[Tenant]
    QuotaStackedInline = admin.StackedInline[Quota, Tenant]
    MembershipTabularInline = admin.TabularInline[Membership, Tenant]
    ApiKeyTabularInline = admin.TabularInline[ApiKey, Tenant]
    QuotaModelForm = forms.ModelForm[Quota]
    MembershipModelForm = forms.ModelForm[Membership]
else:
    TenantModelAdmin = admin.ModelAdmin
    QuotaStackedInline = admin.StackedInline
    MembershipTabularInline = ApiKeyTabularInline = admin.TabularInline
    QuotaModelForm = MembershipModelForm = forms.ModelForm


class QuotaForm(QuotaModelForm):
    """A quota; a new one is saved also when nobody changed its defaults."""

    def has_changed(self) -> bool:
        """Whether there is something to save."""
        return self.instance._state.adding or super().has_changed()


class QuotaInline(QuotaStackedInline):
    """Always exactly one."""

    model = Quota
    form = QuotaForm
    verbose_name_plural = "Quota"
    min_num = max_num = 1
    extra = 0
    can_delete = False
    fieldsets = [
        ("At the same time", {"fields": [("max_concurrent_sessions", "max_sessions_per_user"), ("reserved", "burst")]}),
        ("New sessions", {"fields": [("sessions_per_minute", "user_sessions_per_minute")]}),
        ("One session", {"fields": [("max_duration_s", "idle_timeout_s", "grace_s")]}),
        ("Queue", {"fields": [("max_queue_length", "max_queue_wait_s"), ("priority", "weight")]}),
    ]

    def get_formset(self, request: HttpRequest, obj: Tenant | None = None, **kwargs: Any) -> Any:
        """Refuse a form that was sent without the quota."""
        return super().get_formset(request, obj, validate_min=True, **kwargs)


class MembershipForm(MembershipModelForm):
    """One member; Django leaves a constraint that spans the inline's own tenant to the database, which would answer with an error page."""

    def clean(self) -> dict[str, Any] | None:
        """Refuse a second membership of the same user with a sentence."""
        cleaned = super().clean()
        user = self.cleaned_data.get("user")
        same = Membership.objects.filter(tenant_id=self.instance.tenant_id, user=user).exclude(pk=self.instance.pk)
        if user is not None and same.exists():
            raise ValidationError(f"{user} is a member already.")
        return cleaned


class MembershipInline(MembershipTabularInline):
    """Django users who may act for the tenant."""

    model = Membership
    form = MembershipForm
    extra = 0
    autocomplete_fields = ["user"]


class ApiKeyInline(ApiKeyTabularInline):
    """Keys as they are; issuing and revoking have pages of their own."""

    model = ApiKey
    extra = 0
    can_delete = False
    verbose_name_plural = "API keys"
    readonly_fields = ("key", "name", "created_at", "last_used_at", "revoked_at", "revocation")

    def get_fields(self, request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        """The way to revoke for those who may."""
        may_revoke = request.user.has_perm("tenants.change_apikey")
        return "key", "name", "created_at", "last_used_at", "revocation" if may_revoke else "revoked_at"

    def has_add_permission(self, request: HttpRequest, obj: Tenant | None = None) -> bool:
        """Never by a form of this page."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Tenant | None = None) -> bool:
        """Never: a key is issued and revoked."""
        return False

    @admin.display(description="key")
    def key(self, key: ApiKey) -> str:
        """The part that may be shown."""
        return str(key)

    @admin.display(description="revoked")
    def revocation(self, key: ApiKey) -> SafeString | str:
        """When it was revoked, or the way to do it."""
        if key.revoked_at is not None:
            return f"{key.revoked_at:%Y-%m-%d %H:%M} UTC"
        return format_html('<a href="{}">Revoke</a>', reverse("admin:tenants_tenant_revoke_api_key", args=[key.tenant_id, key.pk]))


class IssueKeyForm(forms.Form):
    """What a new key is for."""

    name = forms.CharField(max_length=100, required=False, help_text="What will use it, for example the name of a server.")


@admin.register(Tenant)
class TenantAdmin(TenantModelAdmin):
    """Who may talk, and how much."""

    list_display = ["slug", "name", "status", "session_limit", "created_at"]
    list_filter = ["status"]
    list_select_related = ["quota"]
    search_fields = ["slug", "name"]
    fields = ["name", "slug", "status", "created_at"]
    readonly_fields = ("created_at",)
    inlines = [QuotaInline, MembershipInline, ApiKeyInline]
    actions = ["suspend", "activate"]
    change_form_template = "admin/tenants/tenant/change_form.html"

    @admin.display(description="concurrent sessions", ordering="quota__max_concurrent_sessions")
    def session_limit(self, tenant: Tenant) -> str:
        """The limit that matters most, in the list."""
        quota = getattr(tenant, "quota", None)
        if quota is None:
            return "no quota"
        return "unlimited" if quota.max_concurrent_sessions is None else str(quota.max_concurrent_sessions)

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> tuple[str, ...]:
        """The slug stays: scripts know the tenant by it, and a change of a key column would wait for admissions that wait for it."""
        return ("created_at",) if obj is None else ("created_at", "slug")

    def get_prepopulated_fields(self, request: HttpRequest, obj: Tenant | None = None) -> dict[str, Sequence[str]]:
        """A slug from the name, when the tenant is added."""
        return {"slug": ["name"]} if obj is None else {}

    def get_inlines(self, request: HttpRequest, obj: Tenant | None) -> list[Any]:
        """A tenant that is being added has no keys yet."""
        return [each for each in self.inlines if obj is not None or each is not ApiKeyInline]

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> HttpResponse:
        """Add what other apps show of this tenant."""
        tenant = kwargs.get("obj")
        if tenant is not None:
            context["panels"] = [(panel.title, panel.render(tenant)) for panel in extensions.panels()]
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
        changed = [each for each in tenants if services.set_status(tenant=each, status=status)]
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
        tenant = self.get_object(request, str(tenant_id))
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
