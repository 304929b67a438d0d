"""A command that lacks its packages says which extra installs them."""

from __future__ import annotations

import math

import pytest

from p5dist.environment.extras import need
from p5dist.errors import ConfigError


def test_a_missing_package_names_its_extra() -> None:
    assert need("math", "none", "here") is math
    with pytest.raises(ConfigError, match=r"pip install 'p5dist\[colours\]'") as e:
        need("no_such_package", "colours", "p5dist paint")
    assert e.value.where == "p5dist paint"
