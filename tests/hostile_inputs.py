"""Hostile inputs: what checked code, or a file that claims to be some, can try, and what has to be said about it.

Each kind has a folder of its own, whose `net.py` is the target. What is tried works on the folder HOSTILE_VICTIM and
the port HOSTILE_PORT of this machine. All of it is bounded, so that a sandbox that fails harms nobody: processes end
after `LIFE` seconds, there are never more than 64 of them, and files are small.
"""

# ruff: noqa: E501 - a kind stays on its line as far as it can

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

LIFE = 20

GOOD = """\
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
"""
PRELUDE = f"""\
import atexit, builtins, contextlib, ctypes, gc, json, os, pathlib, re, resource, shutil, signal, socket, subprocess
import sys, threading, time
VICTIM = os.environ["HOSTILE_VICTIM"]
PORT = int(os.environ["HOSTILE_PORT"])
LIFE = {LIFE}


def live():
    time.sleep(LIFE)
    os._exit(0)


def tried(what):
    try:
        return what()
    except BaseException:
        return None

"""
TRACED = "traced"
LATE = "took longer than"


@dataclass(frozen=True)
class Kind:
    """The files of a kind, its target, and the words that the message of its finding has to hold.

    Each entry of `says` may hold alternatives, between bars; one of all has to be said. TRACED among them means that the target may be checked as if nothing had happened, "*"
    that any status and any finding will do. A file that is None is a pipe. `hangs` is for what ends by the time limit
    only, `errors` for what ends the run with exit status 2 and an error that names the target: a request that is
    wrong, or a process in which bnlint itself fails.
    """

    files: Mapping[str, str | bytes | None]
    says: tuple[str, ...]
    hangs: bool = False
    errors: bool = False
    links: Mapping[str, str] = field(default_factory=dict)


KINDS: dict[str, Kind] = {}


def indented(code: str, depth: int) -> str:
    return textwrap.indent(textwrap.dedent(code).strip("\n"), "    " * depth)


def placed(place: str, code: str) -> dict[str, str | bytes]:
    """The files of a target that does something while it is imported, built, called or trained."""
    helper = f"{PRELUDE}\ndef act():\n{indented(code, 1)}\n"
    if place == "import":
        return {"helper.py": f"{PRELUDE}\n{textwrap.dedent(code)}", "net.py": f"import helper\n{GOOD}"}
    text = f"import helper\n{GOOD}"
    if place == "constructor":
        return {"helper.py": helper, "net.py": f"{text}        helper.act()\n"}
    if place == "forward":
        forward = "\n    def forward(self, x):\n        helper.act()\n        return super().forward(x)\n"
        return {"helper.py": helper, "net.py": f"{text}{forward}"}
    return {
        "helper.py": helper,
        "net.py": f"{text}{STEP}",
        "bnlint.toml": 'step = "net.py:train_step"\n\n[[targets]]\nmodel = "net.py:Net"\ninputs = [[3, 8, 8]]\n',
    }


