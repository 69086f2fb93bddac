"""Programs in C++ and C, built against the installed package, without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import marey
import pytest

SOURCES = Path(__file__).parent / "cpp"
IN_USE = os.environ.get("MAREY_ISA") or marey.config.available_isas()[-1]


# Without optimisation every inline function of the headers is a symbol beside those of the library.
@pytest.fixture(scope="module", params=["Release", "Debug"])
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        package = marey.get_cmake_dir()
    except FileNotFoundError as error:
        pytest.skip(f"marey runs from its source tree: {error}")
    cmake = shutil.which("cmake")
    assert cmake is not None, "the extra 'test' has it"
    build = tmp_path_factory.mktemp("cpp")
    definitions = [f"-Dmarey_DIR={package}", f"-DCMAKE_BUILD_TYPE={request.param}"]
    for command in (
        [cmake, "-S", str(SOURCES), "-B", str(build), *definitions],
        [cmake, "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build


def run(program: Path, **environment: str) -> str:
    done = subprocess.run(
        [program], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_cpp_program_filters_and_convolves(programs: Path) -> None:
    lines = run(programs / "pulse_of_video").splitlines()
    assert lines[0] == f"{IN_USE}: 12 rises in 10 s"
    assert lines[1].startswith("[marey.down] out: expected shape (24, 32); found")


def test_cpp_program_obeys_the_forced_instruction_set(programs: Path) -> None:
    assert run(programs / "pulse_of_video", MAREY_ISA="baseline").startswith("baseline: 12 rises")


def test_c_program_has_the_same_entry_points(programs: Path) -> None:
    lines = run(programs / "plain_c").splitlines()
    assert lines[0] == IN_USE
    assert lines[1].endswith("found 'abacus'")


def test_programs_need_no_python(programs: Path) -> None:
    linked = subprocess.run(["ldd", programs / "pulse_of_video"], capture_output=True, text=True)
    assert "libgomp" in linked.stdout
    assert "python" not in linked.stdout


def test_headers_are_where_get_include_says(programs: Path) -> None:
    folder = Path(marey.get_include()) / "marey"
    assert {path.name for path in folder.iterdir()} >= {"marey.h", "marey.hpp"}
