# What is looked at under systemd. It prints "ok WHAT" or "not ok WHAT: …".
export PATH=/usr/local/bin:$PATH HOME=/root NO_COLOR=1
is() { # WHAT GOT WANT
	if [ "$2" = "$3" ]; then echo "ok $1"; else echo "not ok $1: got $2, want $3"; fi
}
keeper() { cat "/run/stack/projects/$1/$2.pid" 2>/dev/null; }
pid() { stack inspect --format '{{.State.Pid}}' "$1" 2>&1; }
# within SECONDS COMMAND: whether it succeeds in time.
within() {
	n=$(($1 * 10))
	shift
	while ! "$@"; do
		n=$((n - 1))
		[ $n -gt 0 ] || return 1
		sleep 0.1
	done
}
cgroups() { cut -d: -f3 "/proc/$1/cgroup" 2>/dev/null | sort -u | tr '\n' ' '; }

# lives WHAT PROJECT UNIT: the project has not noticed that the unit is gone.
lives() {
	is "$1: web runs on" "$(pid "$2-web-1")" "$web"
	is "$1: talker runs on" "$(pid "$2-talker-1")" "$talker"
	for role in warden guardian supervisor; do
		k=$(keeper "$2" $role)
		if [ -n "$k" ] && kill -0 "$k" 2>/dev/null; then echo "ok $1: $role lives"; else echo "not ok $1: $role is dead"; fi
		case $(cgroups "$k") in
		*"$3"*) echo "not ok $1: $role is in a group of $3" ;;
		*) echo "ok $1: $role is in another group" ;;
		esac
	done
	kill -9 "$web"
	restarted() { new=$(pid "$p-web-1") && [ "$new" != "$web" ] && [ "$new" -gt 1 ] 2>/dev/null; }
	p=$2
	if within 10 restarted; then echo "ok $1: web is restarted"; else echo "not ok $1: web is not restarted"; fi
	web=$(pid "$2-web-1")
	fact=$(cat /facts/"$2".talker.*.1)
	fact=$(expr "${fact%% *}" + 0)
	logged() { [ "$(stack logs --no-log-prefix --no-color talker | wc -l)" -ge "$fact" ]; }
	cd "/$2"
	if within 10 logged; then echo "ok $1: lines are logged"; else
		echo "not ok $1: $fact lines were written, $(stack logs --no-log-prefix --no-color talker | wc -l) are logged"
	fi
	is "$1: the first line that is out of order" "$(stack logs --no-log-prefix --no-color talker | awk '$2 != NR {print; exit}')" ""
}
begins() { # PROJECT
	web=$(pid "$1-web-1") talker=$(pid "$1-talker-1")
	is "$1 runs" "$(stack -p "$1" ps -q | wc -l)" 2
}
ends() { # PROJECT
	cd "/$1"
	stack down
	is "$1: down" $? 0
}

mkdir -p /facts
stack image import --change 'ENTRYPOINT ["/probe"]' /probe.tar probe
for p in unit oneshot login; do
	mkdir -p /$p
	cat >/$p/compose.yaml <<-Y
		services:
		  web: {image: probe, command: [payload, -name, $p.web], volumes: ["/facts:/facts"], restart: always}
		  talker: {image: probe, command: [payload, -name, $p.talker, -batch, "30", -pause, 10ms], volumes: ["/facts:/facts"], logging: {options: {max-size: 1g}}}
	Y
done

systemctl start unit.service
is "start of a unit" $? 0
begins unit
lives "a started unit" unit unit.service
systemctl restart unit.service
is "restart of a unit" $? 0
lives "a restarted unit" unit unit.service
systemctl stop unit.service
lives "a stopped unit" unit unit.service
ends unit

systemctl start oneshot.service
is "start of a oneshot" $? 0
begins oneshot
lives "a oneshot that has ended" oneshot oneshot.service
ends oneshot

su -l root -c 'cd /login && cut -d: -f3 /proc/self/cgroup | sort -u && stack up -d' >/login.log 2>&1
is "up in a login session" $? 0
case $(cat /login.log) in *session*) echo "ok it was a session of its own" ;; *) echo "not ok it was no session: $(cat /login.log)" ;; esac
sleep 3 # logind kills what is left of a session a moment after its end
begins login
lives "a logout" login session-
ends login

left() { ! pgrep -f '^stack: ' >/dev/null; }
if within 10 left; then echo "ok no keeper is left"; else echo "not ok keepers are left: $(pgrep -af '^stack: ')"; fi
echo "stage done"