STEP = """

def train_step(model, images, optimizer):
    helper.act()
    loss = model(images).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def kind(
    name: str,
    code: str,
    *says: str,
    places: tuple[str, ...] = ("import",),
    hangs: bool = False,
    errors: bool = False,
) -> None:
    """A kind that does something; with `places` at more than one moment."""
    for place in places:
        KINDS[f"{name}, {place}" if len(places) > 1 else name] = Kind(placed(place, code), says, hangs, errors)


def text(
    name: str,
    content: str | bytes | None,
    *says: str,
    hangs: bool = False,
    errors: bool = False,
    links: Mapping[str, str] | None = None,
    **beside: str | None,
) -> None:
    """A kind that is the text of its target, and of what lies beside it."""
    files = {name.replace("_", "."): text for name, text in beside.items()}
    KINDS[name] = Kind({**({} if content is None else {"net.py": content}), **files}, says, hangs, errors, links or {})


EVERYWHERE = ("import", "constructor", "forward", "step")
TWICE = ("import", "forward")

# The end of the process -------------------------------------------------------------------------------------------

kind("sys.exit", "sys.exit(3)", "3", places=EVERYWHERE)
kind("os._exit(0)", "os._exit(0)", "ended its process with exit status 0", places=EVERYWHERE)
kind("os._exit(3)", "os._exit(3)", "ended its process with exit status 3", places=TWICE)
kind("os.abort", "os.abort()", "SIGABRT", places=TWICE)
kind("segmentation fault", "ctypes.string_at(0)", "SIGSEGV", places=TWICE)
kind("SIGKILL to itself", "os.kill(os.getpid(), signal.SIGKILL)", "was killed by the system", places=EVERYWHERE)
kind("SIGTERM to itself", "os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM")
kind("SIGSTOP to itself", "os.kill(os.getpid(), signal.SIGSTOP)", LATE, places=("import", "forward"), hangs=True)
kind("signal.alarm", "signal.alarm(1)\ntime.sleep(LIFE)", "SIGALRM")
kind("KeyboardInterrupt", "raise KeyboardInterrupt", "KeyboardInterrupt", places=EVERYWHERE)
kind("GeneratorExit", "raise GeneratorExit", "GeneratorExit", places=TWICE)
kind(
    "own BaseException",
    """
    class Out(BaseException):
        def __str__(self):
            raise Out
    raise Out
    """,
    "Out",
    places=EVERYWHERE,
)
kind(
    "own SystemExit",
    """
    class Out(SystemExit):
        code = property(lambda self: os._exit(0))
        def __repr__(self):
            sys.exit(0)
    raise Out
    """,
    "exit status",
)
kind(
    "exception without text",
    """
    class Out(Exception):
        def __str__(self):
            raise Out
        __repr__ = __str__
        args = property(__str__)
    raise Out
    """,
    "Out",
    places=TWICE,
)
kind(
    "exception whose text never ends",
    """
    class Out(Exception):
        def __str__(self):
            while True:
                time.sleep(1)
    raise Out
    """,
    LATE,
    hangs=True,
)

# No end -----------------------------------------------------------------------------------------------------------

kind("loop", "while True:\n    pass", LATE, places=("import", "forward"), hangs=True)
kind("sleep", "while True:\n    time.sleep(1)", LATE, places=EVERYWHERE, hangs=True)
kind("loop under the lock", "re.match('(a+)+$', 'a' * 60 + 'b')", LATE, hangs=True)
kind(
    "deaf to signals",
    """
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)
    """,
    LATE,
    hangs=True,
)
kind(
    "handler of the alarm for the stack hangs",
    """
    import faulthandler
    faulthandler.unregister(signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(LIFE))
    while True:
        time.sleep(1)
    """,
    LATE,
    hangs=True,
)
kind(
    "every exception is caught",
    """
    while True:
        try:
            while True:
                time.sleep(0.1)
        except BaseException:
            pass
    """,
    LATE,
    places=("constructor",),
    hangs=True,
)
kind("thread that never ends", "threading.Thread(target=live).start()", TRACED, places=("import", "forward"))
kind("exit handler that hangs", "atexit.register(time.sleep, LIFE)\natexit.register(live)", TRACED)
kind(
    "hook for exceptions that hangs",
    "sys.excepthook = sys.unraisablehook = threading.excepthook = lambda *_: time.sleep(LIFE)\nraise ValueError('hooked')",
    "hooked",
)
kind(
    "finaliser that hangs",
    """
    class Stays:
        def __del__(self):
            live()
    sys.stays = Stays()
    """,
    TRACED,
)
kind(
    "finaliser that hangs at once",
    """
    class Stays:
        def __del__(self):
            while True:
                time.sleep(1)
    Stays()
    """,
    LATE,
    hangs=True,
)

# Too much ---------------------------------------------------------------------------------------------------------

kind("recursion", "def again():\n    return again()\nagain()", "RecursionError", places=("import", "constructor"))
kind(
    "recursion in C",
    """
    nested = []
    for _ in range(1_000_000):
        nested = [nested]
    repr(nested)
    """,
    "RecursionError|SIGSEGV",
)
kind(
    "recursion in a pickle",
    """
    import pickle
    nested = []
    for _ in range(1_000_000):
        nested = [nested]
    pickle.dumps(nested)
    """,
    "RecursionError|SIGSEGV",
)
kind("recursion in the compiler", "compile('-' * 1_000_000 + '1', 'x', 'eval')", "Error|SIGSEGV")
kind("recursion past the limit", "sys.setrecursionlimit(10**9)\ndef a():\n    return sorted([1], key=lambda x: a())\na()",
     "SIGSEGV|RecursionError|memory|took longer")  # fmt: skip
kind("100 GB of bytes", "bytearray(100 << 30)", "MemoryError", places=EVERYWHERE)
kind("100 GB in torch", "import torch\ntorch.ones(100 << 28)", "memory", places=("import", "forward"))
kind("100 GB in numpy", "import numpy\nnumpy.ones(100 << 27)", "Unable to allocate")
kind("endless list", "grown = []\nwhile True:\n    grown.append(bytes(1 << 16))", "MemoryError")
kind("endless output", "while True:\n    os.write(1, b'x' * 65536)\n    os.write(2, b'y' * 65536)", LATE, hangs=True)
kind("a gigabyte of output", "for _ in range(1 << 14):\n    os.write(1, b'{}\\n' * 21845)", TRACED)
kind(
    "file that grows",
    """
    import tempfile
    with open(os.path.join(tempfile.gettempdir(), 'grown'), 'wb') as file:
        os.posix_fallocate(file.fileno(), 0, 5 << 30)
    """,
    "OSError",
)
kind(
    "threads",
    """
    threading.stack_size(65536)
    until = threading.Event()
    for _ in range(2_000):
        threading.Thread(target=until.wait, args=(LIFE,), daemon=True).start()
    """,
    f"{TRACED}|RuntimeError",
)
text(
    "a million modules",
    GOOD.replace("nn.BatchNorm2d(8))", "nn.BatchNorm2d(8), *[nn.Identity() for _ in range(1_000_000)])"),
    f"memory|{LATE}",
    hangs=True,
)
text(
    "a forward that grows",
    f"{GOOD}\n    def forward(self, x):\n        while True:\n            x = x + super().forward(x).mean()\n",
    f"memory|{LATE}",
    hangs=True,
)
text(
    "a forward that calls itself",
    f"{GOOD}\n    def forward(self, x):\n        return self(x)\n",
    "RecursionError|maximum recursion",
)
text(
    "parameters of a million terabytes", f"{GOOD}        self[1].big = nn.Linear(10**9, 10**9, device='meta')\n", TRACED
)
text("parameters without a size", GOOD.replace("(8))", "(8), nn.Linear(-5, 7))"), "RuntimeError|negative")
text("parameters of a size that no number holds", GOOD.replace("(8))", "(8), nn.Linear(2**62, 2**62))"), "Error")  # fmt: skip

# Processes --------------------------------------------------------------------------------------------------------

PROCESSES = "start another process"
kind(
    "subprocess",
    f"subprocess.run(['/bin/sh', '-c', ': > $HOSTILE_VICTIM/new; sleep {LIFE}'])",
    PROCESSES,
    places=TWICE,
)
kind(
    "pip install",
    "subprocess.check_call([sys.executable, '-m', 'pip', 'install', 'no-such-package-of-bnlint'])",
    PROCESSES,
)
kind("os.system", "os.system(': > $HOSTILE_VICTIM/new')", PROCESSES)
kind("os.execv", "os.execv('/bin/sleep', ['/bin/sleep', '20'])", PROCESSES)
kind("os.posix_spawn", "os.posix_spawn('/bin/sleep', ['/bin/sleep', '20'], os.environ)", PROCESSES)
BOMB = """
for _ in range(6):  # 64 processes
    {fork}
