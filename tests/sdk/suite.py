"""What the suites of the SDKs for Python share: cases, and how they are run."""

import json
import os
import sys
import traceback
import urllib.request

URL = os.environ["TOLLWAY_URL"].rstrip("/")
KEY = os.environ["TOLLWAY_KEY"]
SIDE = os.environ["SIDE"]
MODEL = "gpt-4o-mini"

# A slow machine is no failure, and what fails is not to be hidden by trying again.
OPENAI = {"base_url": URL + "/v1", "api_key": KEY, "max_retries": 0, "timeout": 60.0}

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


def refused_exactly(kind, call):
    """The same: of this kind and no narrower one."""
    error = refused(kind, call)
    assert type(error) is kind, f"{type(error).__name__} is not {kind.__name__}: {error}"
    return error


def upstream_requests(marker):
    """What the gateway sent to aimock: the requests that contain the marker."""
    journal = os.environ["AIMOCK_URL"].rstrip("/") + "/__aimock/journal"
    with urllib.request.urlopen(journal, timeout=60) as answer:
        entries = json.load(answer)
    return [entry for entry in entries if marker in json.dumps(entry["body"], ensure_ascii=False)]


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
