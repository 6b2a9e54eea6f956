#!/bin/bash
# Starts PostgreSQL. The first start makes the database cluster in $PGDATA:
#
#   POSTGRES_PASSWORD          the superuser's password (required, unless
#                              POSTGRES_HOST_AUTH_METHOD is "trust")
#   POSTGRES_USER              the superuser (postgres)
#   POSTGRES_DB                a database to make (the superuser's name)
#   POSTGRES_INITDB_ARGS       further arguments of initdb
#   POSTGRES_HOST_AUTH_METHOD  how clients from the network log in (scram-sha-256)
#
# Each of the first three may be given as NAME_FILE, a path to read it from.
# Files in /docker-entrypoint-initdb.d run once, in the order of their names:
# *.sh, *.sql and *.sql.gz.
#
# The cluster is made in a directory of its own and moved into place once it is
# complete, so that a first start that was interrupted is done again.
set -euo pipefail

fail() {
	echo "postgres: $*" >&2
	exit 1
}

# from_file NAME DEFAULT sets NAME from NAME_FILE, or to the default.
from_file() {
	local name=$1 file_var=$1_FILE
	if [[ -n ${!name-} && -n ${!file_var-} ]]; then
		fail "$name and $file_var are both set; set one of them"
	fi
	if [[ -n ${!file_var-} ]]; then
		printf -v "$name" %s "$(<"${!file_var}")"
	fi
	printf -v "$name" %s "${!name:-$2}"
	unset "$file_var"
}

case "${1-}" in
-*) set -- postgres "$@" ;;
esac

if [[ ${1-} != postgres ]]; then
	exec "$@"
fi

for arg in "$@"; do
	case $arg in
	-'?' | --help | --describe-config | -V | --version) exec "$@" ;;
	esac
done

if [[ $(id -u) == 0 ]]; then
	mkdir -p "$PGDATA" /run/postgresql
	chmod 0700 "$PGDATA"
	find "$PGDATA" \! -user postgres -exec chown postgres:postgres '{}' +
	chown postgres:postgres /run/postgresql
	exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
fi

new=$PGDATA/.new # the cluster while it is made
if [[ ! -s $PGDATA/PG_VERSION && ! -e $new/.complete ]]; then
	from_file POSTGRES_USER postgres
	from_file POSTGRES_PASSWORD ""
	from_file POSTGRES_DB "$POSTGRES_USER"
	: "${POSTGRES_HOST_AUTH_METHOD:=scram-sha-256}"
	if [[ -z $POSTGRES_PASSWORD && $POSTGRES_HOST_AUTH_METHOD != trust ]]; then
		fail "the database is not initialised and POSTGRES_PASSWORD is not set; set it"
	fi

	rm -rf "$new"
	private=$(mktemp -d)
	args=(--pgdata="$new" --username="$POSTGRES_USER" --encoding=UTF8 --auth-local=trust)
	if [[ -n $POSTGRES_PASSWORD ]]; then
		printf '%s\n' "$POSTGRES_PASSWORD" >"$private/password"
		args+=(--pwfile="$private/password" --auth-host=scram-sha-256)
	else
		args+=(--auth-host=trust)
	fi
	# One sync, when all is done, is enough.
	eval "initdb --no-sync ${args[*]@Q} ${POSTGRES_INITDB_ARGS-}" >/dev/null
	printf 'host all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >>"$new/pg_hba.conf"
	sed -i "s/^#*listen_addresses *=.*/listen_addresses = '*'/" "$new/postgresql.conf"

	# Nobody but this script reaches the server until it is complete.
	pg_ctl --pgdata="$new" --silent --wait \
		-o "-c listen_addresses='' -c unix_socket_directories=$private -c fsync=off" start >/dev/null
	export PGHOST=$private PGUSER=$POSTGRES_USER
	if [[ $POSTGRES_DB != postgres ]]; then
		psql --no-psqlrc --quiet --dbname=postgres --set=ON_ERROR_STOP=1 --set=db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
	fi
	export PGDATABASE=$POSTGRES_DB
	for f in /docker-entrypoint-initdb.d/*; do
		case $f in
		*.sh) if [[ -x $f ]]; then "$f"; else . "$f"; fi ;;
		*.sql) psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --file="$f" ;;
		*.sql.gz) gzip -dc "$f" | psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 ;;
		esac
	done
	unset PGHOST PGUSER PGDATABASE
	pg_ctl --pgdata="$new" --silent --wait --mode=fast stop >/dev/null
	rm -rf "$private"
	sync -f "$new"
	touch "$new/.complete"
fi
if [[ -e $new/.complete ]]; then
	# PG_VERSION comes last: it is what says that the cluster is in its place.
	find "$new" -mindepth 1 -maxdepth 1 \! -name PG_VERSION \! -name .complete -exec mv -t "$PGDATA" '{}' +
	mv "$new/PG_VERSION" "$PGDATA/PG_VERSION"
	sync -f "$PGDATA"
	rm -rf "$new"
fi

unset POSTGRES_PASSWORD POSTGRES_PASSWORD_FILE
exec "$@"
