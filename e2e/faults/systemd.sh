# Boots systemd of the machine's own Debian as process 1 of new namespaces, on an
# overlay of the machine's root: systemd.sh DIRECTORY STAGE. The directory has the
# files that are added to the root in "add".
set -eu
dir=$1 root=$1/tmp/root

outside() {
	mkdir -p "$dir/tmp"
	mount -t tmpfs tmpfs "$dir/tmp"
	mkdir "$dir/tmp/upper" "$dir/tmp/work" "$root"
	mount -t overlay -o "lowerdir=/,upperdir=$dir/tmp/upper,workdir=$dir/tmp/work" overlay "$root"
	cp -a "$dir/add/." "$root/"
	for group in /sys/fs/cgroup /sys/fs/cgroup/*; do
		[ -e "$group/cgroup.procs" ] || continue
		mkdir -p "$group/machine"
		for f in cpuset.cpus cpuset.mems; do
			if [ -e "$group/machine/$f" ]; then cat "$group/$f" >"$group/machine/$f" 2>/dev/null || :; fi
		done
		echo $$ >"$group/machine/cgroup.procs"
	done
	exec unshare --cgroup --mount --pid --fork --kill-child sh "$0" "$dir" inside
}

inside() {
	mount --make-rprivate /
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	if [ -e /sys/fs/cgroup/cgroup.procs ]; then
		mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
	else
		mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
		while IFS=: read -r _ controllers _; do
			name=${controllers#name=}
			mkdir -p "$root/sys/fs/cgroup/${name:-unified}"
			if [ -n "$name" ]; then
				mount -t cgroup -o "$controllers" cgroup "$root/sys/fs/cgroup/$name"
			else
				mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
			fi
		done </proc/self/cgroup
	fi
	mount -t tmpfs -o mode=755 tmpfs "$root/dev"
	for d in null zero full random urandom tty; do
		touch "$root/dev/$d"
		mount --bind "/dev/$d" "$root/dev/$d"
	done
	mkdir "$root/dev/pts" "$root/dev/shm"
	mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
	ln -s pts/ptmx "$root/dev/ptmx"
	ln -s /proc/self/fd "$root/dev/fd"
	for d in run var/lib/stack dev/shm; do
		mkdir -p "$root/$d"
		mount -t tmpfs -o mode=755 tmpfs "$root/$d"
	done
	exec chroot "$root" env -i container=other PATH="$PATH" /lib/systemd/systemd --unit=check.target --show-status=0
}

$2
