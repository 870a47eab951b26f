"""The child process that compiles a chat template and renders it; its parent is `template_process.py`.

Its argument is the path of modules. It reads and writes JSON, one value a line. The first line tells `source` and the
limits, and is answered with `variables`; each further line holds the variables of a rendering, and is answered with
`text`. What the template does wrong is answered with `error` and `kind`. What takes too much time, memory or text ends
the process.

It is run by its path and imports nothing of mygpt, so that it starts in a few hundredths of a second.
"""

import json
import os
import signal
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment


class RefusedError(Exception):
    """The template called `raise_exception`."""


def to_line(value: Any) -> bytes:
    """A value as a line of JSON; `json.loads` takes it back, lone surrogates too."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def reply_limit(request: bytes, floor: int) -> int:
    """The most bytes that the answer to a request may have: a conversation of any length can be written out."""
    return floor + 2 * len(request)


def serve() -> None:
    """Answer the requests on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    sys.path += [entry for entry in json.loads(sys.argv[1]) if entry not in sys.path]
    environment()  # imports Jinja before there is a request
    template: Template | None = None
    for request in sys.stdin.buffer:
        values = json.loads(request)
        if template is None:
            start = values
        limit_resources(start["memory_bytes"] + 16 * len(request), start["cpu_s"])
        reply: dict[str, Any]
        try:
            if template is None:
                template = environment().from_string(start["source"])
                reply = {"variables": sorted(variables(start["source"]))}
            else:
                reply = {"text": template.render(values)}
        except MemoryError:
            break
        except Exception as error:  # any error that an expression can raise
            kind = "refused" if isinstance(error, RefusedError) else "failed"
            reply = {"error": str(error)[:1000], "kind": kind if template else "invalid"}
        line = to_line(reply)
        if len(line) > reply_limit(request, start["reply_bytes"]):
            break
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    os._exit(0)


def limit_resources(memory_bytes: int, cpu_s: float) -> None:
    """Limit the memory of this process, and the time on a CPU that it has from now on; Windows limits neither."""
    if sys.platform == "win32":
        return
    import contextlib
    import resource

    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it ends the process, in the middle of C code too
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def variables(source: str) -> set[str]:
    """Names that a template reads and does not only set itself."""
    from jinja2 import meta, nodes

    tree = environment().parse(source)
    names = meta.find_undeclared_variables(tree)
    # `{% if not thinking is defined %}{% set thinking = false %}{% endif %}` declares it, and yet it is the caller's.
    tested = (test.node for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined"))
    names |= {node.name for node in tested if isinstance(node, nodes.Name)}
    return names - environment().globals.keys()


def environment() -> "ImmutableSandboxedEnvironment":
    """The sandbox, with the names that templates on the Hub expect (transformers' chat_template_utils.py)."""
    from jinja2 import nodes, parser
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's text for training. Here it renders its body."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

        def parse(self, parser: parser.Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )

    def raise_exception(message: str) -> None:
        raise RefusedError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own filter escapes HTML, which the model was not trained on.
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return made


if __name__ == "__main__":
    serve()
