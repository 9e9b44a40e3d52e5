"""What stands on a tenant's admin page beside the tenant: its one quota, overrides, members and API keys.

Owns: an override is written once its beginning and end are known, and stays as it was when it is over; a while later it is not shown
any more (the record of limit changes has it). Refuses: editing of a key.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import DateTimeField, QuerySet
from django.db.models.functions import Now
from django.forms.formsets import DELETION_FIELD_NAME
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tenants import services
from tenants.models import ApiKey, Membership, Override, Quota, Tenant

if TYPE_CHECKING:  # Django's own classes take no type arguments when they run
    QuotaStackedInline = admin.StackedInline[Quota, Tenant]
    OverrideStackedInline = admin.StackedInline[Override, Tenant]
    MembershipTabularInline = admin.TabularInline[Membership, Tenant]
    ApiKeyTabularInline = admin.TabularInline[ApiKey, Tenant]
    QuotaModelForm = forms.ModelForm[Quota]
    OverrideModelForm = forms.ModelForm[Override]
    OverrideInlineFormSet = forms.BaseInlineFormSet[Override, Tenant, forms.ModelForm[Override]]
    MembershipModelForm = forms.ModelForm[Membership]
else:
    QuotaStackedInline = OverrideStackedInline = admin.StackedInline
    MembershipTabularInline = ApiKeyTabularInline = admin.TabularInline
    QuotaModelForm = OverrideModelForm = MembershipModelForm = forms.ModelForm
    OverrideInlineFormSet = forms.BaseInlineFormSet

SHOWN_WHEN_OVER: Final = timedelta(days=14)
_MOMENT: Final = forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S")


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
        ("At the same time", {"fields": [("max_concurrent_sessions", "max_sessions_per_user", "burst"), ("reserved", "reserved_backend")]}),
        ("New sessions", {"fields": [("sessions_per_minute", "user_sessions_per_minute")]}),
        ("One session", {"fields": [("max_duration_s", "idle_timeout_s", "grace_s")]}),
        ("Queue", {"fields": [("max_queue_length", "max_queue_wait_s"), ("priority", "weight")]}),
    ]

    def get_formset(self, request: HttpRequest, obj: Tenant | None = None, **kwargs: Any) -> Any:
        """Refuse a form that was sent without the quota."""
        return super().get_formset(request, obj, validate_min=True, **kwargs)


class OverrideForm(OverrideModelForm):
    """One override; what is over can only be looked at."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_over:
            for field in self.fields.values():
                field.disabled = True

    @property
    def is_over(self) -> bool:
        """Whether its time is over."""
        return not self.instance._state.adding and self.instance.ends_at <= timezone.now()

    def clean(self) -> dict[str, Any] | None:
        """Refuse a new one that would change nothing."""
        cleaned = super().clean()
        values = self.cleaned_data
        if self.instance._state.adding and {"change", "ends_at"} <= values.keys():
            services.check_override(Override(change=values["change"], ends_at=values["ends_at"]), now=timezone.now())
        return cleaned


class OverrideFormSet(OverrideInlineFormSet):
    """The overrides; one that is over is not deleted here, since it tells what was in force."""

    def add_fields(self, form: Any, index: int | None) -> None:
        """Take the box to delete out of use where there is nothing left to stop."""
        super().add_fields(form, index)
        if form.is_over and DELETION_FIELD_NAME in form.fields:
            form.fields[DELETION_FIELD_NAME].disabled = True


class OverrideInline(OverrideStackedInline):
    """Changes of a limit for a time: those that come, are in force, or were until lately."""

    model = Override
    form = OverrideForm
    formset = OverrideFormSet
    extra = 0
    ordering = ("-ends_at",)
    verbose_name_plural = "Overrides: a limit for a time (times are UTC)"
    fields = (("field", "change"), ("starts_at", "ends_at"), "note", ("now", "created_by"))
    # One box for a time instead of Django's two.
    formfield_overrides = {DateTimeField: {"form_class": forms.DateTimeField, "widget": _MOMENT}}
    readonly_fields = ("now", "created_by")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Override]:
        """Leave out what has been over for a while."""
        return super().get_queryset(request).filter(ends_at__gt=Now() - SHOWN_WHEN_OVER)

    @admin.display(description="now")
    def now(self, override: Override) -> str:
        """Whether it is in force."""
        if override._state.adding:
            return "–"
        now = timezone.now()
        return "over" if override.ends_at <= now else "in force" if override.starts_at <= now else "upcoming"


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
