"""All addresses: the admin, login and logout, and everything of the sessions."""

from django.contrib import admin
from django.contrib.auth import views
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

admin.site.site_header = "Voice platform"
admin.site.site_title = "Voice platform"
admin.site.index_title = "Administration"
admin.site.site_url = "/talk/"

urlpatterns = [
    # Browsers ask for it on pages that name no icon, as the admin's.
    path("favicon.ico", RedirectView.as_view(url=static("sessions_app/icon.svg"))),
    path("accounts/login/", views.LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("accounts/logout/", views.LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("", include("sessions_app.urls")),
]
