"""Files: which paths are those of installed packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnlint.files import is_installed


@pytest.mark.parametrize(
    ("path", "installed"),
    [
        pytest.param("/usr/lib/python3.11/site-packages/timm/layers.py", True, id="what pip installs"),
        pytest.param("/usr/lib/python3/dist-packages/torch/nn.py", True, id="what Debian installs"),
        pytest.param("site-packages/net.py", True, id="the folder comes first"),
        pytest.param("venv/lib/site-packages", True, id="the folder itself"),
        pytest.param(r"C:\venv\Lib\site-packages\timm\layers.py", True, id="a path of Windows"),
        pytest.param("my-site-packages/net.py", False, id="the end of another name"),
        pytest.param("site-packages-old/net.py", False, id="the beginning of another name"),
        pytest.param("tools/site-packages.py", False, id="a file of that name"),
        pytest.param("models/net.py", False, id="the user's own file"),
    ],
)
def test_a_path_of_an_installed_package_is_known_by_its_folder(path: str, installed: bool) -> None:
    assert is_installed(path) is is_installed(Path(path)) is installed
