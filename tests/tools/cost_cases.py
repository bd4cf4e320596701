#!/usr/bin/env python3
"""Writes src/providers/tests/costs/cases.tsv: what calls cost, reckoned apart from Tollway.

    tests/tools/cost_cases.py model_prices_and_context_window.json > src/providers/tests/costs/cases.tsv

It reads LiteLLM's JSON, not our table, and follows LiteLLM's rules (litellm_core_utils/llm_cost_calc,
1.109) over `Decimal`. A row: provider, model, service tier, counts, pico-dollars. A model that begins
with `=` is a price list of its own, as a config has it. Where rules differ, `bill` says why.
"""

import json
import sys
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal

PRICES = json.load(open(sys.argv[1]), parse_float=Decimal)
FIFTEEN = Context(prec=15, rounding=ROUND_HALF_EVEN)
SUFFIX = {"standard": "", "default": "", "batch": "_batches", "flex": "_flex", "priority": "_priority", "fast": "_priority"}


def pico(amount):
    """A price as it is billed: 15 digits, for the rest is a float's noise, and whole pico-dollars."""
    exact = FIFTEEN.plus(Decimal(amount)) * 10**12
    return int(exact.to_integral_value(rounding=ROUND_CEILING))


class Entry:
    def __init__(self, entry, provider, tier, prompt):
        self.entry, self.tier = dict(entry), SUFFIX[tier]
        # "xAI bill[s] the higher tier once the prompt reaches the threshold."
        reached = lambda above: prompt >= above if provider == "xai" else prompt > above
        for band in entry.get("tiered_pricing", []):
            if prompt > band["range"][0] or band["range"][0] == 0:
                self.entry.update({k: v for k, v in band.items() if k != "range"})
        above = {key.split("_above_")[1].split("k_tokens")[0] for key in entry if "k_tokens" in key
                 and key.split("_above_")[-1].split("k_tokens")[0].isdigit()
                 and key.split("_above_")[1].split("k_tokens")[0].isdigit()}
        self.above = [k for k in sorted(map(int, above), reverse=True) if reached(k * 1000)]
        if provider == "fireworks_ai" and "cache_read_input_token_cost" not in entry:
            self.entry["cache_read_input_token_cost"] = Decimal(entry["input_cost_per_token"]) / 2

    def rate(self, key):
        """The highest threshold first, and there the tier first."""
        for part in [f"_above_{k}k_tokens" for k in self.above] + [""]:
            for tier in dict.fromkeys((self.tier, "")):
                if self.entry.get(key + part + tier) is not None:
                    return pico(self.entry[key + part + tier])
        return None

    def own(self, key):
        """Of the tier, or else the standard one; thresholds do not matter."""
        found = self.entry.get(key + self.tier, self.entry.get(key))
        return None if found is None else pico(found)


