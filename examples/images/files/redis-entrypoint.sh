#!/bin/bash
# Starts what was asked for. A Redis server started by root gives the data
# directory to the user "redis" and goes on as that user.
set -euo pipefail

case "${1-}" in
-* | *.conf) set -- redis-server "$@" ;;
esac

if [[ $1 == redis-server && $(id -u) == 0 ]]; then
	find . \! -user redis -exec chown redis '{}' +
	exec setpriv --reuid=redis --regid=redis --init-groups -- "$0" "$@"
fi

# In a container the network namespace is the border, as in the official image:
# without this, Redis would refuse every client that is not on its own loopback.
if [[ $1 == redis-server ]]; then
	case " $* " in
	*" --protected-mode "*) ;;
	*) set -- "$@" --protected-mode no ;;
	esac
fi
exec "$@"
