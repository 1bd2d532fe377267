#!/usr/bin/env python3
"""Reads `kubectl get pods -o json` and prints a line for each pod that waits or failed: its name, a tab, and why.

With --ended also for those that are done; with --failed only the names of those that failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any


def main(arguments: list[str]) -> None:
    """Prints nothing where there is no pod."""
    text = sys.stdin.read()
    for pod in json.loads(text)["items"] if text.strip() else []:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        if "--failed" in arguments:
            if status.get("phase") == "Failed" or any(exit_codes(status)):
                print(name)
        elif reason := why(status, ended="--ended" in arguments):
            print(f"{name}\t{reason}")


def statuses(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of a pod's containers, the first ones to run first."""
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def exit_codes(status: Mapping[str, Any]) -> Iterator[int]:
    """Of the containers that have ended."""
    for container in statuses(status):
        for state in (container.get("state", {}), container.get("lastState", {})):
            if "terminated" in state:
                yield int(state["terminated"].get("exitCode", 0))


def why(status: Mapping[str, Any], *, ended: bool) -> str:
    """What a pod waits for, or how it ended; empty for one that runs."""
    parts = []
    phase = str(status.get("phase", "Unknown"))
    if phase != "Running" and (ended or phase != "Succeeded"):
        parts.append(", ".join(filter(None, [phase, status.get("reason")])))
        parts += [str(status["message"])] if status.get("message") else []
        for condition in status.get("conditions", []):
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                parts.append(f"{condition.get('reason')}: {condition.get('message')}")
    for container in statuses(status):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            message = f" ({waiting['message']})" if waiting.get("message") else ""
            parts.append(f"{container['name']} waits: {waiting['reason']}{message}")
        for state in (container.get("state", {}), container.get("lastState", {})):
            over = state.get("terminated")
            if over and int(over.get("exitCode", 0)):
                parts.append(f"{container['name']} ended: {over.get('reason')}, exit code {over['exitCode']}")
    return "; ".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
