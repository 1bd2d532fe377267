#!/usr/bin/env bash
# Starts the worker of one pod of an Indexed Job: its TF_CONFIG names all pods, JOB-INDEX.JOB:PORT.
set -euo pipefail
job=${HOSTNAME%-"$JOB_COMPLETION_INDEX"}
hosts=''
for ((index = 0; index < WORKERS; index++)); do hosts+="${hosts:+, }\"$job-$index.$job:$PORT\""; done
export TF_CONFIG="{\"cluster\": {\"worker\": [$hosts]}, \"task\": {\"type\": \"worker\", \"index\": $JOB_COMPLETION_INDEX}}"
exec python -m disttrain --backend multiworker "$@"
