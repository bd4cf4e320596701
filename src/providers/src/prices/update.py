#!/usr/bin/env python3
"""Writes models.tsv, the price table that is compiled in, from LiteLLM's community table.

    ./update.py model_prices_and_context_window.json --date 2026-11-22     # write models.tsv
    ./update.py model_prices_and_context_window.json --check               # compare, write nothing

Needs Python's standard library only. The JSON is not kept in this repository. Read the diff before
committing it: a price that moved is somebody's bill.

Money never passes through a binary float: literals are read as `decimal.Decimal` and written as
whole pico-dollars (1e-12 $). See `pico` for the few that are finer than that; they are listed on
standard error.

A model the new table no longer has is moved to retired.tsv, for configs outlive models; one that
came back is taken out of it, for the table is looked up first.

models.tsv has a line a model, sorted by name (bytes), seven columns parted by tabs:

    name
    litellm_provider   empty when it is the name's first path segment
    mode               empty for chat, - when the source does not say
    max_input_tokens   empty when unknown
    max_output_tokens  empty when unknown
    capabilities       a letter each, see CAPABILITIES
    prices             see below; empty when the source has none

retired.tsv has an eighth: where the price comes from.

Prices are tokens parted by spaces: a letter (see RATES) and pico-dollars. They are standard prices
until an `@` token opens a section: `@b` batch, `@f` flex, `@p` priority, `@u` ultrafast,
`@l` balanced; `@>200k` above 200000 prompt tokens; `@b>200k` both. Images, pixels, seconds of audio
and characters of speech have letters too, see UNITS; surcharges are thousandths of the list price,
see SURCHARGES. A `+` says that the source has prices in other
units (video, pages ...), which this table leaves out.
Numbers end in k, M or G for thousands, millions, milliards: a rate of `3M` is 3 $ a million tokens.
"""

import argparse
import hashlib
import json
import re
import sys
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / "models.tsv"
RETIRED = HERE / "retired.tsv"

# The same letters as in prices.rs and in tollway_wire::price.
RATES = {
    "input_cost_per_token": "i",
    "output_cost_per_token": "o",
    "cache_read_input_token_cost": "r",
    "input_cost_per_token_cache_hit": "r",  # DeepSeek's older name; the one above wins
    "cache_creation_input_token_cost": "w",
    "cache_creation_input_token_cost_above_1hr": "h",
    "input_cost_per_audio_token": "a",
    "output_cost_per_audio_token": "A",
    "cache_read_input_audio_token_cost": "c",
    "output_cost_per_reasoning_token": "t",
    "input_cost_per_image_token": "g",
    "output_cost_per_image_token": "G",
}
# What is not tokens, at the standard tier only. A pixel costs less than can be told in whole
# pico-dollars, so it is priced by the million. LiteLLM bills audio by whichever of the two keys for
# seconds is there; of two that are, the later one here wins, as there.
UNITS = {
    "output_cost_per_image": ("I", 1),
    "input_cost_per_image": ("J", 1),
    "input_cost_per_pixel": ("p", 10**6),
    "output_cost_per_pixel": ("p", 10**6),
    "input_cost_per_second": ("S", 1),
    "output_cost_per_second": ("S", 1),
    "input_cost_per_character": ("C", 1),
}
# Elsewhere an image is a song or a frame, a second one of a video, of a session or of rented hardware,
# and a character one that is read: things that nobody counts.
IMAGES = ("image_generation", "image_edit")
MODES = {
    "I": IMAGES,
    "J": (*IMAGES, "embedding"),
    "p": IMAGES,
    "S": ("audio_transcription", "audio_speech"),
    "C": ("audio_speech",),
}
RATE_ORDER = "iorwhaActgGqsFUIJpSC"
# What all tokens of a call cost that is served in another way, in thousandths of the list price:
# Anthropic's fast mode, and calls that stay in the United States.
SURCHARGES = {"fast": "F", "us": "U"}
PER_REQUEST = ("input_cost_per_query", "input_cost_per_request")
TIERS = {"batches": "b", "flex": "f", "priority": "p", "ultrafast": "u", "balanced": "l"}
TIER_ORDER = "bfpul"
KEY = re.compile(
    r"(?P<base>.+?)(?:_above_(?P<above>\d+)k_tokens)?(?:_(?P<tier>%s))?" % "|".join(TIERS)
)

CAPABILITIES = {
    "supports_assistant_prefill": "P",
    "supports_audio_input": "a",
    "supports_audio_output": "A",
    "supports_computer_use": "u",
    "supports_function_calling": "f",
    "supports_parallel_function_calling": "F",
    "supports_pdf_input": "d",
    "supports_prompt_caching": "c",
    "supports_reasoning": "r",
    "supports_response_schema": "s",
    "supports_system_messages": "m",
    "supports_tool_choice": "t",
    "supports_video_input": "V",
    "supports_vision": "v",
    "supports_web_search": "w",
}