if os.getpid() != FIRST:
    live()
"""
kind("fork bomb", "FIRST = os.getpid()" + BOMB.format(fork="tried(os.fork)"), TRACED, places=("import", "forward"))
kind(
    "fork bomb of a C library",
    "FIRST = os.getpid()\nlibc = ctypes.CDLL(None)" + BOMB.format(fork="libc.fork()"),
    "fork of a C library",
)
kind("clone by its number", "ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)", "syscall of a C library")
kind(
    "multiprocessing",
    """
    import multiprocessing
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=live, daemon=True)
        tried(process.start)
    """,
    TRACED,
)
kind("workers of a loader",
     "import torch.utils.data as data\nnext(iter(data.DataLoader([1, 2], num_workers=2)))", PROCESSES)  # fmt: skip
kind(
    "daemon",
    """
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            live()
        os._exit(0)
    """,
    PROCESSES,
    places=EVERYWHERE,
)
kind("leaves its group", "tried(os.setsid)\ntried(lambda: os.setpgid(0, os.getppid()))\nwhile True:\n    time.sleep(1)",
     LATE, hangs=True)  # fmt: skip
SIGNALS = "signal another process"
kind("kills its parent", "os.kill(os.getppid(), signal.SIGKILL)", SIGNALS, places=EVERYWHERE)
kind("stops its parent", "os.kill(os.getppid(), signal.SIGSTOP)", SIGNALS)
kind(
    "kills all that it sees",
    """
    mark = ("HOSTILE_MARK=" + os.environ["HOSTILE_MARK"]).encode()
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            if mark in (tried((folder / "environ").read_bytes) or b""):
                tried(lambda: os.kill(int(folder.name), signal.SIGKILL))
                tried(lambda: os.killpg(int(folder.name), signal.SIGKILL))
    """,
    TRACED,
)
kind("ptrace", "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)", "ptrace of a C library")
kind(
    "more memory for itself",
    "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))\nbytearray(3 << 30)",
    "change its limits",
)
kind("limits of another process", "resource.prlimit(os.getppid(), resource.RLIMIT_DATA, (1, 1))", "Error")
kind(
    "less descriptors",
    "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
    f"{TRACED}|Too many open files",
    errors=True,
)
kind(
    "no more processor time",
    "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True:\n    pass",
    "was killed|SIGXCPU",
)

# The network ------------------------------------------------------------------------------------------------------

NETWORK = "use the network"
kind("socket", "socket.create_connection(('127.0.0.1', PORT), 5)", NETWORK, places=TWICE)
kind("socket by number", "s = socket.socket()\ns.settimeout(5)\ns.connect(('127.0.0.1', PORT))", NETWORK)
kind(
    "urllib",
    "import urllib.request\nurllib.request.urlopen(f'http://127.0.0.1:{PORT}/', timeout=5)",
    NETWORK + "|download",
)
kind(
    "http.client",
    "import http.client\nc = http.client.HTTPConnection('127.0.0.1', PORT, timeout=5)\nc.request('GET', '/')",
    NETWORK,
)
kind(
    "torch.hub",
    "import torch\ntorch.hub.download_url_to_file(f'http://127.0.0.1:{PORT}/x', 'x')",
    f"{TRACED}|{NETWORK}|download",
)
kind("asyncio", "import asyncio\nasyncio.run(asyncio.wait_for(asyncio.open_connection('127.0.0.1', PORT), 5))", NETWORK)
kind("DNS", "socket.getaddrinfo('bnlint.invalid', 80)", NETWORK)
kind("datagram", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))", NETWORK)
kind("server", "s = socket.create_server(('127.0.0.1', 0))\ns.settimeout(5)\ns.accept()", NETWORK)
kind("rendezvous",
     "import torch.distributed as d\n"
     "d.init_process_group('gloo', init_method='tcp://127.0.0.1:0', rank=0, world_size=1)", "Error|refused|network")  # fmt: skip

# Files ------------------------------------------------------------------------------------------------------------

# Writes are answered so that honest programs go on: the change is made in the process alone, or refused.
CHANGES = "traced|bnlint refused to"
kind("deletes a folder", "shutil.rmtree(VICTIM)", CHANGES, places=TWICE)
kind("deletes the home", "shutil.rmtree(os.path.expanduser('~'))", CHANGES)
kind("overwrites a file", "pathlib.Path(VICTIM, 'precious').write_text('gone')", CHANGES, places=TWICE)
kind("overwrites its own source", "open(__file__, 'w').write('gone')", CHANGES)
kind("deletes its own source", "os.remove(__file__)", CHANGES)
kind("empties the history", "tried(lambda: shutil.rmtree('.git'))\nopen('.git/HEAD', 'w')", CHANGES)
kind("through a link", "import tempfile\nos.symlink(VICTIM, tempfile.gettempdir() + '/link')", "link to")
kind("renames", "os.rename(VICTIM, VICTIM + '2')", CHANGES)
kind("files of other modes", "os.chmod(VICTIM, 0)", CHANGES)
kind("its memory", "os.write(os.open('/proc/self/mem', os.O_RDWR), b'x')", CHANGES)
kind("bytecode", "import py_compile\npy_compile.compile(__file__, VICTIM + '/x.pyc')", CHANGES)
kind("saves", "import torch\ntorch.save({}, VICTIM + '/model.pt')", f"{TRACED}|refused")
kind("the terminal",
     "import fcntl, termios\nfcntl.ioctl(os.open('/dev/tty', os.O_RDONLY), termios.TIOCSTI, b'x')", "Error|type into")  # fmt: skip

# What bnlint itself lives on ----------------------------------------------------------------------------------------

kind("closes all descriptors", "os.closerange(0, 4096)", "Error|ended its process", places=TWICE)
OUTSIDE = "wrote into a descriptor that it did not open"
kind(
    "rubbish in all descriptors",
    """
    for number in range(3, 256):
        tried(lambda: os.write(number, b'\\xff\\x00 rubbish {"'))
    """,
    OUTSIDE,
    places=TWICE,
)
RESULT = (
    '{{"result": {{"target": "{target}", "status": "traced", "step": "", "coverage": 1.0, "inputs": [], '
    '"assumed_inputs": false, "notes": ["forged"], "diagnostics": [], "not_checked": [], "data": {{}}, "rules": []}}}}'
)
FORGED = [
    RESULT.format(target="good/net.py:Net"),
    '["good/net.py", ' + RESULT.format(target="good/net.py:Net") + "]",
    '{"begin": "good/net.py", "pid": 1}',
    '{"end": "good/net.py", "status": 0, "done": true, "printed": "forged", "clean": true}',
    '{"error": {"spec": null, "message": "forged", "hint": "forged"}}',
    '{"internal": {"spec": null, "message": "forged", "traceback": ""}}',
    '{"pages": [], "dependencies": null}',
    '{"pages": 5, "dependencies": 5}',
    '{"result": 5}',
    '{"ready": true}',
    "5",
    "[]",
    '["good/net.py", 5]',
    "done",
]
kind(
    "forged answers in all descriptors",
    f"""
    for line in {FORGED!r}:
        for number in range(3, 256):
            tried(lambda: os.write(number, line.encode() + b'\\n'))
    """,
    OUTSIDE,
    places=EVERYWHERE,
)
kind(
    "forged answers, then the end",
    f"""
    for line in {FORGED!r}:
        for number in range(0, 256):
            tried(lambda: os.write(number, line.encode() + b'\\n'))
    os._exit(0)
    """,
    OUTSIDE,
)
kind(
    "answers of no shape under a stolen seal",
    f"""
    from bnlint.isolation.seals import Seal
    frame = sys._getframe()
    while frame is not None:
        for seal in [item for item in frame.f_locals.values() if isinstance(item, Seal)]:
            whole = json.loads({RESULT.format(target="x")!r})["result"]
            for result in (5, [], None, {{}}, {{**whole, "target": 5}}, {{**whole, "diagnostics": [5]}}):
                for number in range(3, 64):
                    tried(lambda: os.write(number, seal.on({{"result": result}})))
        frame = frame.f_back
    """,
    OUTSIDE,
)
kind(
    "endless answers",
    """
    while True:
        for number in range(3, 64):
            tried(lambda: os.write(number, b'x' * 65536))
    """,
    OUTSIDE,
)
kind(
    "descriptors of its parent",
    """
    for process in (os.getppid(), int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])):
        for number in range(256):
            tried(lambda: os.write(os.open(f'/proc/{process}/fd/{number}', os.O_WRONLY), b'rubbish\\n'))
            tried(lambda: open(f'/proc/{process}/fd/{number}', 'wb').write(b'rubbish\\n'))
    """,
    TRACED,
)
kind(
    "modules gone",
    "for name in list(sys.modules):\n    if not name.startswith(('helper', 'torch')):\n        del sys.modules[name]",
    "Error",
    "broke the modules",
    errors=True,
)
kind(
    "modules replaced",
    "for name in ('json', 'os', 'posix', 'signal', 'bnlint.isolation.forking', 'bnlint.isolation.sandbox', 'bnlint.isolation.refusals'):\n    sys.modules[name] = None",
    f"{TRACED}|Error",
)
kind(
    "no way to exit",
    "import posix\nsys.exit = os._exit = posix._exit = exit = lambda *_: None",
    TRACED,
    places=TWICE,
)
kind(
    "no way to exit, and an error",
    "import posix\nos._exit = posix._exit = lambda *_: None\nraise KeyboardInterrupt",
    "KeyboardInterrupt",
)
kind(
    "json replaced", "json.dumps = json.JSONEncoder.encode = lambda *_, **__: '{\"result\": 5}'", f"{TRACED}|{OUTSIDE}"
)
kind(
    "builtins replaced",
    "for name in ('open', 'print', 'isinstance', 'getattr', 'len', 'repr', 'str', 'type'):\n    setattr(builtins, name, None)",
    "Error|ended its process",
)
kind("os.write replaced", "os.write = lambda *_: None", TRACED)
kind("functions of torch replaced", "import torch\nfor name in ('zeros', 'empty', 'is_tensor', 'no_grad', 'device', 'Tensor'):\n    setattr(torch, name, None)\n"
     "torch.nn.functional.batch_norm = torch.nn.functional.conv2d = None\ntorch.nn.BatchNorm2d.forward = torch.nn.Module.__call__ = lambda *_: sys.exit(7)", f"{TRACED}|Error|exit")  # fmt: skip
kind("streams gone", "sys.stdout = sys.stderr = sys.stdin = sys.__stdout__ = sys.__stderr__ = None\nprint('x')", TRACED)
kind(
    "streams that lie",
    "class Lies:\n    def __getattr__(self, name):\n        raise SystemExit(5)\nsys.stdout = sys.stderr = Lies()",
    TRACED,
)
kind("another audit hook", "def hook(*_):\n    raise ValueError('hooked')\nsys.addaudithook(hook)", "broke the modules")
kind(
    "a tracer",
    "def trace(*_):\n    raise KeyboardInterrupt\nsys.settrace(trace)\nsys.setprofile(trace)",
    "KeyboardInterrupt|ended its process",
)
kind(
    "the working folder",
    "import tempfile\nos.chdir(tempfile.gettempdir())\nos.rmdir(tempfile.gettempdir())",
    f"{TRACED}|Error",
)
kind(
    "the scratch folder",
    "import tempfile\ntried(lambda: shutil.rmtree(tempfile.gettempdir()))\ntried(lambda: shutil.rmtree(os.path.dirname(tempfile.gettempdir())))",
    TRACED,
)
kind(
    "a scratch folder that nobody may enter",
    "import tempfile\nos.makedirs(tempfile.gettempdir() + '/a/b')\nos.chmod(tempfile.gettempdir() + '/a', 0)",
    TRACED,
)
kind(
    "import hooks",
    "class Finder:\n    def find_spec(self, *_):\n        raise SystemExit(9)\nsys.meta_path.insert(0, Finder())",
    f"{TRACED}|exit|Error",
)

# Objects that lie -------------------------------------------------------------------------------------------------


def model(body: str) -> str:
    return f"import sys, time\n{GOOD}\n{indented(body, 1)}\n"


STUCK = "while True:\n        time.sleep(1)"
text("__getattr__ that raises", model("def __getattr__(self, name):\n    raise ValueError('no')"), f"{TRACED}|no|Error")
text("__getattr__ that exits", model("def __getattr__(self, name):\n    sys.exit(4)"), "ends the process with status 4")
text("__getattr__ that never ends", model(f"def __getattr__(self, name):\n    {STUCK}"), LATE, hangs=True)
text("__getattr__ that calls itself", model("def __getattr__(self, name):\n    return self.x"), "Recursion")
text("__repr__ that raises", model("def __repr__(self):\n    raise ValueError('no')"), TRACED)
text("__repr__ that exits", model("def __repr__(self):\n    sys.exit(4)"), TRACED)
text("__class__ that raises", model("__class__ = property(lambda self: 1 / 0)"), f"{TRACED}|Error")
text("__len__ that raises", model("def __len__(self):\n    raise ValueError('no')"), f"{TRACED}|Error")
text("__len__ of the wrong size", model("def __len__(self):\n    return 10**30"), f"{TRACED}|Error")
text("__eq__ and __hash__ that raise", model("__eq__ = __hash__ = lambda *_: 1 / 0"), f"{TRACED}|Error")
text("__bool__ that raises", model("def __bool__(self):\n    raise ValueError('no')"), f"{TRACED}|Error")
text(
    "named_modules that never ends",
    model("def named_modules(self, *_, **__):\n    while True:\n        yield '', self"),
    TRACED,
)
text(
    "children that raise",
    model("def named_children(self):\n    raise SystemExit\ndef children(self):\n    raise SystemExit"),
    "raises SystemExit",
)
text(
    "train that exits", model("def train(self, mode=True):\n    raise SystemExit(6)\neval = train"), "raises SystemExit"
)
text(
    "a class that claims to be a module",
    "import torch\nfrom torch import nn\nclass Net:\n    __class__ = nn.Module\n    def __getattr__(self, name):\n        return self\n    def __call__(self, *_, **__):\n        return self\nmodel = Net()\n",
    "not an nn.Module",
)
text(
    "a module that is in itself",
    GOOD + "        self.me = [self]\n        self._modules['me'] = self\n",
    f"{TRACED}|Recursion",
)
text(
    "modules that are none",
    GOOD + "        self._modules['x'] = 5\n        self._buffers['y'] = 'z'\n        self._parameters[3] = object()\n",
    "has no attribute",
    errors=True,
)
text(
    "a name with a line break",
    GOOD + "        self._modules['a\\nb\\x1b[31m\\x00'] = nn.BatchNorm2d(4, momentum=0.9)\n",
    "*",
)
text(
    "statistics that are no tensors",
    GOOD
    + "        self[1].running_mean = None\n        self[1].eps = 'x'\n        self[1].momentum = []\n        self[1].num_features = 10**400\n",
    "failed to unpack",
    errors=True,
)
text("a forward that returns itself", GOOD + "\n    def forward(self, x):\n        return self\n", TRACED)
text(
    "a forward that returns what holds itself",
    GOOD
    + "\n    def forward(self, x):\n        out = {'x': super().forward(x)}\n        out['out'] = [out]\n        return out\n",
    f"{TRACED}|Recursion",
)
text(
    "a forward that is a generator",
    GOOD + "\n    def forward(self, x):\n        while True:\n            yield x\n",
    LATE,
    hangs=True,
)
text(
    "a forward that returns a tensor subclass that raises",
    GOOD
    + "\n    def forward(self, x):\n        class Bad(torch.Tensor):\n            @classmethod\n            def __torch_function__(cls, *a, **k):\n                raise SystemExit(8)\n        return super().forward(x).as_subclass(Bad)\n",
    "SystemExit",
)
text(
    "metaclass that hangs in isinstance",
    "import time\nfrom torch import nn\nclass Meta(type):\n    def __instancecheck__(cls, thing):\n        time.sleep(10000)\n    __subclasscheck__ = __instancecheck__\nclass Odd(metaclass=Meta):\n    pass\n"
    + GOOD
    + "        self.odd = isinstance(self, Odd)\n",
    LATE,
    hangs=True,
)
text(
    "metaclass of the model that hangs",
    "import time\n"
    + GOOD.replace(
        "class Net(nn.Sequential)",
        "class Meta(type):\n    def __instancecheck__(cls, thing):\n        time.sleep(10000)\n    __subclasscheck__ = __instancecheck__\n\nclass Net(nn.Sequential, metaclass=Meta)",
    ),
    f"{TRACED}|{LATE}",
    hangs=True,
)
text(
    "metaclass that exits",
    GOOD.replace(
        "class Net(nn.Sequential)",
        "class Meta(type):\n    def __getattribute__(cls, name):\n        raise SystemExit(2)\n\nclass Net(nn.Sequential, metaclass=Meta)",
    ),
    "*",
)

# Texts ------------------------------------------------------------------------------------------------------------

ENDS = "raise SystemExit(1)\n"
text("named like torch", GOOD, TRACED, torch_py=ENDS, json_py=ENDS, bnlint_py=ENDS)
text("named like bnlint, and imported", f"import bnlint\nimport json\n{GOOD}", TRACED, bnlint_py=ENDS, json_py=ENDS)
text("50 MB", GOOD + "# " + "x" * 50_000_000 + "\n", "*", hangs=True)
text("a million lines", GOOD + "x = 1\n" * 1_000_000, "*", hangs=True)
text("nested deeply", GOOD + "x = " + "(" * 100_000 + ")" * 100_000 + "\n", "nested|parenthes|Error")
text("nested operators", GOOD + "x = " + "-" * 100_000 + "1\n", "nested|Error|memory")
text("a long chain", GOOD + "x = " + "+".join(["1"] * 100_000) + "\n", "nested|Error|recursion|*")
text("NUL bytes", GOOD.encode() + b"\0\0\0\n", "null|NUL")
text("not UTF-8", GOOD.encode() + b"# \xff\xfe\xfa\n", "utf-8|UTF-8|encod|decod")
text("UTF-16", GOOD.encode("utf-16"), "utf|encod|decod|null|NUL")
text("an unknown encoding", b"# -*- coding: rubbish -*-\n" + GOOD.encode(), "encoding|coding")


def bomb() -> bytes:
    """A deflated text of 16 GB in 16 MB: its blocks stand alone, so one is enough to have a thousand."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * 1000 + packer.flush()