def bill(provider, entry, tier, c):
    # The tier that the answer names is billed, not the one that was asked for.
    tier = c.get("tier", tier)
    prompt, completion = c.get("prompt", 0), c.get("completion", 0)
    e = Entry(entry, provider, tier, prompt)
    first = lambda *rates: next((rate for rate in rates if rate is not None), 0)
    plain_in = first(e.rate("input_cost_per_token"), e.own("input_cost_per_audio_token"))
    plain_out = first(e.rate("output_cost_per_token"), e.own("output_cost_per_image_token"),
                      e.own("output_cost_per_audio_token"))
    write = first(e.rate("cache_creation_input_token_cost"), plain_in)
    total = 0
    # Kinds that together are more than there are tokens: cached ones count first.
    left = prompt
    for kind, rate in [
        ("read", first(e.rate("cache_read_input_token_cost"), plain_in)),
        ("write1h", first(e.rate("cache_creation_input_token_cost_above_1hr"), write)),
        ("write", write),
        ("audio_in", first(e.own("input_cost_per_audio_token"), plain_in)),
        ("image_in", first(e.own("input_cost_per_image_token"), plain_in)),
    ]:
        count = min(c.get(kind, 0), left)
        left -= count
        total += count * rate
    total += left * plain_in
    # A tier with an output rate and none for thinking bills thinking as output.
    reasoning = e.entry.get("output_cost_per_reasoning_token" + e.tier)
    if reasoning is None and not (e.tier and e.entry.get("output_cost_per_token" + e.tier) is not None):
        reasoning = e.entry.get("output_cost_per_reasoning_token")
    reasoning = plain_out if reasoning is None else pico(reasoning)
    left = completion
    for kind, rate in [
        ("reasoning", reasoning),
        ("audio_out", first(e.own("output_cost_per_audio_token"), plain_out)),
        ("image_out", first(e.own("output_cost_per_image_token"), plain_out)),
    ]:
        count = min(c.get(kind, 0), left)
        left -= count
        total += count * rate
    total += left * plain_out
    # All tokens, as Anthropic's price list has it ("Pricing", 2026-11); LiteLLM leaves the cache's out.
    special = entry.get("provider_specific_entry", {})
    for asked, value in (("speed", "fast"), ("geo", "us")):
        if c.get(asked) == value:
            total = int((total * Decimal(special.get(value, 1))).to_integral_value(rounding=ROUND_CEILING))
    search = entry.get("search_context_cost_per_query", {})
    total += c.get("searches", 0) * pico(search.get("search_context_size_medium", 0))
    per_query = pico(entry.get("input_cost_per_query", 0)) + pico(entry.get("input_cost_per_request", 0))
    total += max(c.get("queries", 1), 1) * per_query
    # An image, a second or a character is billed as such only where no tokens stand for it.
    units = Decimal(0)
    if not c.get("image_out"):
        per_image = entry.get("output_cost_per_image") or entry.get("input_cost_per_image") or 0
        per_pixel = entry.get("output_cost_per_pixel") or entry.get("input_cost_per_pixel") or 0
        units += c.get("images", 0) * Decimal(per_image) if per_image else c.get("pixels", 0) * Decimal(per_pixel)
    if not prompt + completion:
        second = entry.get("output_cost_per_second") or entry.get("input_cost_per_second") or 0
        units += Decimal(c.get("audio_ms", 0)) / 1000 * Decimal(second)
        units += c.get("characters", 0) * Decimal(entry.get("input_cost_per_character") or 0)
    return total + int((units * 10**12).to_integral_value(rounding=ROUND_CEILING))


def row(provider, model, tier, counts):
    if model.startswith("="):
        entry = {k: Decimal(v) for k, v in (pair.split(":") for pair in model[1:].split(","))}
    else:
        entry = next((PRICES[name] for name in (f"{provider}/{model}", model) if name in PRICES), None)
        if entry is None:
            return print(f"not in the table: {provider} {model}", file=sys.stderr)
    shown = " ".join(f"{name}={count}" for name, count in counts.items())
    print("\t".join([provider, model, tier, shown, str(bill(provider, entry, tier, counts))]))


PLAIN = [{"prompt": 1, "completion": 1}, {"prompt": 1234, "completion": 567}]
CACHED = {"prompt": 9000, "completion": 321, "read": 7000}
WRITES = {"prompt": 9001, "completion": 77, "read": 1000, "write": 2000, "write1h": 3000}
THINKS = {"prompt": 77, "completion": 900, "reasoning": 850}
SPEAKS = {"prompt": 500, "completion": 400, "audio_in": 300, "audio_out": 350}
PAINTS = {"prompt": 400, "completion": 1400, "image_in": 258, "image_out": 1290}
ABSURD = {"prompt": 10, "completion": 5, "read": 99, "write": 99, "reasoning": 50, "audio_out": 7}
around = lambda k: [{"prompt": n, "completion": 1000} for n in (k * 1000, k * 1000 + 1)]
across = lambda k: [{"prompt": k * 1000 + 1, "completion": 500, "read": 90_000, "write": 20_000, "write1h": 9_000,
                     "reasoning": 400}]

