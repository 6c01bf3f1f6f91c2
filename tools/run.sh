#!/bin/sh
#
# tools/run.sh [PROGRAM [FLAGS]]: runs onewake on a socket and on a free port of this
# machine, and prints how to reach it. Ctrl-C stops it.

program=${1:-build/onewake}
[ $# -eq 0 ] || shift

mkdir -p build
tmp=$(mktemp -d /tmp/onewake.XXXXXX) || exit 1
socket=$(pwd)/build/onewake.sock
# The path may be too long, or a directory on it writable by others: the socket
# is elsewhere then, with a link to it.
if ! problem=$("$program" -check -listen "unix:$socket" 2>&1); then
	socket=$tmp/onewake.sock
	printf '%s\nso the socket is %s\n' "$problem" "$socket" >&2
	ln -sf "$socket" build/onewake.sock
fi

# show: prints the log as it comes, and the addresses once they are in it.
show()
{
	# Ctrl-C is for onewake; what it logs while it stops is still shown.
	trap '' HUP INT TERM
	exec <"$tmp/log"
	rm -f "$tmp/log"
	port=
	while IFS= read -r line; do
		printf '%s\n' "$line" >&2
		case $line in
		*tcp4:127.0.0.1:[1-9]*)
			[ -z "$port" ] || continue
			port=${line##*tcp4:127.0.0.1:}
			port=${port%%[!0-9]*}
			printf "\n\tcurl --unix-socket '%s' http://localhost/\n\thttp://127.0.0.1:%s/\n\n" "$socket" "$port"
			;;
		esac
	done
	[ ! -L build/onewake.sock ] || rm -f build/onewake.sock
	rm -rf "$tmp"
}

mkfifo "$tmp/log" || exit 1
# By a shell that ends at once: as a child of the process that becomes onewake,
# it would be ended with the commands that are left over.
(show &)

exec "$program" -listen "unix:$socket" -listen tcp4:127.0.0.1:0 "$@" 2>"$tmp/log"
