# Process 1 of the virtual machine. It prints "ok WHAT" or "not ok WHAT: …" for
# all that it looks at. The kernel's command line says which stage it is.
export PATH=/bin HOME=/root NO_COLOR=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /var/lib/stack
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for m in virtio_pci virtio_blk ext4 quota_v2 overlay bridge veth nf_tables br_netfilter; do modprobe $m; done
ip link set lo up
mount -t ext4 -o prjquota /dev/vda /var/lib/stack || echo "not ok the disk"

is() { # WHAT GOT WANT
	if [ "$2" = "$3" ]; then say "ok $1"; else say "not ok $1: got $2, want $3"; fi
}
has() { # WHAT TEXT PART
	case $2 in *"$3"*) say "ok $1" ;; *) say "not ok $1: no $3 in $2" ;; esac
}
say() { printf '\n%s\n' "$1"; } # whatever stands on the line already

limits() {
	stack image import /img.tar box --change 'CMD ["sh"]'
	is "a container runs" "$(stack container run --rm box echo hello)" hello
	stack container run -d --name lim --memory 64m --memory-swap 96m --pids-limit 50 --cpus 0.5 box sleep 1000
	cg=/sys/fs/cgroup$(cut -d: -f3 /proc/$(stack inspect --format '{{.State.Pid}}' lim)/cgroup)
	is memory "$(cat $cg/memory.max)" 67108864
	is swap "$(cat $cg/memory.swap.max)" 33554432
	is pids "$(cat $cg/pids.max)" 50
	is cpus "$(cat $cg/cpu.max)" "50000 100000"
	is "the container's own view" "$(stack container exec lim cat /proc/self/cgroup)" 0::/
	stack container pause lim
	has pause "$(cat $cg/cgroup.events)" "frozen 1"
	stack container unpause lim
	stack container rm -f lim
	stack container run --name oom --memory 32m --memory-swap 32m box sh -c 'x=$(yes | head -c 200000000)'
	is "out of memory" "$(stack inspect --format '{{.State.OOMKilled}} {{.State.ExitCode}}' oom)" "true 137"
	stack container rm oom
}

# storage has containers write more than they may.
storage() {
	big='dd if=/dev/zero of=/big bs=64k count=128 2>/dev/null; s=$(stat -c %s /big); [ $s -gt 1000000 ] && [ $s -le 2097152 ] && echo bounded $?'
	is "files that are limited" "$(stack container run --rm --storage-opt size=2m box sh -c "$big")" "bounded 0"
	is "in a user namespace" "$(stack container run --rm --userns auto --storage-opt size=2m box sh -c "$big")" "bounded 0"
	stack container run --name lim --storage-opt size=2m box sh -c "$big" >/dev/null
	is "over a restart" "$(stack container start -a lim)" "bounded 0"
	stack container rm lim
	is "files that are not" "$(stack container run --rm box sh -c 'dd if=/dev/zero of=/big bs=64k count=128 2>/dev/null; stat -c %s /big')" 8388608
}

usernamespaces() {
	is "a user namespace" "$(stack container run --rm --userns auto -v mapped:/v box sh -c 'touch /f /v/f; echo $(stat -c %u /f /v/f /etc/hosts /tmp /dev/shm) $(cat /proc/self/uid_map | wc -l)')" "0 0 0 0 0 1"
	is "owners on disk" "$(stat -c %u /var/lib/stack/volumes/mapped/_data/f)" 0
	stack container run -d --name other --userns auto --user 70 box sleep 1000
	pid=$(stack inspect --format '{{.State.Pid}}' other)
	[ "$(stat -c %u /proc/$pid)" -gt 1000000 ]
	is "nobody on the host" $? 0
	is "exec" "$(stack container exec other id -u)" 70
	is "a firewall of bridges" "$(stack container run --rm box true 2>&1)" ""
	stack container rm -f other
	stack volume rm mapped
}

ipvlans() {
	for mode in l2 l3 l3s; do
		stack network create -d ipvlan --internal -o ipvlan_mode=$mode --subnet 10.9.0.0/24 iv >/dev/null
		stack container run -d --name srv --network iv --ip 10.9.0.9 box sh -c 'echo page >/tmp/index.html; exec httpd -f -p 80 -h /tmp' >/dev/null
		is "ipvlan $mode" "$(stack container run --rm --network iv box sh -c 'i=0; until wget -q -O - http://10.9.0.9/index.html; do i=$((i+1)); [ $i = 20 ] && break; sleep 0.2; done')" page
		is "ipvlan $mode, one address" "$(stack container run --rm --network iv box cat /sys/class/net/eth0/address)" "$(stack container exec srv cat /sys/class/net/eth0/address)"
		stack container rm -f srv >/dev/null
		stack network rm iv >/dev/null
	done
	has "a MAC address of its own" "$(stack network create -d ipvlan --internal iv 2>&1; stack container run --rm --network iv --mac-address 02:00:00:00:00:01 box true 2>&1)" "use macvlan"
	stack network rm iv
}

