from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.core import serializers
from django.core.exceptions import ValidationError
from pytest_django.fixtures import Settings

from sessions_app.models import Backend
from sessions_app.models.fields import Undecipherable

SECRET = "a key that nobody must see"
OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


@pytest.fixture
def backend(committed_db: None, settings: Settings) -> Backend:
    settings.VOICE_SECRET_KEYS = [OLD]
    return Backend.objects.create(name="loopback", provider="loopback", secrets={"key": SECRET})


def raw() -> str:
    return str(Backend.objects.extra(select={"raw": "secrets"}).values_list("raw", flat=True)[0])


def read() -> dict[str, str]:
    secrets: dict[str, str] = Backend.objects.get().secrets
    return secrets


def test_the_column_holds_no_plaintext(backend: Backend) -> None:
    assert SECRET not in raw()
    assert "key" not in raw()
    assert read() == {"key": SECRET}


def test_no_secrets_are_stored_as_nothing(backend: Backend) -> None:
    Backend.objects.update(secrets={})
    assert raw() == ""
    assert read() == {}


def test_the_first_key_encrypts_and_all_decrypt(backend: Backend, settings: Settings) -> None:
    settings.VOICE_SECRET_KEYS = [NEW, OLD]
    assert read() == {"key": SECRET}
    Backend.objects.get().save()
    settings.VOICE_SECRET_KEYS = [NEW]
    assert read() == {"key": SECRET}


def test_without_its_key_a_secret_is_unreadable_and_survives_other_edits(backend: Backend, settings: Settings) -> None:
    before = raw()
    settings.VOICE_SECRET_KEYS = [NEW]
    row = Backend.objects.get()
    assert isinstance(row.secrets, Undecipherable)
    assert row.secrets == {}
    row.cap = 5
    row.full_clean()
    row.save()
    assert raw() == before
    settings.VOICE_SECRET_KEYS = [OLD]
    assert read() == {"key": SECRET}


def test_dumped_data_has_no_secrets(backend: Backend, tmp_path: Path) -> None:
    dumped = serializers.serialize("json", Backend.objects.all())
    assert SECRET not in dumped
    assert raw() not in dumped


@pytest.mark.parametrize("value", [[1], '["key"]', "{", 5, {"key": 1}, "null and void"])
def test_what_is_not_an_object_of_texts_is_refused_without_being_repeated(backend: Backend, value: object) -> None:
    backend.secrets = value
    with pytest.raises(ValidationError) as refused:
        backend.full_clean()
    assert refused.value.messages == ["Secrets must be a JSON object of texts."]
