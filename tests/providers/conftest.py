"""Lets the contract's assertions explain themselves, although it is not a test module."""

import pytest

pytest.register_assert_rewrite("tests.providers.contract")
