"""What a developer does, one session each: ``nox -l`` lists them."""

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "venv"


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests; further arguments go to pytest."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the stub."""
    session.install(".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("tools/generate_stubs.sh", "--check", external=True)


@nox.session
def stubs(session: nox.Session) -> None:
    """Write the type stub of the compiled module anew."""
    session.install(".[dev]")
    session.run("tools/generate_stubs.sh", external=True)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure and draw the benchmark report; further arguments name families."""
    session.install(".[bench]")
    session.run("python", "-m", "bench", *session.posargs)
    session.run("python", "-m", "bench.report")


@nox.session
def pictures(session: nox.Session) -> None:
    """Draw the documentation's pictures; the argument is the folder with the clips."""
    session.install(".[video]")
    session.run("python", "docs/make_pictures.py", *session.posargs)


@nox.session
def ci(session: nox.Session) -> None:
    """Run everything that must hold before a change lands."""
    session.run(".ci/run", external=True)
