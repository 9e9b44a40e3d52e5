"""Voice backends behind one contract; a folder for each, all of the same shape.

Owns: what the platform may ask of a voice backend (``base``), how a backend says no (``exceptions``), how a provider's name becomes its
class (``registry``), how its options are read (``options``), and the providers themselves.
Refuses: Django, Channels, Celery and the database, so that no provider can write state; import-linter holds this.

To add a provider, say ``acme``:

1. ``providers/acme/__init__.py`` says in a few lines what it is, which options and secrets it takes, and its limits.
2. ``providers/acme/provider.py`` has ``AcmeProvider(Provider)`` with ``name = "acme"``; read the docstring of ``base.Provider``.
   ``__init__`` checks every option and secret (``options.OptionReader``) and does nothing else: no network, no event loop.
3. Translate the vendor's errors once, at the calls to the vendor, into those of ``exceptions``; no token, key or address with credentials
   in their text. Put no time limit around whole calls, the caller does; but be safe to cancel at every ``await``.
4. Name the backend's resource after the session's id, so that ``close`` and ``list_live`` work from a process that did not open it.
5. Register it: one line in ``VOICE_PROVIDERS`` (name to import path). Its packages go into ``requirements.txt``.
6. ``tests/providers/test_acme_passes_the_provider_contract.py``: a subclass of ``tests.providers.contract.ProviderContract`` with the
   configuration of a backend that works and of one that cannot be reached. Then tests of its own, one file per behaviour, against the real
   backend.
"""
