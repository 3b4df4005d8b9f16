"""How long a phone that wakes up waits for the first thing that is of use to it."""
import threading
import time
from dataclasses import dataclass

from phones import DOWNLOAD, LATER, PING
from relays import Scene

# A good mobile line. What a phone does at most in a second is not much then.
WORDS = 'delay=30 jitter=5 rate=20 queue=256'
IDLE, PENDING, LISTENING, MIDWAY, SUSPENDED = STATES = ('idle', 'pending', 'listening', 'download', 'suspended')
# Time between two questions of a phone that has no answer.
ASK_SECS = 5
# A phone that has waited for so long is switched off and on by its owner.
PATIENCE_SECS = 240
BULK = 1 << 30


@dataclass
class Waking:
    """What came of a sleep."""
    # Seconds until the first answer or byte of use.
    seconds: float | None
    # It came on the connection of before.
    is_same: bool

    def __str__(self):
        if self.seconds is None:
            return f'>{PATIENCE_SECS}'
        return f'{self.seconds:.2f}' + ('' if self.is_same else '*')


def sleep(relay, binary, state, secs, words=WORDS, tell_log=lambda log: None):
    """A phone in that state sleeps for so long; `tell_log` gets what the relay has logged.

    idle: nothing happens. pending: a message comes just after it fell asleep; when it wakes up it asks whether the
    connection still works, and again every 5 s, as Telegram's apps do. listening: the same, but it asks nothing.
    download: in the middle of one. suspended: its kernel is awake and the download's reader is not (zero window).
    """
    with Scene(relay, binary, words) as scene:
        phone = scene.connect()
        if phone.ping() is None:
            raise RuntimeError(f'no answer through {relay.name}: {scene.log()}')
        if state in (PENDING, LISTENING):
            phone.ask(LATER, 500)
        elif state in (MIDWAY, SUSPENDED):
            phone.ask(DOWNLOAD, BULK)
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                phone.messages(0.1)
        time.sleep(0.1)
        if state != SUSPENDED:
            scene.line.tell('hole=1')
        time.sleep(secs)
        if state != SUSPENDED:
            phone.drain()
            scene.line.tell('hole=0')
        waking = wake(scene, phone, state)
        tell_log(scene.log())
        return waking


def wake(scene, phone, state):
    began = time.monotonic()
    asked = began if state == LISTENING else 0
    if state == SUSPENDED:
        phone.drain()
    while (now := time.monotonic()) < began + PATIENCE_SECS:
        if phone.is_over:
            break
        if now - asked >= ASK_SECS and state != LISTENING:
            asked = now
            phone.ask(PING)
        if phone.has_news(0.2):
            return Waking(time.monotonic() - began, True)
    if not phone.is_over:
        return Waking(None, False)
    phone.close()
    with_new = scene.connect()
    answered = with_new.ping() is not None
    with_new.close()
    return Waking(time.monotonic() - began if answered else None, False)


def matrix(relays, binary, states, sleeps, report):
    """All of them side by side, each on a line of its own, in real time; `report` is told each as it ends."""
    results, threads = {}, []
    for secs in sorted(sleeps, reverse=True):
        for relay in relays:
            for state in states:
                def run(key=(relay.label, state, secs), relay=relay):
                    try:
                        results[key] = sleep(relay, binary, key[1], key[2])
                    except Exception as fault:
                        results[key] = f'failed: {fault}'
                    report(key, results[key])
                threads.append(threading.Thread(target=run))
                threads[-1].start()
                # Not all at the same time.
                time.sleep(0.4)
    for thread in threads:
        thread.join()
    return results
