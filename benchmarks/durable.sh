#!/bin/sh
# The same work as durable.c, as a shell program does it, on both sides:
#   durable.sh link|close DIR WRITERS FILES BYTES
# link: write, fsync, link, fsync of the directory, remove the temporary name. close: write, close.
set -eu
way=$1 directory=$2 writers=$3 files=$4 bytes=$5
cd "$directory"

one_writer() {
    i=0
    while [ "$i" -lt "$files" ]; do
        if [ "$way" = link ]; then
            dd if=/dev/zero of=".t$1" bs="$bytes" count=1 conv=fsync,excl status=none
            ln ".t$1" "w$1-$i"
            sync .
            rm -f ".t$1"
        else
            dd if=/dev/zero of="w$1-$i" bs="$bytes" count=1 conv=excl status=none
        fi
        i=$((i + 1))
    done
}

begin=$(date +%s.%N)
w=0
while [ "$w" -lt "$writers" ]; do
    one_writer "$w" &
    w=$((w + 1))
done
wait
end=$(date +%s.%N)
awk -v a="$begin" -v b="$end" -v n="$((writers * files))" \
    'BEGIN { printf "{\"seconds\": %.6f, \"files\": %d}\n", b - a, n }'
