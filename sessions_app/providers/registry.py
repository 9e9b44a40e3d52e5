"""From a provider's name to its class.

Owns: the look-up and the sentence for what cannot be found or loaded. Providers are imported when they are first asked for, so that one
whose packages are missing troubles only its own backends.
Refuses: reading settings; whoever makes a ``Registry`` passes the paths.
"""

import importlib
import inspect
from collections.abc import Mapping

from sessions_app.providers.base import BackendConfig, Provider
from sessions_app.providers.exceptions import ProviderNotFound


class Registry:
    """Names of providers and where their classes are.

    Args:
        paths: Name to dotted path of the class, ``package.module.Class``.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = dict(paths)
        self._loaded: dict[str, type[Provider]] = {}

    def names(self) -> tuple[str, ...]:
        """Return the registered names, sorted, loadable or not."""
        return tuple(sorted(self._paths))

    def get(self, name: str) -> type[Provider]:
        """Return the provider's class, imported at the first call.

        Raises:
            ProviderNotFound: No provider has this name, or its class cannot be loaded.
        """
        provider = self._loaded.get(name)
        if provider is None:
            path = self._paths.get(name)
            if path is None:
                raise ProviderNotFound(f"nothing is registered as {name!r}; there are {', '.join(self.names()) or 'none'}.")
            # Two threads may both get here: the import system has its own lock, and they find the same class.
            provider = self._loaded[name] = _load(name, path)
        return provider

    def create(self, name: str, config: BackendConfig) -> Provider:
        """Return a provider for one backend.

        Raises:
            ProviderNotFound: As for ``get``.
            InvalidConfig: The provider refuses the configuration.
        """
        return self.get(name)(config)


def _load(name: str, path: str) -> type[Provider]:
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise ProviderNotFound(f"{name!r} is registered with {path!r}, which is not of the form package.module.Class.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # Only the import system's own words are repeated: what else a module raises might hold what it read.
        told = f": {error}" if isinstance(error, ImportError) else ""
        raise ProviderNotFound(f"{name!r} could not be imported from {module_name!r} ({type(error).__name__}{told}).") from error
    found = getattr(module, class_name, None)
    if found is None:
        raise ProviderNotFound(f"{name!r} is registered with {path!r}, but that module has no {class_name!r}.")
    if not (inspect.isclass(found) and issubclass(found, Provider)) or inspect.isabstract(found):
        raise ProviderNotFound(f"{name!r} is registered with {path!r}, which is not a complete provider.")
    return found