def main():
    print("# Written by tests/tools/cost_cases.py from LiteLLM's table of 2026-11-22.")
    for provider, model in [
        ("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("openai", "gpt-4.1"), ("openai", "gpt-5"),
        ("openai", "gpt-5-mini"), ("openai", "o3"), ("openai", "o4-mini"), ("openai", "gpt-3.5-turbo"),
        ("azure", "gpt-4o"), ("azure", "gpt-4.1-mini"), ("mistral", "mistral-small-latest"),
        ("groq", "llama-3.3-70b-versatile"), ("deepseek", "deepseek-chat"), ("cohere", "command-a-03-2025"),
        ("xai", "grok-3"), ("perplexity", "sonar-pro"), ("bedrock", "amazon.nova-lite-v1:0"),
        ("vertex_ai", "gemini-2.5-pro"), ("fireworks_ai", "accounts/fireworks/models/deepseek-v3"),
    ]:
        for counts in [*PLAIN, CACHED, THINKS]:
            row(provider, model, "standard", counts)
        row(provider, model, "standard", ABSURD)
    for model in ["gpt-4o", "gpt-5", "gpt-5-mini", "o3", "o4-mini", "gpt-4.1"]:
        for tier in ["batch", "flex", "priority", "fast"]:
            for counts in [PLAIN[1], CACHED, THINKS]:
                row("openai", model, tier, counts)
    for provider in ["gemini", "vertex_ai"]:
        for model in ["gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-3-flash-preview"]:
            for tier in ["standard", "batch", "flex", "priority"]:
                for counts in [PLAIN[1], CACHED, THINKS, {"prompt": 500, "completion": 90, "audio_in": 300}]:
                    row(provider, model, tier, counts)
    for provider, model, k in [
        ("gemini", "gemini-2.5-pro", 200), ("gemini", "gemini-1.5-pro", 128), ("vertex_ai", "gemini-2.5-pro", 200),
        ("anthropic", "claude-sonnet-4-20250514", 200), ("bedrock", "anthropic.claude-sonnet-4-20250514-v1:0", 200),
        ("xai", "grok-4", 128), ("xai", "grok-4-fast-reasoning", 128), ("openai", "gpt-5.4", 272),
        ("xai", "grok-4.20-0309-reasoning", 200), ("gemini", "gemini-3-pro-preview", 200),
        ("dashscope", "qwen-plus-latest", 256), ("dashscope", "qwen3-coder-plus", 128),
    ]:
        for tier in ["standard", "batch", "priority"]:
            for counts in [*around(k), *across(k)]:
                row(provider, model, tier, counts)
    for provider, model in [
        ("anthropic", "claude-sonnet-4-5-20250929"), ("anthropic", "claude-opus-4-1-20250805"),
        ("anthropic", "claude-haiku-4-5-20251001"), ("anthropic", "claude-sonnet-4-6"),
        ("bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0"), ("vertex_ai", "claude-sonnet-4@20250514"),
    ]:
        for counts in [PLAIN[1], WRITES, ABSURD, {"prompt": 100, "completion": 20, "searches": 3}]:
            row(provider, model, "standard", counts)
    for tier in ["batch", "priority", "fast"]:
        row("anthropic", "claude-sonnet-4-5-20250929", tier, WRITES)
    for provider, model in [
        ("openai", "gpt-4o-audio-preview-2024-12-17"), ("openai", "gpt-realtime"), ("openai", "gpt-audio"),
        ("openai", "gpt-4o-realtime-preview"), ("gemini", "gemini-2.5-flash-preview-tts"),
        ("openai", "gpt-4o-transcribe"), ("openai", "gpt-4o-mini-tts"),
    ]:
        row(provider, model, "standard", SPEAKS)
        row(provider, model, "standard", PLAIN[1])
    for provider, model in [
        ("openai", "gpt-image-1"), ("openai", "gpt-image-1.5"), ("azure", "gpt-image-1"),
        ("gemini", "gemini-2.5-flash-image"), ("gemini", "gemini-3-pro-image-preview"), ("openai", "gpt-image-2"),
    ]:
        for counts in [PAINTS, PLAIN[1], {**PAINTS, "read": 200, "images": 1}]:
            row(provider, model, "standard", counts)
    for provider, model in [("openai", "dall-e-2"), ("openai", "dall-e-3"), ("bedrock", "stability.sd3-large-v1:0"),
                            ("vertex_ai", "imagen-4.0-generate-001"), ("bedrock", "amazon.nova-canvas-v1:0")]:
        row(provider, model, "standard", {"images": 3, "pixels": 3 * 1024 * 1024})
    for provider, model in [("openai", "whisper-1"), ("groq", "whisper-large-v3"), ("groq", "whisper-large-v3-turbo"),
                            ("deepgram", "nova-3"), ("elevenlabs", "scribe_v1")]:
        for ms in (1, 999, 60_001):
            row(provider, model, "standard", {"audio_ms": ms})
    for provider, model in [("openai", "tts-1"), ("openai", "tts-1-hd"), ("vertex_ai", "chirp")]:
        row(provider, model, "standard", {"characters": 4096})
    for provider, model in [
        ("openai", "text-embedding-3-small"), ("openai", "text-embedding-3-large"), ("cohere", "embed-v4.0"),
        ("mistral", "mistral-embed"), ("voyage", "voyage-3.5"), ("bedrock", "amazon.titan-embed-text-v2:0"),
        ("gemini", "gemini-embedding-001"), ("jina_ai", "jina-reranker-v2-base-multilingual"),
    ]:
        row(provider, model, "standard", {"prompt": 8191})
    for provider, model in [("cohere", "rerank-v3.5"), ("cohere", "rerank-english-v3.0"),
                            ("bedrock", "cohere.rerank-v3-5:0"), ("azure_ai", "cohere-rerank-v3.5")]:
        for queries in (0, 1, 7):
            row(provider, model, "standard", {"queries": queries})
    for provider, model in [("openai", "gpt-4o-search-preview"), ("perplexity", "sonar"), ("xai", "grok-4"),
                            ("gemini", "gemini-2.5-pro"), ("openai", "gpt-4.1")]:
        for searches in (1, 5):
            row(provider, model, "standard", {"prompt": 50, "completion": 70, "searches": searches})
    for model in ["claude-opus-4-8", "claude-opus-5-5", "claude-sonnet-4-6", "claude-haiku-5-5", "claude-sonnet-4-5-20250929"]:
        for served in [{"speed": "fast"}, {"geo": "us"}, {"speed": "fast", "geo": "us"}, {"speed": "standard", "geo": "eu"},
                       {"tier": "batch", "geo": "us"}]:
            for counts in [PLAIN[1], WRITES, {"prompt": 100, "completion": 20, "searches": 3}]:
                row("anthropic", model, "standard", {**counts, **served})
    for model in ["gpt-4o", "gpt-5", "gpt-5-mini", "o3"]:
        for asked, served in [("priority", "default"), ("standard", "priority"), ("flex", "default"), ("standard", "flex"),
                              ("priority", "priority")]:
            for counts in [PLAIN[1], CACHED, THINKS]:
                row("openai", model, asked, {**counts, "tier": served})
    for prices in [
        "input_cost_per_token:0,output_cost_per_token:0",
        "input_cost_per_token:0.000001,output_cost_per_token:0.000002",
        "input_cost_per_token:1e-12,output_cost_per_token:1E-11",
        "input_cost_per_token:1.0000000000000001e-07,output_cost_per_token:2.9999999999999997e-06",
        "input_cost_per_token:1e-6,output_cost_per_token:2e-6,cache_read_input_token_cost:0",
        "input_cost_per_token:1e-6,output_cost_per_token:2e-6,input_cost_per_request:0.01",
        "input_cost_per_token:1e-6,output_cost_per_token:2e-6,output_cost_per_reasoning_token:9e-6",
        "input_cost_per_token:1e-6,output_cost_per_token:2e-6,output_cost_per_token_flex:1e-6,"
        "output_cost_per_reasoning_token:9e-6",
        "input_cost_per_token:3e-6,output_cost_per_token:15e-6,input_cost_per_token_above_128k_tokens:6e-6",
    ]:
        for counts in [*PLAIN, CACHED, THINKS, WRITES]:
            for tier in ["standard", "flex"]:
                row("openai", f"={prices}", tier, counts)


main()
