"""What the suites of the SDKs for Python share: cases, and how they are run."""

import os
import sys
import traceback

URL = os.environ["TOLLWAY_URL"].rstrip("/")
KEY = os.environ["TOLLWAY_KEY"]
SIDE = os.environ["SIDE"]
MODEL = "gpt-4o-mini"

CASES = []


def case(function):
    """A case: its name is the sentence."""
    CASES.append(function)
    return function


def said(text):
    return [{"role": "user", "content": text}]


def equal(have, want):
    assert have == want, f"{have!r} is not {want!r}"


def refused(kind, call):
    """Calls, and gives the error that must come of it."""
    try:
        answer = call()
    except Exception as error:
        assert isinstance(error, kind), f"{type(error).__name__} is not {kind.__name__}: {error}"
        return error
    raise AssertionError(f"no error but {answer!r}")


def run():
    words = sys.argv[1:]
    chosen = [case for case in CASES if not words or any(word in case.__name__ for word in words)]
    failed = 0
    for case in chosen:
        try:
            case()
            print(f"ok {case.__name__}", flush=True)
        except Exception:
            failed += 1
            trace = traceback.format_exc().strip().replace("\n", "\n    ")
            print(f"FAILED {case.__name__}\n    {trace}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)
