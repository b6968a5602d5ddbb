"""A plugin on the unmodified eKuiper SDK for Python: five functions, a source and a sink."""

import os
import threading
import time

from ekuiper import Function, PluginConfig, Sink, Source, plugin


class Answer(Function):
    """A function from a callable of its arguments."""

    def __init__(self, call):
        self.call = call

    def validate(self, args):
        return ""

    def exec(self, args, ctx):
        return self.call(*args)

    def is_aggregate(self):
        return False


def refuse(message):
    raise ValueError(message)


class Counter(Source):
    """Emits {"n": 1, "topic": ...}, {"n": 2, ...}; an error instead of each `fail`th; ends after `last`."""

    def configure(self, datasource, conf):
        if conf.get("interval", 1) <= 0:
            raise ValueError("interval must be positive")
        self.topic, self.conf = datasource, conf
        self.done = threading.Event()

    def open(self, ctx):
        n = 0
        while not self.done.wait(self.conf.get("interval", 1) / 1000):
            n += 1
            if n == self.conf.get("fail"):
                ctx.emit_error("number %d" % n)
            else:
                ctx.emit({"n": n, "topic": self.topic}, {"meta": True})
            if n == self.conf.get("last"):
                return

    def close(self, ctx):
        self.done.set()


class File(Sink):
    """Appends each message to a file and acknowledges it; refuses `bad`."""

    def configure(self, conf):
        self.path = conf["path"]

    def open(self, ctx):
        self.file = open(self.path, "ab", buffering=0)

    def collect(self, ctx, data):
        if data == b"bad":
            ctx.ack_error("bad message")
            return
        self.file.write(data + b"\n")
        ctx.ack_ok()

    def close(self, ctx):
        self.file.close()


if __name__ == "__main__":
    plugin.start(PluginConfig(
        "pytiny",
        {"counter": Counter},
        {"file": File},
        {
            "echo": lambda: Answer(lambda value: value),
            "refuse": lambda: Answer(refuse),
            "exit": lambda: Answer(lambda code: os._exit(code)),
            "print": lambda: Answer(print),
            "slow": lambda: Answer(lambda millis: time.sleep(millis / 1000)),
        },
    ))
