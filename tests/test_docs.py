"""The examples on the pages about other frameworks run as they stand."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {"torch": "torch", "jax": "jax", "dask": "dask"}


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str) -> None:
    pytest.importorskip(PAGES[page], reason=f"the extra '{PAGES[page]}' is not installed")
    if page == "jax" and importlib.util.find_spec("marey._jax") is None:
        pytest.skip("marey was built without JAX's headers")
    examples = blocks(page, "python")
    assert examples
    exec(compile("\n".join(examples), f"docs/{page}.md", "exec"), {"__name__": page})


def test_the_page_on_cpp_shows_the_program_that_is_tested() -> None:
    sources = ROOT / "tests" / "cpp"
    assert blocks("cpp", "cpp") == [(sources / "pulse_of_video.cpp").read_text()]
    tested = (sources / "CMakeLists.txt").read_text()
    for line in blocks("cpp", "cmake")[0].splitlines():
        assert line in tested
