#!/usr/bin/env bash
# Starts the worker of one pod of an Indexed Job: its TF_CONFIG names all pods, JOB-INDEX.JOB:PORT. When another pod is
# lost this one's worker ends too, and waits in its place for the next one there: only the lost pod is made anew.
set -euo pipefail
job=${HOSTNAME%-"$JOB_COMPLETION_INDEX"}
hosts=''
for ((index = 0; index < WORKERS; index++)); do hosts+="${hosts:+, }\"$job-$index.$job:$PORT\""; done
export TF_CONFIG="{\"cluster\": {\"worker\": [$hosts]}, \"task\": {\"type\": \"worker\", \"index\": $JOB_COMPLETION_INDEX}}"
exec /opt/disttrain/launch/container/again.sh python -m disttrain --backend multiworker "$@"