vlans() {
	ip link add lan0 type dummy && ip link set lan0 up
	stack network create -d macvlan -o parent=lan0.50 --subnet 10.8.0.0/24 one >/dev/null
	stack network create -d macvlan -o parent=lan0.50 --subnet 10.8.1.0/24 two >/dev/null
	stack container run -d --name srv --network one --ip 10.8.0.9 box sh -c 'echo page >/tmp/index.html; exec httpd -f -p 80 -h /tmp' >/dev/null
	is "a VLAN is made" "$(cat /proc/net/vlan/lan0.50 2>&1 | sed -n 's/.*VID: \([0-9]*\).*/\1/p;s/^Device: *//p' | tr '\n' ' ')" "50 lan0 "
	is "a container in a VLAN" "$(stack container run --rm --network one box sh -c 'i=0; until wget -q -O - http://10.8.0.9/index.html; do i=$((i+1)); [ $i = 20 ] && break; sleep 0.2; done')" page
	is "another network in it" "$(stack container run --rm --network two box cat /sys/class/net/eth0/operstate)" up
	stack container rm -f srv >/dev/null
	stack network rm one >/dev/null
	is "a VLAN that is used stays" "$(ls /sys/class/net | grep -c '^lan0\.50$')" 1
	stack network rm two >/dev/null
	is "a VLAN goes with its networks" "$(ls /sys/class/net | grep -c '^lan0\.50$')" 0
	ip link add link lan0 name lan0.60 type vlan id 60 && ip link set lan0.60 up
	stack network create -d macvlan -o parent=lan0.60 --subnet 10.8.0.0/24 one >/dev/null
	is "a VLAN that is there" "$(stack container run --rm --network one box cat /sys/class/net/eth0/operstate)" up
	stack network rm one >/dev/null
	is "it stays" "$(ls /sys/class/net | grep -c '^lan0\.60$')" 1
	ip link del lan0
}

project() {
	mkdir -p /app
	cd /app
	cat >compose.yaml <<-'Y'
		services:
		  web:
		    image: box
		    command: sh -c 'echo page >/tmp/index.html; httpd -f -p 80 -h /tmp'
		    init: true
		    restart: always
		    ports: ["8080:80"]
		    healthcheck: {test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/index.html"], interval: 5s}
		  writer:
		    image: box
		    command: sh -c 'n=$$(cat /data/n 2>/dev/null || echo 0); while :; do n=$$((n+1)); echo $$n >/data/new; sync /data/new; mv /data/new /data/n; sync /data; done'
		    init: true
		    restart: always
		    volumes: [data:/data]
		    depends_on: {web: {condition: service_healthy}}
		volumes: {data: {}}
	Y
	stack --progress plain up -d --wait
	is up $? 0
	has "names" "$(stack exec -T writer nslookup web 127.0.0.11)" "Name:"
	is "a published port" "$(wget -q -O - http://127.0.0.1:8080/index.html)" page
	kill -9 $(cat /run/stack/projects/app/supervisor.pid)
	is "after a kill of the supervisor" "$(stack ps -q | wc -l)" 2
}

check() {
	stack system check
	is "the store" $? 0
}

# everything is what must hold whenever the machine has been started again.
everything() {
	stack system check
	is "boot $boot: the store" $? 0
	# The copy of a container's state in final.json is not flushed while it runs: one
	# that the power took counts as that of a container which was never started. A
	# lower.json that it took is written again from the image.
	for r in $(find /var/lib/stack -name '*.json' -not -name final.json -not -name lower.json -not -path '*/upper/*' -not -path '*/layers/*' -not -path '*/_data/*'); do
		# A record is complete, the old one or the new one; it may be removed meanwhile.
		case $(tail -c 2 "$r" 2>/dev/null | tr -d '\n') in
		*"}" | *"]" | "") [ -s "$r" ] || [ ! -e "$r" ] || say "not ok boot $boot: $r is empty" ;;
		*) say "not ok boot $boot: $r is cut" ;;
		esac
	done
	for c in $(stack container ls -a -q); do
		out=$(stack container diff $c 2>&1 >/dev/null)
		is "boot $boot: changes of $c" "$out" ""
	done
	stack system resume
	is "boot $boot: resume" $? 0
	for list in "ls --all" "container ls --all" "image ls" "volume ls" "network ls"; do
		out=$(stack $list 2>&1)
		is "boot $boot: $list${out:+ }" $? 0
	done
	cd /app
	stack --progress plain up -d
	is "boot $boot: up" $? 0
	for i in $(seq 30); do
		[ "$(stack ps -q | wc -l)" = 2 ] && break
		sleep 1
	done
	is "boot $boot: what runs" "$(stack ps -q | wc -l)" 2
	is "boot $boot: a published port" "$(wget -q -O - http://127.0.0.1:8080/index.html)" page
}

