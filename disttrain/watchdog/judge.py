"""Judges which worker hangs, from what the workers report and from their silence; pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from disttrain.errors import HungError, PeerError
from disttrain.watchdog.processes import Process

Kind = Literal["stalled", "silent", "lost", "failed", "network"]

MAX_SHOWN = 8  # ranks or groups of them that a verdict lists
MAX_TEXT = 500
MISSED_S = 5.0  # silence after which a rank is named where an all-reduce has failed: five beats


@dataclass(frozen=True)
class Beat:
    """What a worker reports: for how long its main thread has made no progress, and what it is doing."""

    idle_s: float = 0.0
    doing: str = "starting"
    waits_for_peers: bool = False
    position: tuple[int, int] | None = None

    @property
    def position_text(self) -> str:
        """The position in parentheses, as text; empty if there is none."""
        return f" (epoch {self.position[0]}, step {self.position[1]})" if self.position else ""

    def message(self) -> dict[str, Any]:
        """Returns the beat as a JSON object, which `from_message` reads."""
        return {
            "idle_s": self.idle_s,
            "doing": self.doing[:MAX_TEXT],
            "waits_for_peers": self.waits_for_peers,
            "position": self.position,
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Beat:
        """Reads what `message` returned; raises KeyError, TypeError or ValueError for anything else."""
        told = message["position"]
        position = None if told is None else (int(told[0]), int(told[1]))
        return cls(
            float(message["idle_s"]), str(message["doing"])[:MAX_TEXT], bool(message["waits_for_peers"]), position
        )


@dataclass(frozen=True)
class Verdict:
    """The ranks that hold up the run, and why.

    `kind` is `stalled`: no progress in its own work; `silent`: nothing is heard from it; `lost`: its process ended;
    `failed`: it ended with an error, which it printed itself, and sent the exit code; or `network`: all workers only
    wait for each other, so that the all-reduce between them hangs.
    """

    kind: Kind
    ranks: tuple[int, ...]
    text: str
    told_exit_code: int | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of a run that ends because of this verdict."""
        if self.told_exit_code is not None:
            return self.told_exit_code
        return PeerError.exit_code if self.kind == "lost" else HungError.exit_code

    def condemns(self, rank: int) -> bool:
        """Returns whether this rank must end, even where the others go on."""
        return rank in self.ranks and self.kind != "network"

    def message(self) -> dict[str, Any]:
        """Returns the verdict as a JSON object, which `from_message` reads."""
        told = {"told_exit_code": self.told_exit_code}
        return {"kind": self.kind, "ranks": self.ranks, "text": self.text} | told

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Verdict:
        """Reads what `message` returned; raises KeyError, TypeError or ValueError for anything else."""
        told = message["told_exit_code"]
        exit_code = None if told is None else int(told)
        return cls(message["kind"], tuple(int(rank) for rank in message["ranks"]), str(message["text"]), exit_code)


@dataclass
class _State:
    beat: Beat
    heard_s: float
    is_known: bool = False  # was ever heard from
    gone_s: float | None = None  # since when its connection is closed without a goodbye
    exit_code: int | None = None  # that it reported when it failed