UNPACKING = "zlib.decompress(pathlib.Path(__file__).with_name('bomb').read_bytes(), -15)"
KINDS["a compressed bomb"] = Kind(
    {"net.py": f"import pathlib, zlib\n{GOOD}        self.x = {UNPACKING}\n", "bomb": bomb()}, ("MemoryError",)
)

# What is no target --------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)
)


text("a link to itself", None, "is a link to net.py", errors=True, links={"net.py": "net.py"})
text("a pipe", None, "is a pipe, not a file", errors=True, net_py=None)
text("a device without end", None, "is a device, not a file", errors=True, links={"net.py": "/dev/zero"})
TRAINED = 'training = "facts.yaml"\n'
text("training facts in a pipe", GOOD, "facts.yaml", errors=True, bnlint_toml=TRAINED, facts_yaml=None)
text(
    "training facts without end",
    GOOD,
    "facts.yaml",
    errors=True,
    bnlint_toml=TRAINED,
    links={"facts.yaml": "/dev/zero"},
)
text("a billion laughs", GOOD, "facts.yaml", errors=True, bnlint_toml=TRAINED, facts_yaml=LAUGHS)
text("facts nested deeply", GOOD, "facts.yaml", errors=True, bnlint_toml=TRAINED, facts_yaml="[" * 100_000)


def folders() -> Iterator[tuple[str, Kind]]:
    """Each kind with the name of its folder."""
    for number, item in enumerate(KINDS.values()):
        yield f"k{number:03d}", item