# What a call can cost in units that Usage does not count. Tools billed apart (maps, file search,
# code interpreter sessions) are not among them: they are not a price of the model.
OTHER_UNITS = re.compile(
    r"cost_per_(image|pixel|character|second|video|page|credit|audio_per_second|text_message|unit)"
    r"|(image|video)_token"
)

PICO = Decimal(10) ** 12
# A double holds 15 decimal digits for certain. Literals with more are a float's noise
# (1.0000000000000001e-07) or a price that was divided, and the digits beyond are nobody's price.
FIFTEEN = Context(prec=15, rounding=ROUND_HALF_EVEN)

finer = []


def pico(amount, where):
    """Whole pico-dollars of a literal: rounded to 15 digits first, then up, so that a price finer
    than a pico-dollar a token (1e-6 $ a million tokens) is never charged too little. The same rule
    is `PicoDollars::parse_rounding_up`."""
    exact = Decimal(amount) * PICO
    rounded = FIFTEEN.plus(exact).to_integral_value(rounding=ROUND_CEILING)
    if rounded != exact:
        finer.append(f"{where}: {amount} -> {rounded} p$")
    if rounded < 0:
        sys.exit(f"{where} is negative: {amount}")
    return int(rounded)


def short(number):
    """3750000 -> 3750k, 3000000 -> 3M: shorter, and read as dollars a million tokens."""
    for size, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number and number % size == 0:
            return f"{number // size}{suffix}"
    return str(number)


def limit(entry, key):
    value = entry.get(key, entry.get("max_tokens"))
    if not isinstance(value, (int, Decimal)) or isinstance(value, bool) or value <= 0:
        return ""
    return short(int(value))


