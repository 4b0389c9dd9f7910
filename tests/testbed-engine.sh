#!/bin/bash
# Stands in for systemd in the testbed: `testbed-engine start|stop|kill`.
set -u
ended() { # ended NAME: wait at most 30 s for a process to be gone
    for _ in $(seq 300); do
        kill -0 "$(cat "/run/$1.testbed-pid" 2>/dev/null)" 2>/dev/null || return 0
        sleep 0.1
    done
    echo "$1 does not end" >&2
    return 1
}
case $1 in
start)
    for name in containerd dockerd; do
        kill -0 "$(cat /run/$name.testbed-pid 2>/dev/null)" 2>/dev/null && continue
        rm -f /run/docker.pid
        [ $name = dockerd ] && socket=/run/docker.sock || socket=/run/containerd/containerd.sock
        rm -f $socket
        setsid $name </dev/null >>/run/work/$name.log 2>&1 &
        echo $! >/run/$name.testbed-pid
        for _ in $(seq 600); do
            [ -S $socket ] && continue 2
            kill -0 $! 2>/dev/null || { echo "$name ended at its start" >&2; exit 1; }
            sleep 0.1
        done
        echo "$name did not start" >&2
        exit 1
    done
    ;;
stop | kill)
    [ "$1" = kill ] && signal=KILL || signal=TERM
    for name in dockerd containerd; do
        pid=$(cat /run/$name.testbed-pid 2>/dev/null)
        kill -$signal "$pid" 2>/dev/null
        ended $name || kill -KILL "$pid" 2>/dev/null # as systemd does
        ended $name || exit 1
    done
    ;;
*)
    echo "usage: testbed-engine start|stop|kill" >&2
    exit 2
    ;;
esac
