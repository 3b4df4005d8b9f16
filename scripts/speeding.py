"""How fast a relay is for a phone on a bad line: first answer, download, chat beside a download."""
import statistics
import threading
import time
from dataclasses import dataclass

from phones import DOWNLOAD, block
from relays import Scene

BULK_SEED, BULK = 7, 1 << 34
WARM_SECS, MEASURE_SECS, CHAT_SECS = 3, 10, 6
FIRST_ANSWERS = 5
DC_WORDS = 'delay=15'


@dataclass
class Speeds:
    """What a phone saw."""
    first_ms: float
    mbit_per_sec: float
    chat_ms: float

    def __str__(self):
        return f'{self.first_ms:.0f} ms, {self.mbit_per_sec:.1f} Mbit/s, {self.chat_ms:.0f} ms'


class Bulk:
    """A download without end on a connection of its own; each byte is checked."""

    def __init__(self, scene):
        self.bytes, self.fault = 0, None
        self._is_wanted = True
        self._phone = scene.connect()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        self._phone.ask(DOWNLOAD, BULK, BULK_SEED)
        repeated = block(BULK_SEED)
        while self._is_wanted and not self._phone.is_over:
            for _, payload in self._phone.messages(0.2):
                if payload != repeated:
                    self.fault = 'wrong bytes in a download'
                self.bytes = self.bytes + len(payload)

    def received(self):
        """Bytes so far, those of a message that is not whole included."""
        return self.bytes + self._phone.buffered()

    def stop(self):
        self._is_wanted = False
        self._thread.join()
        was_over = self._phone.is_over
        self._phone.close()
        if self.fault or was_over:
            raise RuntimeError(self.fault or 'a download ended before its time')


def first_answer(scene):
    """Seconds from the first packet to the first answer, on a new connection."""
    began = time.monotonic()
    phone = scene.connect()
    answered = phone.ping() is not None
    phone.close()
    return time.monotonic() - began if answered else float('nan')


def measure(relay, binary, words, dc_words=DC_WORDS):
    """All three."""
    with Scene(relay, binary, words, dc_words) as scene:
        first = statistics.median(first_answer(scene) for _ in range(FIRST_ANSWERS))
        chat = scene.connect()
        chat.ping()
        bulk = Bulk(scene)
        time.sleep(WARM_SECS)
        before, began = bulk.received(), time.monotonic()
        time.sleep(MEASURE_SECS)
        rate = (bulk.received() - before) * 8 / (time.monotonic() - began) / 1e6
        end, times = time.monotonic() + CHAT_SECS, []
        while time.monotonic() < end:
            answered = chat.ping()
            times.append(float('nan') if answered is None else answered)
            time.sleep(0.1)
        bulk.stop()
        return Speeds(first * 1e3, rate, statistics.median(times) * 1e3)


def works(relay, binary, words, within=8):
    """Whether a phone gets a message and 256 KiB of a download through, within seconds each."""
    with Scene(relay, binary, words) as scene:
        try:
            phone = scene.connect(within)
        except (OSError, EOFError):
            return False
        try:
            return phone.ping(within) is not None and phone.download(1 << 18, 3, within) is not None
        finally:
            phone.close()