# nothing is what is left after down: one link, no control group, no overlay.
nothing() {
	cd /app
	stack --progress plain down -v
	is "boot $boot: down" $? 0
	is "boot $boot: containers that are left" "$(stack container ls -a -q | wc -l)" 0
	is "boot $boot: volumes that are left" "$(stack volume ls -q | wc -l)" 0
	is "boot $boot: files that are left" "$(find /var/lib/stack/containers /var/lib/stack/containers-rw /var/lib/stack/networks /var/lib/stack/names /var/lib/stack/projects -type f 2>/dev/null | head -5 | tr '\n' ' ')" ""
	is "boot $boot: logs that are left" "$(ls /var/lib/stack/logs 2>/dev/null | wc -l)" 0
	for i in $(seq 5); do [ "$(find /sys/fs/cgroup -name 'stack*' | wc -l)" = 0 ] && break; sleep 1; done
	is "boot $boot: control groups that are left" "$(find /sys/fs/cgroup -name 'stack*' | wc -l)" 0
	is "boot $boot: links that are left" "$(ls /sys/class/net | wc -l)" 1
	is "boot $boot: overlays that are left" "$(grep -c ' overlay ' /proc/mounts)" 0
}

# work writes without end what the power may go away from.
work() {
	n=0
	while :; do
		n=$((n + 1))
		case $(((n + boot) % 4)) in
		0)
			stack --progress plain up -d --force-recreate
			stack --progress plain down
			;;
		1)
			printf 'FROM box\nRUN echo %s.%s > /round && head -c 300000 /dev/urandom > /random\n' "$boot" "$n" >/build/Dockerfile
			stack --progress plain image build -q -t built /build
			;;
		2)
			stack --progress plain up -d
			stack --progress plain restart -t 1
			;;
		3)
			stack image pull -q 127.0.0.1:5000/box:1
			stack image rm 127.0.0.1:5000/box:1
			;;
		esac >/dev/null 2>&1
	done
}

# scarce tries inotify's limits, which are the whole kernel's.
scarce() {
	cd /app
	for f in max_user_instances max_user_watches; do
		was=$(cat /proc/sys/fs/inotify/$f)
		echo 0 >/proc/sys/fs/inotify/$f
		for verb in "ps" "logs --tail 1" "up -d" "restart -t 1 web" "up -d --force-recreate"; do
			out=$(timeout 60 stack --progress plain $verb 2>&1)
			code=$?
			case $code:$out in
			0:* | *inotify* | *"too many open files"* | *"no space left on device"*) say "ok without $f: $verb: exit $code" ;;
			*) say "not ok without $f: $verb: exit $code: $(echo "$out" | tail -n 2 | tr '\n' ' ')" ;;
			esac
		done
		echo "$was" >/proc/sys/fs/inotify/$f
		stack --progress plain up -d
		is "with $f again: up" $? 0
	done
}

# jobs is a project of jobs alone. What tick leaves is flushed.
jobs() {
	mkdir -p /app /var/lib/stack/ticks
	cd /app
	cat >compose.yaml <<-'Y'
		jobs:
		  tick:
		    image: box
		    command: sh -c 'echo tick >>/ticks/all; sync /ticks/all'
		    volumes: ["/var/lib/stack/ticks:/ticks"]
		    triggers: {schedule: [{cron: "* * * * *", timezone: Europe/Paris}]}
		  long:
		    image: box
		    command: sleep 100000
		    triggers: {schedule: ["* * * * *"]}
	Y
}