def prices(name, entry):
    """The prices column, or None when the entry has no price in tokens or requests."""
    sections = {}  # (tier letter, threshold) -> {rate letter: pico-dollars}

    def put(tier, above, letter, amount, key):
        section = sections.setdefault((tier, above), {})
        section.setdefault(letter, pico(amount, f"{name} {key}"))

    provider = entry["litellm_provider"]
    for base in RATES:  # in this order, so that the newer of two names for one rate wins
        for key, amount in entry.items():
            match = KEY.fullmatch(key)
            if match["base"] == base and isinstance(amount, (int, Decimal)):
                above = int(match["above"] or 0) * 1000
                # xAI bills by the next band as soon as a prompt has that many tokens.
                above -= provider == "xai" and above > 0
                put(TIERS.get(match["tier"], ""), above, RATES[base], amount, key)

    # Alibaba's bands: the first is the base, the others begin where their range does.
    for band in entry.get("tiered_pricing", []):
        above = int(band.get("range", [0])[0])
        for key, amount in band.items():
            if key in RATES:
                put("", above, RATES[key], amount, f"tiered_pricing {key}")

    units = {}
    for key, (letter, count) in UNITS.items():
        amount = entry.get(key)
        if isinstance(amount, (int, Decimal)) and amount:
            if entry.get("mode") in MODES[letter]:
                units[letter] = pico(Decimal(amount) * count, f"{name} {key}")

    base = sections.get(("", 0), {})
    # Where the source prices only audio in, or only audio or image tokens out, plain tokens are
    # not free: they are what that rate is for.
    if base and "i" not in base and "a" in base:
        base["i"] = base["a"]
    if base and "o" not in base:
        if "G" in base:
            base["o"] = base["G"]
        elif "A" in base:
            base["o"] = base["A"]

    # "Cached prompt tokens are discounted by 50 % by default" (docs.fireworks.ai, prompt caching), as
    # LiteLLM has it.
    if provider == "fireworks_ai" and base.get("i") and "r" not in base:
        base["r"] = -(-base["i"] // 2)

    per_request = 0
    for key in PER_REQUEST:
        per_request += pico(entry.get(key, 0), f"{name} {key}")

    # Image tokens that cost what any token costs, in every section, need no rate of their own. In
    # some sections only they do: what is not stated in one is taken from the standard one.
    for image, plain in (("g", "i"), ("G", "o")):
        if all(s.get(image) in (None, s.get(plain, base.get(plain))) for s in sections.values()):
            for section in sections.values():
                section.pop(image, None)
    for key in [key for key, section in sections.items() if not section and key != ("", 0)]:
        del sections[key]

    other = False
    for key, amount in entry.items():
        if not OTHER_UNITS.search(key) or not amount:
            continue
        if key in UNITS and UNITS[key][0] in units or re.search("image_token", key):
            continue
        same = "i" if key.startswith(("input", "cache")) else "o"
        if "video_token" in key and isinstance(amount, (int, Decimal)):
            # A video token that costs what any token costs is no other unit.
            tier = TIERS.get(KEY.fullmatch(key)["tier"], "")
            if pico(amount, f"{name} {key}") == sections.get((tier, 0), base).get(same):
                continue
        other = True

    known = bool(base) or per_request > 0 or bool(units)
    nothing_but_zeros = (
        not per_request and not units and not any(any(s.values()) for s in sections.values())
    )
    if not known or (other and nothing_but_zeros):
        # Zero a token and four cents a video is not free: it has no price known here.
        return "+" if other else ""

    if units:
        base = sections.setdefault(("", 0), base)
        base.update(units)
    if per_request:
        base = sections.setdefault(("", 0), base)
        base["q"] = per_request
    search = entry.get("search_context_cost_per_query") or {}
    if search:
        amount = search.get("search_context_size_medium", max(search.values()))
        if amount:
            base["s"] = pico(amount, f"{name} search_context_cost_per_query")
    special = entry.get("provider_specific_entry") or {}
    for key, letter in SURCHARGES.items():
        factor = special.get(key)
        if isinstance(factor, (int, Decimal)) and factor != 1:
            base[letter] = int((Decimal(factor) * 1000).to_integral_exact())

    words = []
    # Standard first, then as in TIER_ORDER; within a tier by threshold.
    order = lambda item: (item[0][0] != "", TIER_ORDER.find(item[0][0]), item[0][1])
    for (tier, above), section in sorted(sections.items(), key=order):
        if tier or above:
            words.append("@" + tier + (f">{short(above)}" if above else ""))
        words += [f"{letter}{short(section[letter])}" for letter in RATE_ORDER if letter in section]
    if other:
        words.append("+")
    return " ".join(words)


def line(name, entry):
    provider = entry["litellm_provider"]
    if "/" in name and name.split("/")[0] == provider:
        provider = ""
    mode = entry.get("mode", "-")
    capabilities = "".join(
        sorted(letter for key, letter in CAPABILITIES.items() if entry.get(key) is True)
    )
    columns = [
        name,
        provider,
        "" if mode == "chat" else mode,
        limit(entry, "max_input_tokens"),
        limit(entry, "max_output_tokens"),
        capabilities,
        prices(name, entry),
    ]
    if any("\t" in column or "\n" in column for column in columns) or name < "$":
        sys.exit(f"{name!r} cannot be a line")
    return "\t".join(columns)


def read_lines(path):
    """{name: line} of a table, and its comment lines."""
    lines, comments = {}, []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            if text.startswith("#"):
                comments.append(text)
            elif text:
                lines[text.split("\t")[0]] = text
    return lines, comments


def by_bytes(lines):
    return [lines[name] for name in sorted(lines, key=lambda name: name.encode())]


def main():
    parser = argparse.ArgumentParser(description="Writes models.tsv from LiteLLM's price table.")
    parser.add_argument("json", type=Path)
    parser.add_argument("--date", help="the day the JSON was fetched, YYYY-MM-DD")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()

    raw = args.json.read_bytes()
    source = json.loads(raw, parse_float=Decimal)
    new = {
        name: line(name, entry)
        for name, entry in source.items()
        if name != "sample_spec" and "litellm_provider" in entry
    }
    for note in finer:
        print(f"not whole pico-dollars: {note}", file=sys.stderr)

    old, comments = read_lines(TABLE)
    retired, retired_comments = read_lines(RETIRED)
    if args.check:
        names = sorted(old.keys() | new.keys())
        differing = [name for name in names if old.get(name) != new.get(name)]
        for name in differing:
            print(f"differs: {name}")
        sys.exit(1 if differing else 0)

    if not args.date or not re.fullmatch(r"\d{4}-\d\d-\d\d", args.date):
        sys.exit("--date YYYY-MM-DD is needed to write the table")
    for name in old.keys() - new.keys() - retired.keys():
        print(f"retired: {name}", file=sys.stderr)
        retired[name] = f"{old[name]}\tLiteLLM's table of {comments[0][2:12]}"
    for name in retired.keys() & new.keys():
        print(f"no longer retired: {name}", file=sys.stderr)
        del retired[name]

    header = (
        f"# {args.date} from LiteLLM's model_prices_and_context_window.json,"
        f" sha256 {hashlib.sha256(raw).hexdigest()}. Written by update.py; see NOTICE."
    )
    TABLE.write_text("\n".join([header, *by_bytes(new)]) + "\n", encoding="utf-8")
    RETIRED.write_text("\n".join([*retired_comments, *by_bytes(retired)]) + "\n", encoding="utf-8")
    print(f"{len(new)} models, {len(retired)} retired", file=sys.stderr)


if __name__ == "__main__":
    main()
