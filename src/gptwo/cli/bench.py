"""`gptwo bench`: how fast it is here, why, and how fast the others are."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from gptwo.cli.loading import WEIGHTS, as_path, threads_option
from gptwo.cli.parameters import SectionedCommand, SectionOption
from gptwo.cli.terminal import note, write, write_json

if TYPE_CHECKING:
    from gptwo.bench.report import Report
    from gptwo.checkpoint import Checkpoint

MEASURES = ("decode", "engine", "prefill", "batch", "context", "threads")
FORMATS = tuple(name for name in WEIGHTS if name != "auto")
PEERS = "Peers"
SERVER = "Servers"

OPTIONS: list[click.Parameter] = [
    click.Argument(["model"], required=False),
    click.Option(
        ["--shape"],
        metavar="NAME",
        help="Random weights of a published size (distilgpt2, gpt2, gpt2-medium, gpt2-large, gpt2-xl) or of `tiny`."
        "  [default: gpt2]",
    ),
    click.Option(
        ["measures", "--measure"],
        multiple=True,
        type=click.Choice(MEASURES),
        help="What is measured of gptwo; may be given again.  [default: all, or none with --ladder or --peers]",
    ),
    click.Option(
        ["formats", "--weights"],
        multiple=True,
        type=click.Choice(FORMATS),
        help="Format of the weights; may be given again.  [default: all]",
    ),
    threads_option(),
    click.Option(
        ["--repetitions"], type=click.IntRange(1, 1000), help="Rounds, every case once in each.  [default: 5]"
    ),
    click.Option(["--steps"], type=click.IntRange(1, 1000), help="Tokens that one repetition decodes.  [default: 64]"),
    click.Option(["--quick"], is_flag=True, help="Fewer cases, 2 rounds, 8 tokens: to see that it works."),
    click.Option(["--ladder"], is_flag=True, help="Our optimisations, one at a time."),
    click.Option(["--ladder-png"], metavar="FILE", help="Draw the ladder; needs the extra `plot`."),
    click.Option(["--out"], metavar="FILE", help="Write the line of JSON to a file too."),
    click.Option(["--results"], metavar="DIR", help="Leave a page and its JSON there, named by date and model."),
    SectionOption(["--peers"], PEERS, is_flag=True, help="Compare with the other engines that are installed."),
    SectionOption(["only", "--peer"], PEERS, multiple=True, metavar="NAME", help="Only this peer; may be given again."),
    SectionOption(
        ["--peer-python"],
        PEERS,
        multiple=True,
        metavar="NAME=PATH",
        envvar="GPTWO_PEER_PYTHON",
        show_envvar=True,
        help="The Python that has a peer, or `all` peers; may be given again.",
    ),
    SectionOption(
        ["--cache"], PEERS, metavar="DIR", help="Where converted models are kept.  [default: ~/.cache/gptwo/bench]"
    ),
    SectionOption(
        ["urls", "--url"],
        SERVER,
        multiple=True,
        metavar="URL",
        help="Put load on the server there instead, by OpenAI's completions; several take turns.",
    ),
    SectionOption(
        ["--clients"],
        SERVER,
        type=click.IntRange(1, 4096),
        default=32,
        show_default=True,
        help="Clients, each with one request after another.",
    ),
    SectionOption(
        ["--requests"], SERVER, type=click.IntRange(1), default=64, show_default=True, help="Requests in each round."
    ),
    SectionOption(
        ["--max-tokens"],
        SERVER,
        type=click.IntRange(1),
        default=128,
        show_default=True,
        help="Tokens of each answer; the prompts have 16 words.",
    ),
    SectionOption(
        ["--api-key"], SERVER, metavar="KEY", envvar="GPTWO_API_KEY", show_envvar=True, help="Where one is asked for."
    ),
]


@click.command(cls=SectionedCommand, params=OPTIONS)
def command(**options: Any) -> None:
    """Measure how fast gptwo is on this machine: MODEL, or random weights of GPT-2's size.

    Every line says how long a step takes at best, and how near that is to the time that reading the weights from memory
    must take. Cases take turns, so that a disturbance hits all of them. The last line is JSON.

    With --url it measures servers as their clients see them: tokens per second, the time to the first token and that
    from each to the next.
    """
    if options["urls"]:
        _servers(options)
        return
    from gptwo.bench.machine import read_bandwidth, this_machine
    from gptwo.bench.report import Report
    from gptwo.cpus import available_cpus
    from gptwo.decoder.native import default_threads

    interpreters = _check_peers(options)
    threads = options["threads"] or default_threads()
    checkpoint, name = _checkpoint(options["model"], options["shape"])
    machine = this_machine()
    if machine.load > 0.5 * available_cpus():
        note(f"gptwo: the machine is busy (load {machine.load:.1f}); compare only what one run measured")
    measures = options["measures"] or (() if options["ladder"] or options["peers"] else MEASURES)
    counts = sorted({*_thread_counts(threads), threads}) if "threads" in measures else [threads]
    speeds = {count: read_bandwidth(count, 0.2 if options["quick"] else 1.0) for count in counts}
    write(f"{name}, {checkpoint.config.parameter_count:,} parameters\n{machine}; tier {machine.tier}\n")
    for count, speed in speeds.items():
        write(f"read bandwidth  {speed / 1e9:.1f} GB/s  ({count} {'thread' if count == 1 else 'threads'})\n")
    report = Report(
        model=name,
        parameters=checkpoint.config.parameter_count,
        threads=threads,
        repetitions=options["repetitions"] or (2 if options["quick"] else 5),
        machine=machine,
        read_bandwidth=speeds,
    )
    formats = options["formats"] or (("int8",) if options["quick"] else FORMATS)
    if measures:
        _measure(report, checkpoint, measures, formats, options)
    if options["ladder"]:
        _ladder(report, checkpoint, options)
    if options["peers"]:
        _peers(report, checkpoint, formats, interpreters, options)
    _leave(report, options)


def _servers(options: dict[str, Any]) -> None:
    import asyncio

    from gptwo.bench.server.load import Load, Result, lines, put_load
    from gptwo.bench.timing import turn_by_turn

    length = options["max_tokens"]
    load = Load(
        clients=options["clients"],
        requests=options["requests"],
        max_tokens=(length, length),
        extra=(("ignore_eos", True),),  # ours and vLLM's; other servers pass over it
    )
    rounds: dict[str, list[Result]] = {url: [] for url in options["urls"]}

    def task(url: str) -> float:
        result = asyncio.run(put_load(url, load, key=options["api_key"]))
        rounds[url].append(result)
        return result.seconds

    turn_by_turn(
        {url: functools.partial(task, url) for url in rounds}, options["repetitions"] or (1 if options["quick"] else 3)
    )
    for url, results in rounds.items():
        write("\n".join(lines(url, results[1:])) + "\n")


def _check_peers(options: dict[str, Any]) -> dict[str, str]:
    """The Python of each peer, found before anything is measured. Naming a peer asks for the comparison."""
    from gptwo.bench.peers.table import PEERS as TABLE
    from gptwo.bench.peers.table import pythons
    from gptwo.errors import InvalidRequestError, nearest_name

    unknown = [name for name in options["only"] if name not in TABLE]
    if unknown:
        raise InvalidRequestError(f"no peer {unknown[0][:60]!r}{nearest_name(unknown[0], TABLE)}", param="peer")
    options["peers"] = options["peers"] or bool(options["only"])
    return pythons(options["peer_python"])


def _checkpoint(model: str | None, shape: str | None) -> tuple[Checkpoint, str]:
    from gptwo.bench.random_model import random_checkpoint
    from gptwo.checkpoint import load_checkpoint
    from gptwo.errors import InvalidRequestError

    if model is None:
        shape = shape or "gpt2"
        return random_checkpoint(shape), f"{shape}-shape, random weights"
    if shape is not None:
        raise click.UsageError("MODEL brings its own shape; give one or the other")
    checkpoint = load_checkpoint(model, progress=True)
    if checkpoint.packed is not None:
        raise InvalidRequestError(
            f"{checkpoint.path} is packed as {checkpoint.packed.weights}; name the checkpoint that it was made from, "
            "which is measured in every format"
        )
    return checkpoint, model


def _thread_counts(threads: int) -> list[int]:
    return [1 << i for i in range(threads.bit_length())]


def _measure(report: Report, checkpoint: Checkpoint, measures: Any, formats: Any, options: dict[str, Any]) -> None:
    from gptwo.bench.measures import cases, result, task
    from gptwo.bench.timing import turn_by_turn
    from gptwo.decoder.native import NativeDecoder, Weights

    quick = options["quick"]
    chosen = cases(checkpoint.config, measures, formats, report.threads, quick=quick)
    steps = options["steps"] or (8 if quick else 64)
    results = []
    # What is compared takes turns: the cases of one measure, in all formats.
    decoders = {
        (weights, threads): NativeDecoder(
            checkpoint.config, checkpoint.tensors, weights=cast(Weights, weights), threads=threads
        )
        for weights, threads in dict.fromkeys((case.weights, case.threads) for case in chosen)
    }
    for measure in dict.fromkeys(case.measure for case in chosen):
        group = [case for case in chosen if case.measure == measure]
        tasks = {case: task(case, decoders[case.weights, case.threads], steps) for case in group}
        for case, times in turn_by_turn(tasks, report.repetitions).items():
            results.append(result(case, checkpoint.config, times, report.read_bandwidth[case.threads]))
            write(results[-1].line() + "\n")
    report.results = results


def _ladder(report: Report, checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    from gptwo.bench.ladder import can_speculate, climb, ladder_lines, rungs
    from gptwo.bench.measures import prompt

    config = checkpoint.config
    length = min(64, config.n_positions // 4)
    tokens = min(20 if options["quick"] else 200, config.n_positions - length)
    ladder = rungs(report.threads, speculation=can_speculate())
    repetitions = options["repetitions"] or (1 if options["quick"] else 3)
    report.ladder_text = f"{tokens} tokens after a prompt of {length}, greedy; milliseconds for each, the prompt's too."
    report.ladder = climb(
        checkpoint,
        ladder,
        prompt(config, length).tolist(),
        tokens,
        repetitions,
        done=lambda rung: note(f"ladder: {rung.name}"),
    )
    write("".join(line + "\n" for line in ladder_lines(report.ladder)))
    if options["ladder_png"]:
        from gptwo.bench.ladder_plot import draw_ladder

        caption = (
            f"{report.model}; {tokens} tokens after a prompt of {length}; {report.machine}; {report.machine.date[:10]}"
        )
        draw_ladder(
            report.ladder, as_path(options["ladder_png"]), title="What each optimisation is worth", caption=caption
        )


def _peers(
    report: Report, checkpoint: Checkpoint, formats: Any, interpreters: dict[str, str], options: dict[str, Any]
) -> None:
    from gptwo.bench.peers.comparison import Comparison, Sizes
    from gptwo.bench.peers.model_files import ModelFiles, default_cache
    from gptwo.bench.peers.table import PEERS as TABLE
    from gptwo.bench.peers.table import missing

    chosen = [peer for name, peer in TABLE.items() if not options["only"] or name in options["only"]]
    absent = {peer.title: reason for peer in chosen if (reason := missing(peer, interpreters[peer.name]))}
    for title, reason in absent.items():
        write(f"{title}: skipped, {reason}\n")
    positions = checkpoint.config.n_positions
    sizes = Sizes(
        prompt=min(16, positions // 4),
        tokens=min(16 if options["quick"] else 128, positions // 2),
        prefill=min(512, positions - 1),
        batch_tokens=min(16 if options["quick"] else 128, positions // 2),
    )
    comparison = Comparison(
        ModelFiles(checkpoint, as_path(options["cache"]) if options["cache"] else default_cache(), report.threads),
        interpreters,
        threads=report.threads,
        repetitions=report.repetitions,
        sizes=sizes,
        note=note,
    )
    comparison.run([peer for peer in chosen if peer.title not in absent], formats)
    report.contenders, report.sizes = comparison.contenders, sizes
    report.skipped = {**absent, **comparison.skipped}
    write("".join(ratio.line() + "\n" for ratio in report.ratios))


def _leave(report: Report, options: dict[str, Any]) -> None:
    """The files that were asked for, and the last line."""
    from gptwo.errors import BenchError

    if options["results"]:
        note(f"results: {report.save(as_path(options['results']))}")
    if options["out"]:
        path: Path = as_path(options["out"])
        try:
            path.write_text(json.dumps(report.as_dict()) + "\n", encoding="utf-8")
        except OSError as error:
            raise BenchError(f"{path}: cannot be written ({error.strerror})") from error
    write_json(report.as_dict())