# ticked waits for that many ticks.
ticked() {
	for i in $(seq 300); do
		[ "$(cat /var/lib/stack/ticks/all 2>/dev/null | wc -l)" -ge "$1" ] && break
		sleep 1
	done
	[ "$(wc -l </var/lib/stack/ticks/all)" -ge "$1" ]
	is "$1 runs of a job" $? 0
}

boot=$(sed -n 's/.*boot=\([0-9]*\).*/\1/p' /proc/cmdline)
case $(cat /proc/cmdline) in
*stage=cut*)
	mkdir -p /build /app /var/lib/stack/registry
	printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/stack/registry}}\nhttp: {addr: "127.0.0.1:5000"}\n' >/registry.yml
	OTEL_TRACES_EXPORTER=none registry serve /registry.yml >/dev/null 2>&1 &
	if [ "$boot" = 0 ]; then
		stack image import /img.tar box --change 'CMD ["sh"]'
		stack image tag box 127.0.0.1:5000/box:1
		for i in $(seq 30); do stack image push -q 127.0.0.1:5000/box:1 && break; sleep 1; done
		is "push" $? 0
		project
		scarce
	else
		cat >/app/compose.yaml </var/lib/stack/compose.yaml
		everything
		case $((boot % 5)) in 0) nothing ;; esac
	fi
	cp /app/compose.yaml /var/lib/stack/compose.yaml
	sync /var/lib/stack/compose.yaml
	say "at work" # the power goes off soon
	work
	;;
*stage=first*)
	limits
	storage
	usernamespaces
	ipvlans
	vlans
	project
	check
	stack ps
	cat /var/lib/stack/volumes/app_data/_data/n
	echo "stage done" # the power goes off now, or while the writer goes on
	sleep 1000
	;;
*stage=jobs1*)
	jobs
	stack image import /img.tar box --change 'CMD ["sh"]'
	stack --progress plain up -d
	is "up of jobs" $? 0
	ticked 1
	for i in $(seq 60); do # until it is known how it ended, and the other one runs
		known=$(stack jobs --history --format '{{.Job}} {{.Status}}' | sort -u | tr '\n' ' ')
		case $known in *"long running"*"tick exited (0)"*) break ;; esac
		sleep 1
	done
	has "how a job ended" "$known" "tick exited (0)"
	has "that another one runs" "$known" "long running"
	echo "stage done"
	sleep 1000
	;;
*stage=jobs2*)
	jobs
	is "nothing runs before resume" "$(ls /run/stack/projects 2>/dev/null | wc -l)" 0
	n=$(wc -l </var/lib/stack/ticks/all)
	stack system resume
	is resume $? 0
	ticked $((n + 2))
	stack stop -t 1
	is stop $? 0
	is "they are not scheduled any more" "$(stack jobs | grep -c 'not scheduled')" 2
	is "due times with two runs" "$(stack jobs --history --format '{{.Job}} {{.Due}}' | sort | uniq -d)" ""
	is "each run is known" "$(stack jobs --history --format '{{.Job}} {{.Status}}' | grep -c 'tick exited (0)')" "$(wc -l </var/lib/stack/ticks/all)"
	is "what ran when the power failed" "$(stack jobs --history long --format '{{.Status}}' | grep -c 'running')" 0
	stack --progress plain down
	is down $? 0
	is "what is left of the project" "$(ls /var/lib/stack/projects /run/stack/projects 2>/dev/null | grep -c app)" 0
	stack jobs --history
	echo "stage done"
	poweroff -f
	;;
*stage=second*)
	check
	is "nothing runs before resume" "$(ls /run/stack/projects 2>/dev/null | wc -l)" 0
	stack system resume
	is resume $? 0
	for i in $(seq 30); do # what depends on a healthy service comes later
		[ "$(stack -p app ps -q | wc -l)" = 2 ] && break
		sleep 1
	done
	is "what ran runs again" "$(stack -p app ps -q | wc -l)" 2
	is "its port too" "$(wget -q -O - http://127.0.0.1:8080/index.html)" page
	n=$(cat /var/lib/stack/volumes/app_data/_data/n)
	is "its data" "$([ "$n" -gt 0 ] && echo there)" there
	stack -p app --progress plain down -v
	is down $? 0
	is "control groups that are left" "$(find /sys/fs/cgroup -name 'stack*' | wc -l)" 0
	is "links that are left" "$(ls /sys/class/net | wc -l)" 1
	is "overlays that are left" "$(grep -c ' overlay ' /proc/mounts)" 0
	check
	echo "stage done"
	poweroff -f
	;;
esac
sleep 1000
