"""A person at the pages without a browser: cookies, links and forms over real HTTP."""

import http.cookiejar
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from typing import Final

PASSWORD: Final = "correct-horse-battery"


class _Forms(HTMLParser):
    """Collects what a browser would send of each form of a page; forms without an id are named by their action."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, str]] = {}
        self._fields: dict[str, str] | None = None
        self._select = ""
        self._textarea = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._fields = self.forms.setdefault(given.get("id") or given.get("action", ""), {})
        if self._fields is None:
            return
        name = given.get("name", "")
        if tag == "input" and name and given.get("type") not in {"submit", "button", "file"}:
            if given.get("type") not in {"checkbox", "radio"} or "checked" in given:
                self._fields[name] = given.get("value", "on" if given.get("type") == "checkbox" else "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and "selected" in given:
            self._fields[self._select] = given.get("value", "")
        elif tag == "textarea":
            self._textarea = name
            self._fields[name] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._fields = None
        elif tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._textarea = ""

    def handle_data(self, data: str) -> None:
        if self._textarea and self._fields is not None:
            self._fields[self._textarea] += data


class Visitor:
    """One person with their cookies."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        )

    def get(self, path: str) -> str:
        """Return a page, which must be there."""
        with self._opener.open(self._origin + path, timeout=20) as answer:
            return str(answer.read().decode())

    def submit(self, path: str, form: str, changes: dict[str, str]) -> str:
        """Open a page, change fields of one of its forms, send it as the browser would, and return the page that follows."""
        parser = _Forms()
        parser.feed(self.get(path))
        fields = {**parser.forms[form], **changes}
        unknown = changes.keys() - parser.forms[form].keys() - {"username", "password", "_continue"}
        assert not unknown, f"the form has no {unknown}"
        request = urllib.request.Request(
            self._origin + path,
            data=urllib.parse.urlencode(fields).encode(),
            headers={"Referer": self._origin + path, "Origin": self._origin},
        )
        with self._opener.open(request, timeout=20) as answer:
            return str(answer.read().decode())

    def sign_in(self, name: str) -> None:
        """Sign in by the page, with the password that every user of these tests has."""
        page = self.submit("/accounts/login/", "", {"username": name, "password": PASSWORD, "next": "/healthz"})
        assert "do not belong together" not in page
