"""A template that takes too much time, memory or text is refused, and no process stays behind."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path
from typing import cast

import pytest

from mygpt.errors import InputError
from mygpt.text import template_process
from mygpt.text.chat_template import ChatTemplate
from mygpt.text.prompt_encoder import PromptEncoder
from mygpt.text.template_process import TemplateProcess
from mygpt.text.template_worker import to_line
from mygpt.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
USER = {"role": "user", "content": "Hi"}
DOUBLED = "{% set ns = namespace(x=%s) %}{% for i in range(9999) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
GREEDY = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long list": "{{ ([messages] * 10**9) | length }}",
    "wide JSON": "{{ messages | tojson(indent=10**9) }}",
    "a long date": "{{ strftime_now('a' * 10**8) }}",
    "a doubled text": DOUBLED.replace("%s", "'a'"),
    "a doubled structure": DOUBLED.replace("%s", "[messages]"),
    "a structure that is written out": "{% set ns = namespace(x=[messages]) %}{% for i in range(99) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "a constant": "{{ 'a' * 10**9 }}",
    "a shorter constant": "{{ 'a' * 10**8 }}",
    "a large number": "{{ (messages | length + 9) ** (10**9) }}",
    "a wide field": "{{ 'a' | center(10**9) }}",
    "an answer": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "a refusal": "{{ raise_exception('a' * 10**9) }}",
}
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "CPU_S", 0.5)


def write(template: ChatTemplate, **variables) -> str:
    return template.render([USER], special_tokens={}, **variables)


@pytest.mark.usefixtures("less_time")
@pytest.mark.parametrize("source", GREEDY.values(), ids=GREEDY)
def test_a_greedy_template_is_refused(source: str):
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"^/x/y: the chat template takes too much time or memory"):
        write(ChatTemplate(source, Path("/x/y")))
    assert (
        time.perf_counter() - start < template_process.WALL_S
    )  # a busy machine's; half a second of CPU time


@ON_LINUX
def test_memory_has_a_limit():
    """That of this process, which reads the answer, and that of the child, whose address space is limited."""
    script = """
        import resource
        from mygpt.text import template_process
        from mygpt.text.chat_template import ChatTemplate
        from tests.text.test_template_process import GREEDY, USER
        template_process.CPU_S = 0.5
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for source in GREEDY.values():
            try:
                ChatTemplate(source).render([USER], special_tokens={})
            except ValueError:
                pass
        child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, child)
    """
    ours, child = map(int, run(script).split())  # KiB
    assert ours < 100 * 1024
    assert child < 1.1 * template_process.MEMORY_BYTES / 1024


@pytest.mark.usefixtures("less_time")
def test_the_next_rendering_works():
    template = ChatTemplate("{{ greet }}{% if loop_forever %}" + GREEDY["nested loops"] + "{% endif %}")
    for _ in range(2):
        assert write(template, greet="Hi") == "Hi"
        with pytest.raises(InputError, match="too much time"):
            write(template, loop_forever=True)
    assert template.variables == {"greet", "loop_forever"}


@pytest.mark.usefixtures("less_time")
def test_a_thread_has_the_same_limits():
    errors = []

    def work() -> None:
        try:
            write(ChatTemplate(GREEDY["nested loops"]))
        except InputError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(template_process.WALL_S)
    assert len(errors) == 1 and "too much time" in errors[0]


def test_threads_share_a_template():
    template, answers = ChatTemplate("{{ name }}"), {}
    threads = [
        threading.Thread(target=lambda name=name: answers.update({name: write(template, name=name * 9999)}))
        for name in "abcdefgh"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: name * 9999 for name in "abcdefgh"}


def test_the_clock_is_a_limit_where_cpu_time_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_process, "CPU_S", 0)  # setitimer's "no limit"
    monkeypatch.setattr(template_process, "WALL_S", 1.5)
    with pytest.raises(InputError, match="too much time"):
        write(ChatTemplate(GREEDY["nested loops"]))


def test_a_long_conversation_may_be_written_out():
    """The limits of memory and text grow with what is asked."""
    text = "é" * (template_process.REPLY_BYTES // 2 + 1)
    source = "{{ messages[0].content }}"
    assert ChatTemplate(source).render([{**USER, "content": text}], special_tokens={}) == text


@pytest.mark.usefixtures("less_time")
def test_ctrl_c_while_a_template_renders_leaves_no_old_answer(monkeypatch: pytest.MonkeyPatch):
    template = ChatTemplate("{{ name }}")
    receive = template._process._receive

    def interrupted(request: bytes) -> dict:
        receive(request)
        raise KeyboardInterrupt

    monkeypatch.setattr(template._process, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(template, name="old")
    monkeypatch.undo()
    assert write(template, name="new") == "new"


def test_a_child_that_was_killed_is_started_anew():
    template = ChatTemplate("{{ name }}")
    assert write(template, name="a") == "a"
    template._process._child.kill()
    template._process._child.wait()
    with pytest.raises(InputError, match="too much"):
        write(template, name="b")
    assert write(template, name="c") == "c"


def test_lone_surrogates_and_separators_come_back():
    text = "\ud800 \u2028 \x85 \r\n \0 \N{SLIGHTLY SMILING FACE}"
    assert write(ChatTemplate("{{ name }}"), name=text) == text


# --- where and when it runs ---


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(script: str, **options) -> str:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    options = {"env": environment(), "cwd": ROOT, "timeout": 120, **options}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def test_no_module_comes_from_the_current_folder(tmp_path: Path):
    for name in ("jinja2", "markupsafe", "json", "signal"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')")
    script = f"""
        import json, signal, sys, os
        sys.path.insert(0, {str(ROOT)!r})
        from mygpt.text.chat_template import ChatTemplate
        os.chdir({str(tmp_path)!r})
        sys.path[:0] = ["", ".", {str(tmp_path)!r}]
        print(ChatTemplate("{{{{ messages[0].content }}}}").render([{USER}], special_tokens={{}}))
    """
    assert run(script) == "Hi\n"
    assert not (tmp_path / "executed").exists()


def test_standard_streams_may_be_closed(tmp_path: Path):
    script = f"""
        import os
        from mygpt.text.chat_template import ChatTemplate
        for stream in range(3):
            os.close(stream)
        text = ChatTemplate("{{{{ messages[0].content }}}}").render([{USER}], special_tokens={{}})
        open({str(tmp_path / "answer")!r}, "w").write(text)
    """
    run(script)
    assert (tmp_path / "answer").read_text() == "Hi"


def test_what_is_preloaded_into_the_parent_takes_none_of_the_childs_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LD_PRELOAD", "/nowhere/libasan.so")
    template = ChatTemplate("{{ messages[0].content }}")
    assert write(template) == "Hi"
    if sys.platform == "linux":
        environ = Path(f"/proc/{template._process._child.pid}/environ").read_bytes()
        assert b"libasan" not in environ


def is_alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int, within: float = 60.0) -> bool:
    end = time.monotonic() + within
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(pid)


PARENT = """
    import sys, time
    from mygpt.text import template_process
    from mygpt.text.chat_template import ChatTemplate
    template_process.CPU_S = 1
    template = ChatTemplate(sys.argv[1])
    print(template._process._child.pid, flush=True)