class Judge:
    """Keeps what was last heard from some ranks, and says which of them hang; every method takes the monotonic time."""

    def __init__(
        self, ranks: Iterable[int], processes: Mapping[int, Process], now: float, *, timeout_s: float, grace_s: float
    ) -> None:
        """`grace_s`: how long a worker whose connection closed may take to come back, or to end the run by itself."""
        self._processes = processes
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._states = {rank: _State(Beat(), now) for rank in ranks}
        self._begun_s = now

    def heard(self, rank: int, beat: Beat, now: float) -> None:
        """Records what a rank reported; ignores a rank that failed or is no longer watched."""
        if (state := self._states.get(rank)) is not None and state.exit_code is None:
            state.beat, state.heard_s, state.is_known, state.gone_s = beat, now, True, None

    def gone(self, rank: int, now: float) -> None:
        """Records that a rank's connection closed without a goodbye: its process ended, or the network failed."""
        if (state := self._states.get(rank)) is not None and state.gone_s is None:
            state.gone_s = now

    def failed(self, rank: int, exit_code: int, now: float) -> None:
        """Records that a rank ends with an error, which it prints itself, and this exit code; it does not come back."""
        if (state := self._states.get(rank)) is not None:
            state.exit_code = exit_code
            self.gone(rank, now)

    def back(self, rank: int) -> None:
        """Records that a rank is connected again."""
        if (state := self._states.get(rank)) is not None and state.exit_code is None:
            state.gone_s = None

    def left(self, rank: int) -> None:
        """Stops watching a rank that said goodbye, or on which a verdict was carried out."""
        self._states.pop(rank, None)

    def restart(self, now: float) -> None:
        """Restarts all clocks, after the judging process did not run for a while, so that silence meant nothing."""
        self._begun_s = now
        for state in self._states.values():
            state.gone_s = None if state.gone_s is None else now

    def unknown(self) -> list[int]:
        """Returns the ranks that were never heard from."""
        return [rank for rank, state in self._states.items() if not state.is_known]

    def verdict(self, now: float) -> Verdict | None:
        """Returns the first that applies: a rank ended, a rank is silent, a rank stalls, all wait for each other."""
        return self._lost(now) or self._silent(now, self._timeout_s) or self._stalled(now) or self._all_waiting(now)

    def missed(self, now: float) -> str:
        """Describes the ranks that were silent for some seconds, in the words of a verdict; empty if there are none."""
        silent = self._silent(now, min(MISSED_S, self._timeout_s))
        return silent.text if silent is not None else ""

    def _lost(self, now: float) -> Verdict | None:
        gone = {rank: state.gone_s for rank, state in self._states.items() if state.gone_s is not None}
        if not any(now - gone_s >= self._grace_s for gone_s in gone.values()):
            return None
        for rank in gone:
            if (exit_code := self._states[rank].exit_code) is not None:  # the others may have ended because of it
                return replace(self._about("failed", list(gone), "failed, {last}{position}"), told_exit_code=exit_code)
        return self._about("lost", list(gone), "ended, {last}{position}; its error message, if any, is above")

    def _silent(self, now: float, patience_s: float) -> Verdict | None:
        silence = {
            rank: now - max(state.heard_s, self._begun_s)
            for rank, state in list(self._states.items())
            if state.is_known and state.gone_s is None
        }
        if max(silence.values(), default=0) < patience_s:
            return None
        ranks = [rank for rank, silence_s in silence.items() if silence_s >= 0.7 * patience_s]  # one host's together
        ranks.sort(key=lambda rank: (silence[rank] < patience_s, rank))
        return self._about(
            "silent",
            ranks,
            f"has not been heard of for {silence[ranks[0]]:.0f} s; it was {{last}}{{position}}: stopped, killed, "
            "or its network is cut",
        )

    def _stalled(self, now: float) -> Verdict | None:
        is_alone = len(self._states) == 1
        stalled = [
            rank
            for rank, state in self._states.items()
            if self._idle_s(state, now) >= self._timeout_s and (is_alone or not state.beat.waits_for_peers)
        ]
        if not stalled:
            return None
        idle_s = self._idle_s(self._states[stalled[0]], now)
        return self._about("stalled", stalled, f"made no progress for {idle_s:.0f} s while {{doing}}{{position}}")

    def _all_waiting(self, now: float) -> Verdict | None:
        """Returns a verdict if all ranks that were heard from wait: for one that never was, else for each other."""
        known = {rank: state for rank, state in self._states.items() if state.is_known}
        waiting = [
            rank
            for rank, state in known.items()
            if state.beat.waits_for_peers and self._idle_s(state, now) >= self._timeout_s and state.gone_s is None
        ]
        if not waiting or len(waiting) < len(known):
            return None
        if unknown := self.unknown():
            return self._about("silent", unknown, "has never reported, and the others wait for it")
        idle_s = min(self._idle_s(known[rank], now) for rank in waiting)
        groups: dict[str, list[int]] = {}
        for rank in waiting:
            groups.setdefault(f"{known[rank].beat.doing}{known[rank].beat.position_text}", []).append(rank)
        parts = [f"{_ranks(ranks)} {doing}" for doing, ranks in list(groups.items())[:MAX_SHOWN]]
        hosts = ", ".join(sorted({self._processes[rank].host for rank in waiting})[:MAX_SHOWN])
        text = f"all workers wait for each other for {idle_s:.0f} s, {'; '.join(parts)}: the network between them hangs"
        return Verdict("network", tuple(waiting), f"{text} (hosts: {hosts})")

    def _idle_s(self, state: _State, now: float) -> float:
        return min(state.beat.idle_s, now - self._begun_s)

    def _about(self, kind: Kind, ranks: list[int], form: str) -> Verdict:
        """Returns a verdict on some ranks, which describes the first of them in full."""
        beat = self._states[ranks[0]].beat
        last = f"last seen {beat.doing}" if beat.doing else "last seen"
        told = form.replace("{last}", last).replace("{position}", beat.position_text).replace("{doing}", beat.doing)
        others = f"; the same is true of {_ranks(ranks[1:])}" if len(ranks) > 1 else ""
        return Verdict(kind, tuple(ranks), f"rank {ranks[0]} ({self._processes[ranks[0]]}) {told}{others}")


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:MAX_SHOWN])) + (f" and {len(ranks) - MAX_SHOWN} more" * (len(ranks) > MAX_SHOWN))
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"
