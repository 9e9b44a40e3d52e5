"""What the admin pages of limits have in common, here and in other apps: who edits and why, and a trigger's refusal as a sentence.

Owns: the field "Why" above the buttons to save, which no table has: it is kept in the record of changes. Refuses: an error page where a
trigger of another app refused a write with a sentence (``extensions.refusal``).
"""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.db import DatabaseError, transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.functional import cached_property

from tenants import extensions, services

if TYPE_CHECKING:  # Django's own classes take no type arguments when they run
    AnyModelAdmin = admin.ModelAdmin[Any]
    AnyModelForm = forms.ModelForm[Any]
else:
    AnyModelAdmin = admin.ModelAdmin
    AnyModelForm = forms.ModelForm

WHY = "why"


class WhyForm(AnyModelForm):
    """A form that also asks why."""

    why = forms.CharField(
        required=False,
        max_length=services.MAX_NOTE_CHARS,
        label="Why",
        widget=forms.TextInput(attrs={"class": "vTextField", "autocomplete": "off"}),
        help_text="Optional. Kept with your name in the record of limit changes.",
    )

    @cached_property
    def changed_data(self) -> list[str]:
        """What was changed; why is no change."""
        return [name for name in super().changed_data if name != WHY]


class LimitsAdmin(AnyModelAdmin):
    """The page of something that has limits: an edit's record says who did it, and why if they said so."""

    form = WhyForm
    change_form_template = "admin/tenants/limits_change_form.html"

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show or save; what a trigger refuses is told above the form, which then has what is in force."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except DatabaseError as error:
            return self._tell(request, error, "Nothing was saved.")

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Ask or delete; what a trigger refuses is told above the question."""
        try:
            return super().delete_view(request, object_id, extra_context)
        except DatabaseError as error:
            return self._tell(request, error, "Nothing was deleted.")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """List, or act on what was selected; what a trigger refuses is told above the list."""
        try:
            return super().changelist_view(request, extra_context)
        except DatabaseError as error:
            return self._tell(request, error, "Nothing was changed.")

    def _tell(self, request: HttpRequest, error: DatabaseError, outcome: str) -> HttpResponse:
        sentence = extensions.refusal(error)
        if sentence is None:
            raise error
        self.message_user(request, f"{outcome} {sentence}", messages.ERROR)
        return HttpResponseRedirect(request.get_full_path())

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        """Name who edits before anything is written: this comes first, also where only an inline was changed."""
        services.name_editor(actor=request.user.get_username(), note=form.cleaned_data.get(WHY, ""))
        super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """Name who deletes."""
        services.name_editor(actor=request.user.get_username())
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Name who deletes; all of them or none."""
        with transaction.atomic():
            services.name_editor(actor=request.user.get_username())
            super().delete_queryset(request, queryset)