"""


@ON_LINUX
@pytest.mark.parametrize("ending", ["", "template.variables", "sys.exit(1)", "1 / 0"])
def test_no_child_outlives_its_parent(ending: str):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(PARENT) + ending, "{{ x }}"]
    parent = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert ends(int(parent.stdout))
    assert "ResourceWarning" not in parent.stderr


@ON_LINUX
@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "rendering"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_a_parent_that_was_killed(sent: signal.Signals, waiting: bool):
    busy = "time.sleep(99)" if waiting else "template.render([], special_tokens={})"
    command = [sys.executable, "-c", textwrap.dedent(PARENT) + busy, GREEDY["nested loops"]]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.send_signal(sent)
    assert ends(child)


@ON_LINUX
def test_a_template_that_is_dropped_ends_its_child():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        template = ChatTemplate("{{ x }}")
        assert write(template, x="a") == "a"
        pid = template._process._child.pid
        del template
        gc.collect()
    assert ends(pid)


def test_a_child_that_was_started_before_takes_the_next_template():
    template_process.start_spare()
    (spare,) = template_process._spares
    template = TemplateProcess("{{ x }}")
    assert template._child is spare
    assert template.render(to_line({"x": "hi"})) == {"text": "hi"}
    assert template_process._spares == []


def test_without_a_template_no_child_waits():
    template_process.start_spare()
    (spare,) = template_process._spares
    PromptEncoder(cast(Tokenizer, None), None).prepare()
    assert template_process._spares == []
    assert spare.poll() is not None
